"""Keeps a job away from the device that failed under it, as long as another device fits, and for a while near to its
checkpoint. Pure.
"""

from collections.abc import Sequence
from dataclasses import replace

from shared.forecast.slots import DeviceView, fits
from shared.jobs.dispatch import Queue, Waiting

# How long after its return to the queue a job waits for a device of the node that has its checkpoint.
_NEAR_SECONDS = 60.0


def avoided(queue: Queue, devices: Sequence[DeviceView]) -> tuple[Queue, tuple[DeviceView, ...]]:
    """Return the queue and the devices so marked that `fits` refuses a job the device that it should avoid."""
    if all(job.avoid_device is None for job in queue.waiting):
        return queue, tuple(devices)
    waiting = tuple(_with_choice(job, devices) for job in queue.waiting)
    keys = {job.avoid_device for job in waiting}
    marked = (replace(device, avoided_as=device.key) if device.key in keys else device for device in devices)
    return replace(queue, waiting=waiting), tuple(marked)


def kept_near(queue: Queue, devices: Sequence[DeviceView]) -> tuple[Queue, tuple[DeviceView, ...]]:
    """Return the queue and the devices so marked that `fits` refuses a job the nodes without its checkpoint.

    Only for a minute after the job's return to the queue, and only if a device of that node fits.
    """
    if all(job.checkpoint_node is None for job in queue.waiting):
        return queue, tuple(devices)
    waiting = tuple(_with_checkpoint(job, devices, queue.now) for job in queue.waiting)
    if all(job.checkpoint_node is None for job in waiting):
        return replace(queue, waiting=waiting), tuple(devices)
    return replace(queue, waiting=waiting), tuple(replace(device, near_to=device.node) for device in devices)


def _with_checkpoint(job: Waiting, devices: Sequence[DeviceView], now: float) -> Waiting:
    if job.checkpoint_node is None:
        return job
    soon = now - job.not_before < _NEAR_SECONDS
    near = soon and any(device.node == job.checkpoint_node and fits(job, device) for device in devices)
    return job if near else job._replace(checkpoint_node=None)


def _with_choice(job: Waiting, devices: Sequence[DeviceView]) -> Waiting:
    """Return the job without a device to avoid if it is a placeholder or no other device fits."""
    if job.avoid_device is None:
        return job
    choice = not job.mock and any(device.key != job.avoid_device and fits(job, device) for device in devices)
    return job if choice else job._replace(avoid_device=None)
