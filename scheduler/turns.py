"""When would each job's turn have come, had everybody been served in order and the owners alike? Its deadline follows.

Shadows of the installation are kept in memory: the same devices, each with room for one warm model, serving strictly in
order of arrival. One serves everybody. Where several owners wait, each has one more that, once what runs has ended,
serves it alone, as often slower as there are owners: a share of the whole. A job's fair turn is the earlier of the two,
so that a thousand jobs of one owner hold up nobody else's one. It costs an addition or two for each new job. After a
restart all is built anew from the jobs that wait.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.placement import DeviceView, Estimates, fits
from shared.bells import Queue, Waiting

# Nobody is to wait for more than twice their turn. The aim is lower, since real durations vary about their estimates.
_AIM = 1.75


@dataclass
class _Lane:
    """One device of the shadow."""

    device: DeviceView
    free_at: float
    warm: str | None


_Lanes = dict[str, _Lane]
"""A shadow: by device."""


@dataclass(frozen=True)
class _Share:
    """The shadow that serves one owner alone, and when what ran at its beginning has first left a device free."""

    lanes: _Lanes
    free_at: float

    def wait(self, job: Waiting, owners: int, estimates: Estimates) -> float:
        """Seconds until the job's turn comes in a share of one in so many."""
        alone = _wait(self.lanes, job, estimates)
        for_all = min(alone, max(0.0, self.free_at - job.queued_at))
        return for_all + owners * (alone - for_all) if alone < math.inf else alone


class FairTurns:
    """Remembers the fair turn of every waiting job that it has seen."""

    def __init__(self) -> None:
        self._lanes: _Lanes = {}
        self._shares: dict[str | None, _Share] = {}
        self._deadlines: dict[str, float] = {}

    def observe(self, queue: Queue, devices: Sequence[DeviceView], estimates: Estimates) -> dict[str, float]:
        """Takes in new arrivals; returns each waiting job's deadline in seconds by the database's clock."""
        waiting = {job.job_id for job in queue.waiting}
        self._deadlines = {job: deadline for job, deadline in self._deadlines.items() if job in waiting}
        if not self._deadlines or set(self._lanes) != {device.key for device in devices}:
            self._lanes, self._shares = _real(queue, devices, estimates), {}
        arrived = sorted(queue.waiting, key=lambda job: (job.queued_at, job.job_id))
        owners = {job.owner for job in arrived}
        self._shares = {owner: share for owner, share in self._shares.items() if owner in owners}
        if len(owners) > 1:
            for owner in owners - self._shares.keys():
                known = [job for job in arrived if job.owner == owner and job.job_id in self._deadlines]
                self._shares[owner] = _share(_real(queue, devices, estimates), known, estimates)
        for job in arrived:
            if job.job_id not in self._deadlines:
                wait = _wait(self._lanes, job, estimates)
                if job.owner in self._shares:
                    wait = min(wait, self._shares[job.owner].wait(job, len(owners), estimates))
                if wait < math.inf:
                    self._deadlines[job.job_id] = job.queued_at + _AIM * wait
        return self._deadlines


def _share(lanes: _Lanes, known: Sequence[Waiting], estimates: Estimates) -> _Share:
    """Of an owner that has these jobs waiting already."""
    share = _Share(lanes, min((lane.free_at for lane in lanes.values()), default=0.0))
    for job in known:
        _serve(lanes, job, estimates)
    return share


def _wait(lanes: _Lanes, job: Waiting, estimates: Estimates) -> float:
    """Seconds until its turn comes there; infinite where no device can carry it."""
    start = _serve(lanes, job, estimates)
    return math.inf if start is None else max(0.0, start - job.queued_at)


def _serve(lanes: _Lanes, job: Waiting, estimates: Estimates) -> float | None:
    """When the job starts in this shadow; what comes after it comes later by as much as it takes."""
    open_lanes = [lane for lane in lanes.values() if fits(job, lane.device)]
    if not open_lanes:
        return None
    lane = min(open_lanes, key=lambda lane: (max(lane.free_at, job.queued_at), lane.device.key))
    start = max(lane.free_at, job.queued_at)
    load = 0.0 if job.mock or lane.warm == job.warm_key else estimates.load(job.warm_key)
    lane.free_at = start + load + (1.0 if job.mock else estimates.run(job.warm_key, job.work))
    lane.warm = lane.warm if job.mock else job.warm_key
    return start


def _real(queue: Queue, devices: Sequence[DeviceView], estimates: Estimates) -> _Lanes:
    """The shadow as the installation stands: nobody waits, so first-in-first-out would stand there too."""
    busy = {job.device_key: job for job in queue.busy}
    lanes = {}
    for device in devices:
        running = busy.get(device.key)
        if running is None:
            lanes[device.key] = _Lane(device, 0.0, next(iter(sorted(device.warm)), None))
        else:
            load = 0.0 if running.warm_key in device.warm else estimates.load(running.warm_key)
            ends = running.claimed_at + load + estimates.run(running.warm_key, running.work)
            lanes[device.key] = _Lane(device, max(ends, queue.now), running.warm_key)
    return lanes
