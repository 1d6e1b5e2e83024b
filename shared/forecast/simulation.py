"""Plays the queue forward over the devices: which job is expected to start when. A pure function.

It follows placement (`scheduler/placement/`) in what matters for the times: rank, which rises with waiting, fairness
between owners, loaded models, gangs, limits of owners, start times, windows and pauses. It leaves out preemption, host
memory that devices share, and what arrives later. So it is an estimate, whose error `tests/bench` measures.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, nsmallest
from typing import Literal

from shared.forecast.order import in_order
from shared.forecast.slots import DeviceView, Estimates, Slot, Slots, fits, need, shape
from shared.jobs.dispatch import Busy, Waiting, rank_of

# As placement lets a job wait for the sake of loaded models (`scheduler/placement/fairness.py`).
_DEADLINE_FACTOR = 1.75
# Ranks rise with waiting, so the order is made again after this time, so many times at most.
_ORDER_SECONDS, _ORDERS = 300.0, 24
# Two dispatched jobs are exchanged if the more urgent one gains so much (`scheduler/placement/devices.py`).
_EXCHANGED_SECONDS, _EXCHANGED_SHARE = 5.0, 0.1
_STEPS = 8_000  # bounds the cost, whatever the queue


Missing = Literal["generation", "loading"]
"""What has never been measured."""


@dataclass
class Place:
    """A device and when it is free. `missing`: what was not measured of the jobs before, so that this is unknown."""

    device: DeviceView
    free_at: float
    warm: frozenset[str]
    missing: Missing | None = None


@dataclass(frozen=True)
class Took:
    """How long a job runs and its model loads, and whether these have been measured."""

    run_seconds: float
    load_seconds: float
    known: bool
    load_known: bool = True
    beside_seconds: float = 0.0  # in which it is finished, while its device runs the next job

    def missing(self, cold: bool) -> Missing | None:
        """Return what is not known of its time on a device. `cold`: which must load its model."""
        if not self.known:
            return "generation"
        return "loading" if cold and not self.load_known else None


@dataclass(frozen=True)
class Expected:
    """When a job starts and ends, in seconds since 1970. None: unknown, because of what is `missing`."""

    start: float | None
    end: float | None
    missing: Missing | None = None


@dataclass(frozen=True)
class Situation:
    """What the simulation begins with."""

    now: float
    places: Sequence[Place]
    ready: Sequence[Waiting]  # may start now
    later: Sequence[tuple[float, Waiting]]  # may start from that moment on
    busy: Sequence[Busy]
    took: Callable[[Waiting], Took]
    estimates: Estimates  # the same by key, for the fair starts
    limits: Mapping[str, int] = field(default_factory=dict)  # jobs that each owner may run at once
    # Until when a job may not start at that moment, if it is outside its window.
    closed_until: Callable[[Waiting, float], float | None] = lambda job, at: None


def simulate(given: Situation) -> dict[str, Expected]:
    """Return what is expected of each job that some device can run, as far as the simulation goes."""
    return _Simulation(given).run()


class _Simulation:
    def __init__(self, given: Situation) -> None:
        self._given = given
        self._places = {place.device.key: place for place in given.places}
        self._free: list[tuple[float, str]] = []
        self._idle: dict[str, None] = {}  # devices for which there is no job now, in order
        self._later = [(at, job.job_id, job) for at, job in given.later]
        heapify(self._later)
        self._found: dict[str, Expected] = {}
        self._ready: dict[str, Waiting] = {}
        self._sent: dict[str, Waiting] = {}  # by the device to which they were dispatched
        self._lines: dict[tuple[Hashable, str], list[tuple[int, Waiting]]] = {}
        self._ranks: dict[str, int] = {}
        self._kinds = {key: shape(place.device) for key, place in self._places.items()}
        self._loaded = Counter(key for place in self._places.values() for key in place.warm)
        self._fits: dict[Hashable, dict[tuple[Hashable, str], bool]] = defaultdict(dict)
        ends = {place.device.key: place.free_at for place in given.places}
        self._running: list[tuple[float, Busy | Waiting]] = [
            (ends[busy.device_key], busy) for busy in given.busy if busy.device_key in ends
        ]
        self._ends: dict[str, list[float]] = defaultdict(list)
        self._deadlines: dict[str, float] = {}
        self._ordered_at, self._orders, self._steps = -math.inf, 0, 0

    def run(self) -> dict[str, Expected]:
        now = self._given.now
        for busy in self._given.busy:
            if busy.owner is not None and busy.device_key in self._places:
                self._ends[busy.owner].append(self._places[busy.device_key].free_at)
        sent = [job for job in self._given.ready if job.dispatched_to in self._places]
        for job in sorted(sent, key=lambda job: job.dispatched_at or 0.0):
            if job.devices == 1:
                self._sent[job.dispatched_to or ""] = job
                continue
            team = [key for key in (job.dispatched_to or "", *job.members.split()) if key in self._places]
            self._start(job, team, max(self._places[key].free_at for key in team))
        self._ready = {job.job_id: job for job in self._given.ready if job.job_id not in self._found}
        self._free = [(place.free_at, key) for key, place in self._places.items()]
        heapify(self._free)
        self._deadlines = self._fair_starts()
        self._order(now)
        while self._steps < _STEPS:
            if not (self._free or (self._idle and self._later)) or not (self._ready or self._later):
                break
            self._step()
        return self._found

    def _step(self) -> None:
        """Give the device that is free first its next job, or let the next jobs join whose time comes before."""
        self._steps += 1
        next_at = self._free[0][0] if self._free else math.inf
        if self._idle and self._later and self._later[0][0] <= next_at:
            self._wake(self._later[0][0])
            return
        at, key = self._free[0]
        if self._places[key].free_at != at:  # a gang has taken it
            heappop(self._free)
            return
        self._admit(at)
        if at - self._ordered_at >= _ORDER_SECONDS and self._orders < _ORDERS:
            self._order(at)
        job = self._sent_or_more_urgent(key, at)
        if job is None:
            heappop(self._free)
            self._idle[key] = None
            return
        team, start = ([key], at) if job.devices == 1 else self._team(job)
        start = max(start, at)  # an idle device has been free for longer
        self._take(job)
        if team:
            self._start(job, team, start)
            for member in team:
                heappush(self._free, (self._places[member].free_at, member))

    def _sent_or_more_urgent(self, key: str, at: float) -> Waiting | None:
        """Return the job that the device takes: the one that was sent to it, unless a more urgent one is put there."""
        sent = self._sent.pop(key, None)
        if sent is not None and sent.job_id not in self._ready:  # another device was free before, and has taken it
            sent = None
        if sent is not None and at <= self._given.now:
            return sent
        job = self._chosen(self._places[key], at)
        if sent is None or sent.job_id not in self._ready or job is None:  # it may be blocked
            return job
        if self._ranks[job.job_id] >= self._ranks[sent.job_id]:
            return sent
        other = next((self._places[key] for key, one in self._sent.items() if one is job), None)
        if other is None:
            return job
        until = other.free_at - _EXCHANGED_SECONDS - _EXCHANGED_SHARE * (other.free_at - self._given.now)
        return job if at < until else sent

    def _wake(self, at: float) -> None:
        """Let the jobs whose time has come join the others, and wake an idle device for each."""
        for job in self._admit(at):
            key = next((key for key in self._idle if fits(job, self._places[key].device)), None)
            if key is not None:
                del self._idle[key]
                self._places[key].free_at = max(self._places[key].free_at, at)
                heappush(self._free, (self._places[key].free_at, key))

    def _admit(self, at: float) -> list[Waiting]:
        """Let the jobs whose time has come join the others. Return them."""
        came = []
        while self._later and self._later[0][0] <= at:
            since, _, job = heappop(self._later)
            came.append(job._replace(queued_at=max(job.queued_at, since)))
        self._ready |= {job.job_id: job for job in came}
        if came and self._orders < _ORDERS:
            self._order(at)
        elif came:
            for job in came:  # behind the others, to bound the cost
                self._ranks[job.job_id] = rank_of(job, at)
                self._lines[need(job), job.model_cache_key].insert(0, (len(self._found) + len(self._ready), job))
        return came

    def _order(self, at: float) -> None:
        self._ordered_at = at
        self._orders += 1
        self._lines = defaultdict(list)
        self._running = [one for one in self._running if one[0] > at]
        for place, job in enumerate(in_order(self._ready.values(), [job for _, job in self._running], at)):
            self._ranks[job.job_id] = rank_of(job, at)
            self._lines[need(job), job.model_cache_key].append((place, job))
        for line in self._lines.values():
            line.reverse()  # the first job is taken from the end

    def _chosen(self, place: Place, at: float) -> Waiting | None:
        """Return the job that the device takes, much as placement chooses it."""
        while self._steps < _STEPS:
            self._steps += 1
            for line in self._lines.values():
                while line and line[-1][1].job_id not in self._ready:
                    line.pop()
            lines = [line for key, line in self._lines.items() if line and self._may_run(key, line, place.device)]
            if not lines:
                return None
            first = min(lines, key=lambda line: line[-1][0])
            head = first[-1][1]
            if head.devices > 1 or head.mock or head.model_cache_key in place.warm:
                chosen = head
            else:
                rank = self._ranks[head.job_id]
                peers = [line for line in lines if self._ranks[line[-1][1].job_id] == rank and line[-1][1].devices == 1]
                chosen = self._beside(head, peers, place, at)
            until = self._blocked_until(chosen, at)
            if until is None:
                return chosen
            self._take(chosen)
            if until < math.inf:
                heappush(self._later, (until, chosen.job_id, chosen))
        return None

    def _beside(self, head: Waiting, peers: Iterable[list[tuple[int, Waiting]]], place: Place, at: float) -> Waiting:
        """Return the first job whose model is loaded here or nowhere, if the first of all is not late for it."""
        for wanted in (
            [line for line in peers if line[-1][1].model_cache_key in place.warm],
            [line for line in peers if not self._loaded[line[-1][1].model_cache_key]],
        ):
            if not wanted:
                continue
            job = min(wanted, key=lambda line: line[-1][0])[-1][1]
            if job is head:
                return head
            took = self._given.took(job)
            here = at + took.run_seconds + (0.0 if job.model_cache_key in place.warm else took.load_seconds)
            others = [free_at for free_at, key in nsmallest(3, self._free) if key != place.device.key]
            if min([here, *others]) <= self._deadlines.get(head.job_id, math.inf):
                return job
        return head

    def _blocked_until(self, job: Waiting, at: float) -> float | None:
        """Return until when the job waits for its window or for its owner's limit; None: it may start."""
        if (closed := self._given.closed_until(job, at)) is not None:
            return closed
        limit = self._given.limits.get(job.owner or "")
        if limit is None:
            return None
        ends = sorted(end for end in self._ends[job.owner or ""] if end > at)
        if len(ends) < limit:
            return None
        return ends[len(ends) - limit] if limit > 0 else math.inf

    def _team(self, job: Waiting) -> tuple[list[str], float]:
        """Return the devices of one node and kind that are free first for a gang, and when all of them are."""
        kinds: dict[Hashable, list[Place]] = defaultdict(list)
        for place in self._places.values():
            if fits(job, place.device):
                kinds[place.device.node, place.device.kind, place.device.memory_mb].append(place)
        teams = [
            sorted(places, key=lambda place: place.free_at)[: job.devices]
            for places in kinds.values()
            if len(places) >= job.devices
        ]
        if not teams:
            return [], 0.0
        team = min(teams, key=lambda places: places[-1].free_at)
        return [place.device.key for place in team], team[-1].free_at

    def _start(self, job: Waiting, team: Sequence[str], at: float) -> None:
        places = [self._places[key] for key in team]
        took = self._given.took(job)
        cold = not job.mock and not all(job.model_cache_key in place.warm for place in places)
        before = next((place.missing for place in places if place.missing is not None), None)
        missing = before or took.missing(cold)
        end = at + took.run_seconds + (took.load_seconds if cold else 0.0)
        self._found[job.job_id] = Expected(
            at if before is None else None, end + took.beside_seconds if missing is None else None, missing
        )
        for place in places:
            self._idle.pop(place.device.key, None)
            place.free_at, place.missing = end, missing
            if not job.mock:
                self._loaded.subtract(place.warm)
                place.warm = frozenset((job.model_cache_key,))
                self._loaded.update(place.warm)
        if job.owner is not None:
            self._ends[job.owner].append(end)
        self._running.append((end, job))

    def _take(self, job: Waiting) -> None:
        self._ready.pop(job.job_id, None)
        line = self._lines[need(job), job.model_cache_key]
        if line and line[-1][1] is job:
            line.pop()

    def _may_run(self, key: tuple[Hashable, str], line: Sequence[tuple[int, Waiting]], device: DeviceView) -> bool:
        known = self._fits[self._kinds[device.key]]
        found = known.get(key)
        if found is None:
            found = known[key] = fits(line[-1][1], device)
        return found

    def _fair_starts(self) -> dict[str, float]:
        """Return until when each job may wait for the sake of loaded models."""
        slots = Slots(Slot(place.free_at, key, place.device, place.warm) for key, place in self._places.items())
        found = {}
        for job in sorted(self._ready.values(), key=lambda job: (job.queued_at, job.job_id)):
            slot = slots.soonest_for(job)
            if slot is not None:
                found[job.job_id] = job.queued_at + _DEADLINE_FACTOR * max(0.0, slot.free_at - job.queued_at)
                slots.replace(slot, slot.after(job, self._given.estimates))
        return found
