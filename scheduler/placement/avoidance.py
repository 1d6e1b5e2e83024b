"""Keeps a job away from the device that failed under it, as long as another device fits. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from scheduler.placement.slots import DeviceView, fits
from shared.jobs.dispatch import Queue, Waiting


def avoided(queue: Queue, devices: Sequence[DeviceView]) -> tuple[Queue, tuple[DeviceView, ...]]:
    """Return the queue and the devices so marked that `fits` refuses a job the device that it should avoid."""
    if all(job.avoid_device is None for job in queue.waiting):
        return queue, tuple(devices)
    waiting = tuple(_with_choice(job, devices) for job in queue.waiting)
    keys = {job.avoid_device for job in waiting}
    marked = (replace(device, avoided_as=device.key) if device.key in keys else device for device in devices)
    return replace(queue, waiting=waiting), tuple(marked)


def _with_choice(job: Waiting, devices: Sequence[DeviceView]) -> Waiting:
    """Return the job without a device to avoid if it is a placeholder or no other device fits."""
    if job.avoid_device is None:
        return job
    choice = not job.mock and any(device.key != job.avoid_device and fits(job, device) for device in devices)
    return job if choice else job._replace(avoid_device=None)
