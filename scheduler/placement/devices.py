"""Decides which queued job goes to which device next. A pure function of the queue, devices, deadlines and time.

It considers, in this order:

1. What the device has the memory for and its node holds completely. A device on which the job has just failed is used
   only if no other one fits.
2. Priority, which rises with waiting so that nothing starves.
3. Fairness between owners.
4. The loaded model, as long as no job becomes late.
5. Age.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from itertools import islice

from scheduler.placement.avoidance import avoided, kept_near
from shared.forecast.order import in_order
from shared.forecast.slots import DeviceView, Estimates, Slot, Slots, fits, need, shape
from shared.jobs.dispatch import Busy, Queue, Waiting, rank_of

# How many of the first jobs the lateness test simulates. The deadlines of later jobs are too far off to be missed.
_HORIZON = 100
# With at most so many jobs dispatched in advance, those behind one that was placed before them change their devices.
_SHIFTED = 16
# Two dispatched jobs are exchanged if the first one starts earlier by so many seconds, plus this share of its wait:
# expected ends vary a little with every step, and each exchange is two messages.
_EXCHANGED_SECONDS = 5.0
_EXCHANGED_SHARE = 0.1


@dataclass(frozen=True)
class Assignment:
    """Dispatch this job to that device."""

    job_id: str
    device_key: str
    members: tuple[str, ...] = ()  # the other devices of a gang


@dataclass(frozen=True)
class Moment:
    """The input of a decision."""

    queue: Queue
    devices: tuple[DeviceView, ...]
    estimates: Estimates
    deadlines: Mapping[str, float] = field(default_factory=dict)  # by job id
    redispatch_seconds: float = 15.0
    # When running jobs leave their devices, by their own reports; by job id, those that have reported it.
    ends: Mapping[str, float] = field(default_factory=dict)


def decide(moment: Moment) -> Iterator[Assignment]:
    """Yield the jobs to dispatch now, each as soon as it is decided. At most one job is dispatched to a device in
    advance.

    An assignment to a device with an unanswered dispatch replaces it (`displaced`). The cost grows with the number of
    devices plus the number of jobs, not with their product.
    """
    queue, marked = kept_near(*avoided(moment.queue, moment.devices))
    moment = replace(moment, queue=queue, devices=marked)
    devices = {device.key: device for device in marked}
    busy = {job.device_key: job for job in queue.busy}
    dispatched = {
        job.dispatched_to: job
        for job in queue.waiting
        if job.dispatched_to is not None and job.dispatched_to in devices
    }
    fresh = set()  # devices that receive a message in this pass
    for key, job in dispatched.items():
        if key not in busy and gone(job, queue.now, moment.redispatch_seconds):
            fresh.add(key)
            yield Assignment(job.job_id, key)
    free = [job for job in queue.waiting if job.dispatched_to not in devices and job.not_before <= queue.now]
    backlog = _Backlog(in_order(free, [*queue.busy, *dispatched.values()], queue.now), queue.now)
    slots = {key: slot_of(device, busy.get(key), moment) for key, device in devices.items()}
    for key, job in dispatched.items():
        slots[key] = slots[key].after(job, moment.estimates)
    choice = _Choice(moment, backlog, slots.values())
    placed = set(dispatched)
    while (slot := choice.slots.soonest()) is not None and slot.key not in placed:
        # The loop ends at a dispatched job: the slot after it is free earlier than all remaining ones, so the first
        # job may belong there.
        chosen = choice.choose(slot)
        if chosen is not None:
            choice.place(chosen, slot)
            placed.add(slot.key)
            fresh.add(slot.key)
            yield Assignment(chosen.job_id, slot.key)
            continue
        choice.drop(slot)
        if slot.key not in busy and (moved := _moved(slot.device, dispatched, busy)) is not None:
            fresh.add(slot.key)
            yield Assignment(moved.job_id, slot.key)
    unanswered = {key: job for key, job in dispatched.items() if key not in fresh}
    for assignment in _overtaking(moment, choice, unanswered, busy):
        fresh.add(assignment.device_key)
        yield assignment
    if fresh.isdisjoint(dispatched):
        yield from _exchanged(moment, unanswered, busy)


def displaced(queue: Queue, assignments: Iterable[Assignment]) -> list[Assignment]:
    """Return the unanswered dispatches that the new assignments to their devices replace."""
    called = {assignment.device_key: assignment.job_id for assignment in assignments}
    moved = set(called.values())
    return [
        Assignment(job.job_id, job.dispatched_to)
        for job in queue.waiting
        if job.dispatched_to in called and job.job_id not in moved
    ]


def gone(job: Waiting, now: float, redispatch_seconds: float) -> bool:
    """Return whether a message that an idle device has not answered counts as lost."""
    return job.dispatched_at is None or now - job.dispatched_at > redispatch_seconds


def slot_of(device: DeviceView, running: Busy | None, moment: Moment) -> Slot:
    """Return the device's next slot, after the job that runs on it."""
    now = moment.queue.now
    if running is None:
        return Slot(now, device.key, device, device.warm)
    warm = device.warm if running.mock else frozenset({running.model_cache_key})
    if (end := reported_end(running, moment)) is None:
        end = running.claimed_at + moment.estimates.run(running.timing_key, running.work, running.volume)
        if running.model_cache_key not in device.warm and not running.mock:
            end += moment.estimates.load(running.model_cache_key)
    # A job that has exceeded its estimate may end at any moment.
    return Slot(max(now + 0.001, end), device.key, device, warm)


def reported_end(running: Busy, moment: Moment) -> float | None:
    """Return when the job leaves its device by its own reports. None: it has not said, or gives its device back."""
    return None if running.requested_action is not None else moment.ends.get(running.job_id)


def _moved(device: DeviceView, dispatched: dict[str, Waiting], busy: Mapping[str, Busy]) -> Waiting | None:
    """Return the job that an idle device takes over from a device where it waits behind a running job."""
    waiting = [(job.queued_at, key) for key, job in dispatched.items() if key in busy and fits(job, device)]
    return dispatched.pop(min(waiting)[1]) if waiting else None


class _Line:
    """Waiting jobs that fit the same devices and need the same loaded model. Only the first can be chosen."""

    def __init__(self, model_cache_key: str) -> None:
        self.model_cache_key = model_cache_key
        self.jobs: list[Waiting] = []
        self.places: list[int] = []  # in the whole order
        self.ranks: list[int] = []
        self.at = 0  # how many have been chosen

    @property
    def place(self) -> int:
        return self.places[self.at]

    @property
    def rank(self) -> int:
        return self.ranks[self.at]


class _Backlog:
    """The jobs that are not assigned yet, in order and by line."""

    def __init__(self, ordered: Sequence[Waiting], now: float) -> None:
        self.lines: dict[tuple[Hashable, str], _Line] = {}
        self._ordered = ordered
        self._placed = bytearray(len(ordered))
        self._first = 0
        for place, job in enumerate(ordered):
            key = (need(job), job.model_cache_key)
            line = self.lines.get(key)
            if line is None:
                line = self.lines[key] = _Line(job.model_cache_key)
            line.jobs.append(job)
            line.places.append(place)
            line.ranks.append(rank_of(job, now))

    def left(self) -> Iterator[Waiting]:
        """Yield the jobs that are not assigned yet, in order."""
        while self._first < len(self._ordered) and self._placed[self._first]:
            self._first += 1
        for place in range(self._first, len(self._ordered)):
            if not self._placed[place]:
                yield self._ordered[place]

    def take(self, job: Waiting) -> None:
        """Remove the first job of a line."""
        line = self.lines[(need(job), job.model_cache_key)]
        self._placed[line.place] = True
        line.at += 1


class _Choice:
    """Chooses a job for one device after the other."""

    def __init__(self, moment: Moment, backlog: _Backlog, slots: Iterable[Slot]) -> None:
        self.backlog = backlog
        self._moment = moment
        self._kinds = {key: line.jobs[0] for key, line in backlog.lines.items()}
        self._groups: dict[Hashable, frozenset[int]] = {}
        self._samples = list({key[0]: job for key, job in self._kinds.items()}.values())
        found = list(slots)
        self.slots = Slots(found, self._group)
        self._lines: dict[Hashable, list[_Line]] = {}
        self._warm = Counter(warm for slot in found for warm in slot.warm)

    def _group(self, device: DeviceView) -> frozenset[int]:
        """Return which kinds of jobs the device can run, by index. Devices with equal results form a group."""
        what = shape(device)
        if what not in self._groups:
            self._groups[what] = frozenset(at for at, job in enumerate(self._samples) if fits(job, device))
        return self._groups[what]

    def lines(self, slot: Slot) -> list[_Line]:
        """Return the lines with jobs left that fit the slot's device."""
        group = self.slots.group(slot.key)
        lines = self._lines.get(group)
        if lines is None:
            lines = [self.backlog.lines[key] for key, job in self._kinds.items() if fits(job, slot.device)]
        lines = self._lines[group] = [line for line in lines if line.at < len(line.jobs)]
        return lines

    def choose(self, slot: Slot) -> Waiting | None:
        """Return the first job, or one of equal rank whose model is loaded here or nowhere, if that makes no other job
        late."""
        lines = self.lines(slot)
        if not lines:
            return None
        first = min(lines, key=lambda line: line.place)
        head = first.jobs[first.at]
        if head.mock or head.model_cache_key in slot.warm:
            return head
        peers = [line for line in lines if line.rank == first.rank]
        here = min(
            (line for line in peers if line.model_cache_key in slot.warm), key=lambda line: line.place, default=None
        )
        nowhere = min(
            (line for line in peers if self._warm[line.model_cache_key] <= (line.model_cache_key in slot.warm)),
            key=lambda line: line.place,
            default=None,
        )
        late: frozenset[str] | None = None
        for line in (here, nowhere):
            if line is None or line is first:
                continue
            if late is None:
                late = self._late_if(head, slot)
            candidate = line.jobs[line.at]
            if self._late_if(candidate, slot) <= late:
                return candidate
        return head

    def place(self, job: Waiting, slot: Slot) -> None:
        """Assign the slot to the job."""
        self.backlog.take(job)
        after = slot.after(job, self._moment.estimates)
        self.slots.replace(slot, after)
        self._warm.subtract(slot.warm)
        self._warm.update(after.warm)

    def drop(self, slot: Slot) -> None:
        """Remove the device, because no job fits it."""
        self.slots.drop(slot)
        self._warm.subtract(slot.warm)

    def _late_if(self, first: Waiting, slot: Slot) -> frozenset[str]:
        """Return the jobs that would miss their deadlines if `first` ran here now and all others followed in order."""
        deadlines, estimates = self._moment.deadlines, self._moment.estimates
        slots = self.slots.copy()
        slots.replace(slot, slot.after(first, estimates))
        late = set()
        others = (job for job in self.backlog.left() if job is not first)
        for job in islice(others, _HORIZON):
            next_slot = slots.soonest_for(job)
            if next_slot is None:
                continue
            if next_slot.free_at > deadlines.get(job.job_id, math.inf):
                late.add(job.job_id)
            slots.replace(next_slot, next_slot.after(job, estimates))
        return frozenset(late)


def _overtaking(
    moment: Moment, choice: _Choice, out: Mapping[str, Waiting], busy: Mapping[str, Busy]
) -> Iterator[Assignment]:
    """Yield assignments of remaining jobs to devices whose dispatched job has not started and should run later.

    A job replaces a dispatched job of a less urgent rank. It replaces one of equal rank if it arrived after that
    dispatch and its owner has been served at least two jobs fewer. It gets the device that is free first. Then the
    replaced jobs replace dispatched ones that come after them (`_shifted`), so that the order of all others is kept.
    """
    if not out:
        return
    queue, now = moment.queue, moment.queue.now
    devices = {device.key: device for device in moment.devices}
    served: list[Busy | Waiting] = [*queue.busy, *out.values()]
    taken = Counter(job.owner for job in served)
    # The same jobs can replace every dispatched job of a bucket, apart from the condition on the dispatch time.
    buckets: dict[tuple[Hashable, int, str | None], list[tuple[float, str, Waiting]]] = defaultdict(list)
    for key, job in out.items():
        when = slot_of(devices[key], busy.get(key), moment).free_at
        buckets[(choice.slots.group(key), rank_of(job, now), job.owner)].append((when, key, job))
    for bucket in buckets.values():
        bucket.sort(key=lambda item: item[:2])
    last, most = _last_and_most(buckets, taken)
    replaced: list[Waiting] = []
    for job in choice.backlog.left():
        rank = rank_of(job, now)
        if rank > last:
            break  # no later job can replace a dispatched one either
        if rank == last and taken[job.owner] >= most - 1:
            continue
        behind = _soonest_behind(job, rank, buckets, taken, choice.slots.fitting(job))
        if behind is None:
            continue
        bucket_key, item = behind
        buckets[bucket_key].remove(item)
        if not buckets[bucket_key]:
            del buckets[bucket_key]
        taken[item[2].owner] -= 1
        taken[job.owner] += 1
        last, most = _last_and_most(buckets, taken)
        replaced.append(item[2])
        yield Assignment(job.job_id, item[1])
    if replaced:
        left = sorted(item[:2] for bucket in buckets.values() for item in bucket)
        yield from _shifted(moment, replaced, [(key, out[key]) for _, key in left], choice)


def _shifted(
    moment: Moment, replaced: Iterable[Waiting], out: Iterable[tuple[str, Waiting]], choice: _Choice
) -> Iterator[Assignment]:
    """Yield the dispatches of replaced jobs to devices whose dispatched job comes after them in the queue's order.

    `out`: the dispatched jobs that were not replaced, with their devices, the one that is free first at the beginning.
    Otherwise a replaced job would start after jobs behind it. Where many devices have one, another device is free soon
    for it, and nothing is moved, because each move is a message.
    """
    left = dict(out)
    if len(left) > _SHIFTED:
        return
    places = {
        job.job_id: place
        for place, job in enumerate(in_order([*replaced, *left.values()], moment.queue.busy, moment.queue.now))
    }
    waiting = [(places[job.job_id], job) for job in replaced]
    heapify(waiting)
    while waiting:
        place, job = heappop(waiting)
        groups = choice.slots.fitting(job)
        after = (
            key for key, other in left.items() if places[other.job_id] > place and choice.slots.group(key) in groups
        )
        if (key := next(after, None)) is None:
            continue
        other = left.pop(key)
        heappush(waiting, (places[other.job_id], other))
        yield Assignment(job.job_id, key)


def _exchanged(moment: Moment, out: Mapping[str, Waiting], busy: Mapping[str, Busy]) -> Iterator[Assignment]:
    """Yield exchanges of two dispatched jobs where the first in the queue's order would start clearly later.

    `out`: the dispatched jobs, by device. The jobs that run there were expected to end in another order when they were
    dispatched. Jobs of equal rank are exchanged only if they need the same model, because otherwise each may be where
    its model is loaded. A device that its job was asked to give back keeps the job for which it was asked. As in
    `_shifted`, nothing is moved where many devices have one.
    """
    yields = {key for key, running in busy.items() if running.requested_action is not None}
    left = {key: job for key, job in out.items() if key not in yields and job.devices == 1}
    if not 1 < len(left) <= _SHIFTED:
        return
    now = moment.queue.now
    devices = {device.key: device for device in moment.devices}
    free_at = {key: slot_of(devices[key], busy.get(key), moment).free_at for key in left}
    ranks = {job.job_id: rank_of(job, now) for job in left.values()}
    places = {job.job_id: place for place, job in enumerate(in_order(left.values(), moment.queue.busy, now))}
    for key in sorted(left, key=lambda key: places[left[key].job_id]):
        job = left.get(key)
        if job is None:  # it was exchanged for a more urgent one
            continue
        latest = free_at[key] - _EXCHANGED_SECONDS - _EXCHANGED_SHARE * (free_at[key] - now)
        sooner = [
            other
            for other, less in left.items()
            if free_at[other] < latest
            and (
                ranks[less.job_id] > ranks[job.job_id]
                or (places[less.job_id] > places[job.job_id] and less.model_cache_key == job.model_cache_key)
            )
            and fits(job, devices[other])
            and fits(less, devices[key])
        ]
        if not sooner:
            continue
        first = min(sooner, key=lambda other: (free_at[other], other))
        yield Assignment(job.job_id, first)
        yield Assignment(left[first].job_id, key)
        del left[key], left[first]


def _last_and_most(
    buckets: Iterable[tuple[Hashable, int, str | None]], taken: Mapping[str | None, int]
) -> tuple[int, int]:
    """Return the least urgent rank of the dispatched jobs, and the highest number of served jobs of one owner."""
    last = max((rank for _, rank, _ in buckets), default=-1)
    return last, max((taken[owner] for _, _, owner in buckets), default=0)


def _soonest_behind(
    job: Waiting,
    rank: int,
    buckets: Mapping[tuple[Hashable, int, str | None], list[tuple[float, str, Waiting]]],
    taken: Mapping[str | None, int],
    fitting: Sequence[Hashable],
) -> tuple[tuple[Hashable, int, str | None], tuple[float, str, Waiting]] | None:
    """Return the dispatched job that the job precedes on the device that is free first, with its bucket."""
    arrived = max(job.queued_at, job.not_before)
    found = []
    for key, bucket in buckets.items():
        group, its_rank, owner = key
        if group not in fitting or rank > its_rank:
            continue
        if rank < its_rank:
            found.append((bucket[0][:2], key, bucket[0]))
        elif job.owner != owner and taken[job.owner] < taken[owner] - 1:
            later = (item for item in bucket if item[2].dispatched_at is not None and arrived > item[2].dispatched_at)
            if (item := next(later, None)) is not None:
                found.append((item[:2], key, item))
    if not found:
        return None
    _, key, item = min(found, key=lambda one: one[0])
    return key, item
