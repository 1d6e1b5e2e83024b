"""Shares the memory of a host among its devices. Pure.

A job fits a device only if its weights fit the host beside those of the jobs on the host's other devices. Weights that
an idle device keeps loaded give way: the dispatcher asks it to release them.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from scheduler.placement.devices import Assignment
from shared.forecast.slots import DeviceView, host_memory
from shared.jobs.dispatch import Busy, Queue, Waiting


def shared(queue: Queue, devices: Sequence[DeviceView]) -> tuple[DeviceView, ...]:
    """Return the devices with what their hosts have left for each: all but what jobs on the other devices take."""
    taken = _taken(queue, devices)
    of_node: dict[str, int] = defaultdict(int)
    for device in devices:
        of_node[device.node] += taken.get(device.key, 0)
    return tuple(
        device
        if device.host_mb is None or of_node[device.node] == 0
        else replace(device, host_mb=max(0, device.host_mb - of_node[device.node] + taken.get(device.key, 0)))
        for device in devices
    )


def within_hosts(decided: Iterable[Assignment], queue: Queue, devices: Sequence[DeviceView]) -> Iterator[Assignment]:
    """Yield the assignments that fit their hosts together. The others are decided again in the next pass."""
    by_key = {device.key: device for device in devices}
    jobs = {job.job_id: job for job in queue.waiting}
    left: dict[str, int] = {}
    busy = _taken(queue, devices)
    for assignment in decided:
        device = by_key[assignment.device_key]
        if device.host_mb is not None:
            need = host_memory(jobs[assignment.job_id], device) or 0
            if device.node not in left:
                others = (busy.get(key, 0) for key, one in by_key.items() if one.node == device.node)
                left[device.node] = device.host_mb - sum(others)
            # What runs on this device now ends before the job starts.
            need = max(0, need - busy.get(device.key, 0))
            if need > left[device.node]:
                continue
            left[device.node] -= need
        yield assignment


def in_the_way(
    assignments: Sequence[Assignment], queue: Queue, devices: Sequence[DeviceView], loaded_mb: Mapping[str, int]
) -> list[str]:
    """Return the keys of idle devices that must release what they have loaded, so that the assigned jobs can start.

    `loaded_mb`: the host memory that the models loaded on each device take.
    """
    by_key = {device.key: device for device in devices}
    jobs = {job.job_id: job for job in queue.waiting}
    taken = _taken(queue, devices)
    for assignment in assignments:
        need = host_memory(jobs[assignment.job_id], by_key[assignment.device_key]) or 0
        taken[assignment.device_key] = max(need, taken.get(assignment.device_key, 0))
    found = []
    for node in {by_key[assignment.device_key].node for assignment in assignments}:
        here = [device for device in devices if device.node == node]
        total = here[0].host_mb
        if total is None:
            continue
        used = sum(taken.get(device.key, 0) or loaded_mb.get(device.key, 0) for device in here)
        idle = sorted(
            (device.key for device in here if device.key not in taken and loaded_mb.get(device.key)),
            key=lambda key: -loaded_mb[key],
        )
        for key in idle:
            if used <= total:
                break
            found.append(key)
            used -= loaded_mb[key]
    return found


def _taken(queue: Queue, devices: Sequence[DeviceView]) -> dict[str, int]:
    """Return the host memory that the job on each device takes: the running one, or one that is dispatched to it."""
    by_key = {device.key: device for device in devices}
    there: list[tuple[str | None, Busy | Waiting]] = [(job.device_key, job) for job in queue.busy]
    there += [(job.dispatched_to, job) for job in queue.waiting if job.dispatched_to is not None]
    found: dict[str, int] = {}
    for key, job in there:
        if key is not None and (device := by_key.get(key)) is not None:
            found[key] = max(found.get(key, 0), host_memory(job, device) or 0)
    return found
