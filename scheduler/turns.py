"""When would each job's turn have come under plain first-in-first-out? Its deadline follows from that.

A shadow of the installation is kept in memory: the same devices, each with room for one warm model, serving strictly in
order of arrival. It costs one addition for each new job. After a restart it is built anew from the jobs that wait.
"""

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


class FairTurns:
    """Remembers the fair turn of every waiting job that it has seen."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}
        self._deadlines: dict[str, float] = {}

    def observe(self, queue: Queue, devices: Sequence[DeviceView], estimates: Estimates) -> dict[str, float]:
        """Takes in new arrivals; returns each waiting job's deadline in seconds by the database's clock."""
        waiting = {job.job_id for job in queue.waiting}
        self._deadlines = {job: deadline for job, deadline in self._deadlines.items() if job in waiting}
        if not self._deadlines or set(self._lanes) != {device.key for device in devices}:
            self._lanes = _real(queue, devices, estimates)
        for job in sorted(queue.waiting, key=lambda job: (job.queued_at, job.job_id)):
            if job.job_id not in self._deadlines:
                start = self._serve(job, estimates)
                if start is not None:
                    self._deadlines[job.job_id] = job.queued_at + _AIM * max(0.0, start - job.queued_at)
        return self._deadlines

    def _serve(self, job: Waiting, estimates: Estimates) -> float | None:
        lanes = [lane for lane in self._lanes.values() if fits(job, lane.device)]
        if not lanes:
            return None
        lane = min(lanes, key=lambda lane: (max(lane.free_at, job.queued_at), lane.device.key))
        start = max(lane.free_at, job.queued_at)
        load = 0.0 if job.mock or lane.warm == job.warm_key else estimates.load(job.warm_key)
        lane.free_at = start + load + (1.0 if job.mock else estimates.run(job.warm_key, job.work))
        lane.warm = lane.warm if job.mock else job.warm_key
        return start


def _real(queue: Queue, devices: Sequence[DeviceView], estimates: Estimates) -> dict[str, _Lane]:
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
