"""Decides which running `low` job gives its device to a `critical` one for which no device is free soon. Pure.

By the submitted priorities, not by the ranks that rise with waiting: otherwise two jobs could take a device from each
other in turn.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from scheduler.placement.devices import Assignment, Moment, reported_end, slot_of
from shared.catalogue.job_types import GENERATION
from shared.forecast.slots import DeviceView, fits
from shared.jobs.checkpoints import MOST_PREEMPTIONS, PREEMPT
from shared.jobs.dispatch import Busy, Queue, Waiting
from shared.states import Priority

_CRITICAL, _LOW = Priority.CRITICAL.rank, Priority.LOW.rank  # a pass compares them with every job that it reads


@dataclass(frozen=True)
class Preemption:
    """The running job `victim` gives its device to the waiting one."""

    job_id: str
    device_key: str
    victim: Busy

    @property
    def assignment(self) -> Assignment:
        return Assignment(self.job_id, self.device_key)


def choose(moment: Moment, wait_seconds: float) -> Iterator[Preemption]:
    """Yield a device for each critical job that would wait for longer than `wait_seconds`.

    The victim is the job that loses the least: the one with the latest checkpoint, or that began last.
    """
    queue, now = moment.queue, moment.queue.now
    busy = {job.device_key: job for job in queue.busy}
    waiting = [job for job in queue.waiting if _is_critical(job) and job.not_before <= now]
    taken = {job.dispatched_to for job in waiting if job.dispatched_to is not None}
    for job in sorted(waiting, key=lambda job: (job.queued_at, job.job_id)):
        there = busy.get(job.dispatched_to or "")
        if there is not None and there.requested_action is not None:
            continue  # it gets that device next
        devices = [
            device
            for device in moment.devices
            if fits(job, device) and (device.key == job.dispatched_to or device.key not in taken)
        ]
        idle = next((device for device in devices if device.key not in busy), None)
        if idle is not None:
            taken.add(idle.key)
            continue
        if not _waits_long(job, devices, busy, moment, wait_seconds):
            continue
        victims = [busy[device.key] for device in devices if _may_be_preempted(busy[device.key])]
        victim = max(victims, key=lambda one: (max(one.claimed_at, one.checkpoint_at or 0.0), one.job_id), default=None)
        if victim is not None:
            taken.discard(job.dispatched_to)
            taken.add(victim.device_key)
            yield Preemption(job.job_id, victim.device_key, victim)


def applied(queue: Queue, chosen: list[Preemption]) -> Queue:
    """Return the queue as it is once the jobs are dispatched to the devices that were chosen for them."""
    at = {one.job_id: one.device_key for one in chosen}
    keys = set(at.values())
    victims = {one.victim.job_id for one in chosen}

    def placed(job: Waiting) -> Waiting:
        if job.job_id in at:
            return job._replace(dispatched_to=at[job.job_id], dispatched_at=queue.now)
        return job._replace(dispatched_to=None, dispatched_at=None) if job.dispatched_to in keys else job

    busy = tuple(job._replace(requested_action=PREEMPT) if job.job_id in victims else job for job in queue.busy)
    return replace(queue, waiting=tuple(placed(job) for job in queue.waiting), busy=busy)


def _is_critical(job: Waiting) -> bool:
    return job.type == GENERATION and job.priority == _CRITICAL and job.devices == 1


def _may_be_preempted(job: Busy) -> bool:
    return (
        job.type == GENERATION
        and job.priority == _LOW
        and job.devices == 1
        and job.requested_action is None
        and job.preempted < MOST_PREEMPTIONS
    )


def _waits_long(
    job: Waiting, devices: list[DeviceView], busy: dict[str, Busy], moment: Moment, wait_seconds: float
) -> bool:
    """Return whether the job has waited for so long, or no device is expected to be free within that time.

    A running job that is over its estimate by more says nothing about when it ends, unless it reports that itself.
    """
    now = moment.queue.now
    if now - max(job.queued_at, job.not_before) > wait_seconds:
        return True
    for device in devices:
        running = busy[device.key]
        left = running.claimed_at + moment.estimates.run(running.timing_key, running.work, running.volume) - now
        is_known = left > -wait_seconds or reported_end(running, moment) is not None
        if is_known and slot_of(device, running, moment).free_at - now <= wait_seconds:
            return False
    return True
