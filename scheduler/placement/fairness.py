"""The fair start of each job, from simulations of first-in-first-out order, and the deadline that follows from it.

A simulation has the same devices, each with room for one loaded model, and serves jobs strictly in order of arrival.
One simulation serves all jobs. If several owners have jobs waiting, each owner has one more that serves only its jobs,
once the running jobs have ended, and is as many times slower as there are owners. A job's fair start is the earlier of
the two, so that a thousand jobs of one owner do not delay another owner's job. Each new job costs one or two additions.
After a restart the simulations are rebuilt from the waiting jobs.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shared.forecast.slots import DeviceView, Estimates, Slot, Slots
from shared.jobs.dispatch import Queue, Waiting

# No job should wait for more than twice its fair wait. The factor is lower, because real durations vary.
_DEADLINE_FACTOR = 1.75


@dataclass(frozen=True)
class _Share:
    """The simulation of one owner, and when a job that ran at its start first leaves a device free."""

    slots: Slots
    free_at: float

    def wait(self, job: Waiting, owners: int, estimates: Estimates) -> float:
        """Return the seconds until the job starts if its owner has one of `owners` equal shares."""
        alone = _wait(self.slots, job, estimates)
        for_all = min(alone, max(0.0, self.free_at - job.queued_at))
        return for_all + owners * (alone - for_all) if alone < math.inf else alone


class FairStarts:
    """Remembers the deadline of each waiting job."""

    def __init__(self) -> None:
        self._slots = Slots(())
        self._devices: frozenset[str] = frozenset()
        self._shares: dict[str | None, _Share] = {}
        self._deadlines: dict[str, float] = {}

    def observe(self, queue: Queue, devices: Sequence[DeviceView], estimates: Estimates) -> dict[str, float]:
        """Add new arrivals. Return the deadline of each waiting job, in seconds by the database's clock."""
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
                self._deadlines[job.job_id] = job.queued_at + _DEADLINE_FACTOR * wait
        return self._deadlines

    def _begin_shares(
        self, owners: Collection[str | None], queue: Queue, devices: Sequence[DeviceView], estimates: Estimates
    ) -> None:
        """Start the simulations of these owners with their waiting jobs."""
        real = _real(queue, devices, estimates)
        first = real.soonest()
        for owner in owners:
            self._shares[owner] = _Share(real.copy(), 0.0 if first is None else first.free_at)
        for job in sorted(queue.waiting, key=lambda job: (job.queued_at, job.job_id)):
            if job.owner in owners and job.job_id in self._deadlines:
                _serve(self._shares[job.owner].slots, job, estimates)


def _wait(slots: Slots, job: Waiting, estimates: Estimates) -> float:
    """Return the seconds until the job starts in this simulation; infinite if no device can run it."""
    start = _serve(slots, job, estimates)
    return math.inf if start is None else max(0.0, start - job.queued_at)


def _serve(slots: Slots, job: Waiting, estimates: Estimates) -> float | None:
    """Add the job to this simulation. Return when it starts; None if no device can run it."""
    slot = slots.soonest_for(job)
    if slot is None:
        return None
    start = max(slot.free_at, job.queued_at)
    slots.replace(slot, slot._replace(free_at=start).after(job, estimates))
    return start


def _real(queue: Queue, devices: Sequence[DeviceView], estimates: Estimates) -> Slots:
    """Return a simulation in the installation's present state, in which no job waits."""
    busy = {job.device_key: job for job in queue.busy}
    slots = []
    for device in devices:
        running = busy.get(device.key)
        if running is None:
            slots.append(Slot(0.0, device.key, device, frozenset(sorted(device.warm)[:1])))
        else:
            load = 0.0 if running.model_cache_key in device.warm else estimates.load(running.model_cache_key)
            ends = running.claimed_at + load + estimates.run(running.timing_key, running.work, running.volume)
            slots.append(Slot(max(ends, queue.now), device.key, device, frozenset((running.model_cache_key,))))
    return Slots(slots)
