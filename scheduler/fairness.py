"""When would each job's turn have come, had everybody been served in order and the owners alike? Its deadline follows.

Shadows of the installation are kept in memory: the same devices, each with room for one warm model, serving strictly in
order of arrival. One serves everybody. Where several owners wait, each has one more that, once what runs has ended,
serves it alone, as often slower as there are owners: a share of the whole. A job's fair turn is the earlier of the two,
so that a thousand jobs of one owner hold up nobody else's one. It costs an addition or two for each new job. After a
restart all is built anew from the jobs that wait.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from scheduler.slots import DeviceView, Estimates, Slot, Slots
from shared.jobs.dispatch import Queue, Waiting

# Nobody is to wait for more than twice their turn. The aim is lower, since real durations vary about their estimates.
_AIM = 1.75


@dataclass(frozen=True)
class _Share:
    """The shadow that serves one owner alone, and when what ran at its beginning has first left a device free."""

    slots: Slots
    free_at: float

    def wait(self, job: Waiting, owners: int, estimates: Estimates) -> float:
        """Seconds until the job's turn comes in a share of one in so many."""
        alone = _wait(self.slots, job, estimates)
        for_all = min(alone, max(0.0, self.free_at - job.queued_at))
        return for_all + owners * (alone - for_all) if alone < math.inf else alone


class FairStarts:
    """Remembers the fair turn of every waiting job that it has seen."""

    def __init__(self) -> None:
        self._slots = Slots(())
        self._devices: frozenset[str] = frozenset()
        self._shares: dict[str | None, _Share] = {}
        self._deadlines: dict[str, float] = {}

    def observe(self, queue: Queue, devices: Sequence[DeviceView], estimates: Estimates) -> dict[str, float]:
        """Takes in new arrivals; returns each waiting job's deadline in seconds by the database's clock."""
        known = self._deadlines
        self._deadlines = {job.job_id: known[job.job_id] for job in queue.waiting if job.job_id in known}
        keys = frozenset(device.key for device in devices)
        if not self._deadlines or self._devices != keys:
            self._slots, self._shares, self._devices = _real(queue, devices, estimates), {}, keys
        owners = {job.owner for job in queue.waiting}
        self._shares = {owner: share for owner, share in self._shares.items() if owner in owners}
        arrived = [job for job in queue.waiting if job.job_id not in self._deadlines]
        if not arrived:
            return self._deadlines
        arrived.sort(key=lambda job: (job.queued_at, job.job_id))
        if len(owners) > 1 and (new := owners - self._shares.keys()):
            self._begin_shares(new, queue, devices, estimates)
        for job in arrived:
            wait = _wait(self._slots, job, estimates)
            if job.owner in self._shares:
                wait = min(wait, self._shares[job.owner].wait(job, len(owners), estimates))
            if wait < math.inf:
                self._deadlines[job.job_id] = job.queued_at + _AIM * wait
        return self._deadlines

    def _begin_shares(
        self, owners: Collection[str | None], queue: Queue, devices: Sequence[DeviceView], estimates: Estimates
    ) -> None:
        """Begins the shadows of these owners with what they have waiting already."""
        real = _real(queue, devices, estimates)
        first = real.soonest()
        for owner in owners:
            self._shares[owner] = _Share(real.copy(), 0.0 if first is None else first.free_at)
        for job in sorted(queue.waiting, key=lambda job: (job.queued_at, job.job_id)):
            if job.owner in owners and job.job_id in self._deadlines:
                _serve(self._shares[job.owner].slots, job, estimates)


def _wait(slots: Slots, job: Waiting, estimates: Estimates) -> float:
    """Seconds until its turn comes there; infinite where no device can carry it."""
    start = _serve(slots, job, estimates)
    return math.inf if start is None else max(0.0, start - job.queued_at)


def _serve(slots: Slots, job: Waiting, estimates: Estimates) -> float | None:
    """When the job starts in this shadow; what comes after it comes later by as much as it takes."""
    slot = slots.soonest_for(job)
    if slot is None:
        return None
    start = max(slot.free_at, job.queued_at)
    slots.replace(slot, slot._replace(free_at=start).after(job, estimates))
    return start


def _real(queue: Queue, devices: Sequence[DeviceView], estimates: Estimates) -> Slots:
    """The shadow as the installation stands: nobody waits, so first-in-first-out would stand there too."""
    busy = {job.device_key: job for job in queue.busy}
    slots = []
    for device in devices:
        running = busy.get(device.key)
        if running is None:
            slots.append(Slot(0.0, device.key, device, frozenset(sorted(device.warm)[:1])))
        else:
            load = 0.0 if running.model_cache_key in device.warm else estimates.load(running.model_cache_key)
            ends = running.claimed_at + load + estimates.run(running.model_cache_key, running.work)
            slots.append(Slot(max(ends, queue.now), device.key, device, frozenset((running.model_cache_key,))))
    return Slots(slots)
