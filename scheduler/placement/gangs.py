"""Places jobs that run on several devices of a node at once (gangs) beside those that run on one. Pure.

All devices of a gang are taken in one decision or none is, so two gangs never wait for each other. A gang is due when
no job that comes before it in the queue's order still waits for one of its devices. The first due gang that finds too
few free devices holds those of one node that are free soonest: nothing else is placed on them until it starts. So a
stream of single jobs cannot keep it waiting, and since jobs before it go first, gangs cannot keep single jobs waiting.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from scheduler.placement import devices as singles
from scheduler.placement.devices import Assignment, Moment, gone, reported_end
from shared.forecast.order import in_order
from shared.forecast.slots import DeviceView, fits
from shared.jobs.claims.gangs import keys_of
from shared.jobs.dispatch import Busy, Queue, Waiting


def decide(moment: Moment) -> Iterator[Assignment]:
    """Yield the jobs to dispatch now: gangs first, then the others on the devices that are left."""
    if not (any(map(_is_gang, moment.queue.waiting)) or any(map(_is_gang, moment.queue.busy))):
        yield from singles.decide(moment)
        return
    state = _State(moment)
    yield from state.again()
    yield from state.place()
    yield from singles.decide(state.rest())


def enough(job: Waiting, fitting: Iterable[DeviceView]) -> bool:
    """Return whether one node has enough devices of one kind among these, which fit the job."""
    return bool(_teams(job, fitting))


def _is_gang(job: Waiting | Busy) -> bool:
    return job.devices > 1


def _teams(job: Waiting, fitting: Iterable[DeviceView]) -> list[list[DeviceView]]:
    """Return the devices that can run the job together, by node and kind of device, where there are enough."""
    teams: dict[tuple[str, str, int], list[DeviceView]] = defaultdict(list)
    for device in fitting:
        teams[device.node, device.kind, device.memory_mb].append(device)
    return [team for team in teams.values() if len(team) >= job.devices]


class _State:
    """Which devices are taken, reserved and held during one decision."""

    def __init__(self, moment: Moment) -> None:
        queue = moment.queue
        self._moment = moment
        self._devices = {device.key: device for device in moment.devices}
        self._running = {job.device_key: job for job in queue.busy}
        # Members of gangs: nothing is dispatched to them, not even in advance, because their workers would claim it.
        self._reserved = {key for job in queue.busy if _is_gang(job) for key in keys_of(job.members)}
        self._gangs = {job.job_id: job for job in queue.waiting if _is_gang(job) and self._is_dispatched(job)}
        for job in self._gangs.values():
            self._reserved.update(_keys(job))
        self._ahead = {
            job.dispatched_to: job
            for job in queue.waiting
            if not _is_gang(job) and job.dispatched_to is not None and job.dispatched_to in self._devices
        }
        self._held: set[str] = set()

    def again(self) -> Iterator[Assignment]:
        """Send the messages of gangs again that idle devices have not answered."""
        for job in self._gangs.values():
            idle = job.dispatched_to is not None and self._running.keys().isdisjoint(_keys(job))
            if idle and job.dispatched_to and gone(job, self._moment.queue.now, self._moment.redispatch_seconds):
                yield Assignment(job.job_id, job.dispatched_to, keys_of(job.members))

    def place(self) -> Iterator[Assignment]:
        """Place the due gangs on free devices, and hold devices for the first one that finds too few."""
        now = self._moment.queue.now
        waiting = [
            job
            for job in self._moment.queue.waiting
            if job.not_before <= now
            and job.job_id not in self._gangs
            and (_is_gang(job) or job.dispatched_to not in self._devices)
        ]
        served: list[Busy | Waiting] = [*self._moment.queue.busy, *self._gangs.values(), *self._ahead.values()]
        before: list[Waiting] = []  # jobs that go first and wait for a device
        for job in in_order(waiting, served, now):
            if not _is_gang(job):
                before.append(job)
                continue
            teams = _teams(job, (device for device in self._devices.values() if fits(job, device)))
            if not teams:
                continue
            ahead = [one for one in before if any(fits(one, device) for team in teams for device in team)]
            free = [self._free(team) for team in teams]
            chosen = self._chosen(job, free, spare=len(ahead))
            if chosen is not None:
                self._reserved.update(chosen)
                yield Assignment(job.job_id, chosen[0], tuple(chosen[1:]))
            elif not ahead and not self._held:
                self._held = self._soonest(job, teams)
        for key, one in self._ahead.items():
            lost = gone(one, now, self._moment.redispatch_seconds)
            if key in self._held and key not in self._running and lost:
                yield Assignment(one.job_id, key)

    def rest(self) -> Moment:
        """Return the moment of the single jobs: without gangs, and without the devices that gangs take or hold."""
        queue = self._moment.queue
        closed = self._reserved | self._held
        # What is dispatched to a held device stays there: it starts when the running job ends, and is the last.
        kept = {job.job_id for key, job in self._ahead.items() if key in closed}
        waiting = tuple(job for job in queue.waiting if not _is_gang(job) and job.job_id not in kept)
        devices = tuple(device for device in self._moment.devices if device.key not in closed)
        return replace(self._moment, queue=Queue(queue.now, waiting, queue.busy, queue.cuts), devices=devices)

    def _is_dispatched(self, job: Waiting) -> bool:
        """Return whether the gang is dispatched and all of its devices are there; else it is placed anew."""
        return job.dispatched_to is not None and all(key in self._devices for key in _keys(job))

    def _free(self, team: Sequence[DeviceView]) -> list[DeviceView]:
        taken = self._running.keys() | self._reserved | self._held | self._ahead.keys()
        return [device for device in team if device.key not in taken]

    def _chosen(self, job: Waiting, free: Sequence[list[DeviceView]], spare: int) -> list[str] | None:
        """Return the keys of free devices for the gang that leave `spare` others; the best first, which leads it."""
        if sum(map(len, free)) < job.devices + spare:
            return None
        able = [team for team in free if len(team) >= job.devices]
        if not able:
            return None
        smallest = min(able, key=lambda team: (-_warm(job, team), len(team), team[0].key))
        ordered = sorted(smallest, key=lambda device: (job.model_cache_key not in device.warm, device.key))
        return [device.key for device in ordered[: job.devices]]

    def _soonest(self, job: Waiting, teams: Sequence[Sequence[DeviceView]]) -> set[str]:
        """Return the keys of the devices of one team that are expected to be free together first."""
        options = []
        for team in teams:
            ordered = sorted((self._free_at(device), device.key) for device in team)[: job.devices]
            options.append((ordered[-1][0], sorted(key for _, key in ordered)))
        return set(min(options)[1])

    def _free_at(self, device: DeviceView) -> float:
        now, estimates = self._moment.queue.now, self._moment.estimates
        at = now
        gang = next((one for one in self._moment.queue.busy if device.key in keys_of(one.members)), None)
        running = self._running.get(device.key, gang)
        if running is not None:
            end = reported_end(running, self._moment)
            if end is None:
                end = running.claimed_at + estimates.run(running.timing_key, running.work, running.volume)
            at = max(now, end)
        if (ahead := self._ahead.get(device.key)) is not None:
            at += estimates.run(ahead.timing_key, ahead.work, ahead.volume)
        return at


def _keys(job: Waiting) -> tuple[str, ...]:
    return (job.dispatched_to or "", *keys_of(job.members))


def _warm(job: Waiting, team: Collection[DeviceView]) -> int:
    return sum(job.model_cache_key in device.warm for device in team)
