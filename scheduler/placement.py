"""Which queued job goes to which device next. Pure: the queue, the devices, the turns and the time in, bells out.

It weighs, in this order: what a device can carry and its node holds whole; priority, which rises with waiting so that
nothing starves; whose turn it is among the owners; the warm model, as long as that makes nobody late; age.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shared.bells import Busy, Queue, Waiting
from shared.bells import rank as earned_rank

# How many of the first in line the lateness test plays through. Those further back have turns too far off to be missed.
_HORIZON = 100


@dataclass(frozen=True)
class DeviceView:
    """A live device as placement sees it."""

    key: str
    node: str
    kind: str  # cuda or cpu
    memory_mb: int
    warm: frozenset[str]  # warm keys of what is loaded
    holds: frozenset[str]  # model ids that its node holds whole


@dataclass(frozen=True)
class Estimates:
    """Seconds that loading and running are expected to take; never shown to anybody."""

    load: Callable[[str], float]  # by warm key
    run: Callable[[str, float], float]  # by warm key and work


@dataclass(frozen=True)
class Bell:
    """Ring this job on that device's queue."""

    job_id: str
    device_key: str


@dataclass(frozen=True)
class _Slot:
    """The next place on one device: when it is free, and what will be warm there then."""

    device: DeviceView
    free_at: float
    warm: frozenset[str]


@dataclass(frozen=True)
class Moment:
    """All that a decision rests on."""

    queue: Queue
    devices: tuple[DeviceView, ...]
    estimates: Estimates
    deadlines: Mapping[str, float] = field(default_factory=dict)  # by job id, from its fair turn
    rering_seconds: float = 15.0


def decide(moment: Moment) -> list[Bell]:
    """The bells to ring now. Each device gets at most one job ahead of what it runs.

    A bell on a device where another job's lies unanswered takes that one's place (`displaced`).
    """
    queue = moment.queue
    devices = {device.key: device for device in moment.devices}
    busy = {job.device_key: job for job in queue.busy}
    rung = {job.bell_device: job for job in queue.waiting if job.bell_device is not None and job.bell_device in devices}
    bells = [
        Bell(job.job_id, key)
        for key, job in rung.items()
        if key not in busy and _gone(job, queue.now, moment.rering_seconds)
    ]
    free = [job for job in queue.waiting if job.bell_device not in devices and job.not_before <= queue.now]
    slots = {key: _slot(device, busy.get(key), moment) for key, device in devices.items()}
    for key, job in rung.items():
        slots[key] = _after(slots[key], job, moment.estimates)
    placed = set(rung)
    while True:
        slot = min(slots.values(), key=lambda slot: (slot.free_at, slot.device.key), default=None)
        if slot is None or slot.device.key in placed:
            break  # what comes after that bell is free sooner than the rest: the first in line may belong there
        key = slot.device.key
        chosen = _choose(slot, free, slots, moment)
        if chosen is not None:
            bells.append(Bell(chosen.job_id, key))
            free.remove(chosen)
            placed.add(key)
            slots[key] = _after(slot, chosen, moment.estimates)
        else:
            if key not in busy:
                bells.extend(_moved(slot.device, rung, busy))
            del slots[key]
    return [*bells, *_overtaking(moment, free, bells)]


def displaced(queue: Queue, bells: Iterable[Bell]) -> list[Bell]:
    """The bells that are out and have to give way to the new ones on their devices."""
    called = {bell.device_key: bell.job_id for bell in bells}
    moved = set(called.values())
    return [
        Bell(job.job_id, job.bell_device)
        for job in queue.waiting
        if job.bell_device in called and job.job_id not in moved
    ]


def queue_order(queue: Queue) -> list[str]:
    """The ids of the queued jobs in the order in which they are to start.

    First what lies at a device already, then who can start by rank, owners' turns and age, then who cannot start yet:
    jobs in their back-off and jobs that wait for a model.
    """
    rung = [job for job in queue.waiting if job.bell_device is not None]
    rest = [job for job in queue.waiting if job.bell_device is None]
    ready = [job for job in rest if job.not_before <= queue.now and job.phase is None]
    later = [job for job in rest if job.not_before > queue.now or job.phase is not None]
    served: list[Busy | Waiting] = [*queue.busy, *rung]
    ordered = [*in_order(rung, queue.busy, queue.now), *in_order(ready, served, queue.now)]
    ordered += in_order(later, served, queue.now)
    return [job.job_id for job in ordered]


def _overtaking(moment: Moment, free: Sequence[Waiting], bells: Sequence[Bell]) -> list[Bell]:
    """Bells for jobs that found no place, on devices whose bell nobody has answered and whose job is theirs to precede.

    A job of a higher rank precedes; of the same rank one that came after the bell was rung, and whose owner's turn it
    is. Such a job takes the place on the device that is free soonest.
    """
    queue, now = moment.queue, moment.queue.now
    devices = {device.key: device for device in moment.devices}
    busy = {job.device_key: job for job in queue.busy}
    fresh = {bell.device_key for bell in bells}
    out = {job.bell_device: job for job in queue.waiting if job.bell_device in devices and job.bell_device not in fresh}
    if not out or not free:
        return []
    served: list[Busy | Waiting] = [*queue.busy, *out.values()]
    taken = Counter(job.owner for job in served)
    when = {key: _slot(devices[key], busy.get(key), moment).free_at for key in out if key is not None}
    overtaking = []
    for job in in_order(free, served, now):
        behind = [
            key
            for key, other in out.items()
            if key is not None and _precedes(job, other, taken, now) and fits(job, devices[key])
        ]
        if behind:
            key = min(behind, key=lambda key: (when[key], key))
            taken[out.pop(key).owner] -= 1
            taken[job.owner] += 1
            overtaking.append(Bell(job.job_id, key))
    return overtaking


def _precedes(job: Waiting, other: Waiting, taken: Mapping[str | None, int], now: float) -> bool:
    """Whether `job` is to start before `other`, whose bell is out and counted among what its owner has."""
    if _rank(job, now) != _rank(other, now):
        return _rank(job, now) < _rank(other, now)
    came_later = other.bell_at is not None and max(job.queued_at, job.not_before) > other.bell_at
    return came_later and job.owner != other.owner and taken[job.owner] < taken[other.owner] - 1


def fits(job: Waiting, device: DeviceView) -> bool:
    """Whether the device can carry the job and its node holds the model."""
    return carries(job, device) and (job.mock or job.model_id in device.holds)


def carries(job: Waiting, device: DeviceView) -> bool:
    """Whether the device has the memory, whatever its node holds."""
    need = job.min_vram_mb if device.kind == "cuda" else job.min_ram_mb
    return job.mock or need <= device.memory_mb


def in_order(jobs: Sequence[Waiting], busy: Iterable[Busy | Waiting], now: float) -> list[Waiting]:
    """First come, first served within a priority that rises with waiting, the owners taking turns."""
    taken: dict[str | None, int] = {}
    for running in busy:
        taken[running.owner] = taken.get(running.owner, 0) + 1
    ranked = sorted(jobs, key=lambda job: (_rank(job, now), job.queued_at, job.job_id))
    keyed = []
    for job in ranked:
        turn = taken.get(job.owner, 0)
        taken[job.owner] = turn + 1
        keyed.append((_rank(job, now), turn, job.queued_at, job.job_id, job))
    return [item[-1] for item in sorted(keyed, key=lambda item: item[:-1])]


def _rank(job: Waiting, now: float) -> int:
    return earned_rank(job.priority, job.queued_at, now)


def _gone(job: Waiting, now: float, rering_seconds: float) -> bool:
    """A bell that has been out too long at an idle device: lost, so ring it again."""
    return job.bell_at is None or now - job.bell_at > rering_seconds


def _slot(device: DeviceView, running: Busy | None, moment: Moment) -> _Slot:
    now = moment.queue.now
    if running is None:
        return _Slot(device, now, device.warm)
    expected = moment.estimates.run(running.warm_key, running.work)
    if running.warm_key not in device.warm and not running.mock:
        expected += moment.estimates.load(running.warm_key)
    warm = device.warm if running.mock else frozenset({running.warm_key})
    # One that has outrun its estimate may end at any moment.
    return _Slot(device, max(now + 0.001, running.claimed_at + expected), warm)


def _choose(slot: _Slot, free: Sequence[Waiting], slots: Mapping[str, _Slot], moment: Moment) -> Waiting | None:
    queue = moment.queue
    ordered = in_order([job for job in free if fits(job, slot.device)], queue.busy, queue.now)
    if not ordered:
        return None
    head = ordered[0]
    if head.mock or head.warm_key in slot.warm:
        return head
    peers = [job for job in ordered if _rank(job, queue.now) == _rank(head, queue.now)]
    elsewhere = {warm for key, other in slots.items() if key != slot.device.key for warm in other.warm}
    here = next((job for job in peers if job.warm_key in slot.warm), None)
    nowhere = next((job for job in peers if job.warm_key not in elsewhere), None)
    late: frozenset[str] | None = None
    for candidate in (here, nowhere):
        if candidate is None or candidate is head:
            continue
        if late is None:
            late = _late_if(head, slot, free, slots, moment)
        if _late_if(candidate, slot, free, slots, moment) <= late:
            return candidate
    return head


def _late_if(
    first: Waiting, slot: _Slot, free: Sequence[Waiting], slots: Mapping[str, _Slot], moment: Moment
) -> frozenset[str]:
    """Who would miss their deadline if `first` went here now and everybody else followed in plain order."""
    now = moment.queue.now
    lanes = {**slots, slot.device.key: _after(slot, first, moment.estimates)}
    late = set()
    for job in in_order([job for job in free if job is not first], moment.queue.busy, now)[:_HORIZON]:
        open_lanes = [lane for lane in lanes.values() if fits(job, lane.device)]
        if not open_lanes:
            continue
        lane = min(open_lanes, key=lambda lane: (lane.free_at, lane.device.key))
        if lane.free_at > moment.deadlines.get(job.job_id, float("inf")):
            late.add(job.job_id)
        lanes[lane.device.key] = _after(lane, job, moment.estimates)
    return frozenset(late)


def _after(slot: _Slot, job: Waiting, estimates: Estimates) -> _Slot:
    if job.mock:
        return replace(slot, free_at=slot.free_at + 1.0)
    seconds = estimates.run(job.warm_key, job.work)
    if job.warm_key not in slot.warm:
        seconds += estimates.load(job.warm_key)
    return replace(slot, free_at=slot.free_at + seconds, warm=frozenset({job.warm_key}))


def _moved(device: DeviceView, rung: dict[str, Waiting], busy: Mapping[str, Busy]) -> list[Bell]:
    """An idle device with nothing else to do takes a bell that waits behind a running job."""
    waiting = [(job.queued_at, key, job) for key, job in rung.items() if key in busy and fits(job, device)]
    if not waiting:
        return []
    _, key, job = min(waiting, key=lambda item: item[:2])
    del rung[key]
    return [Bell(job.job_id, device.key)]
