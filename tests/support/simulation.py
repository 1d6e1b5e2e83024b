"""A discrete-event simulation of the dispatcher's decisions: real placement code, simulated devices and time."""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from scheduler.placement.devices import Assignment, Moment, decide
from scheduler.placement.fairness import FairStarts
from shared.forecast.slots import DeviceView, Estimates, fits
from shared.jobs.dispatch import Busy, Queue, Waiting


@dataclass
class Outcome:
    """What happened in one simulated trace. Times in seconds."""

    starts: dict[str, float] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    loads: int = 0
    deadlines: dict[str, float] = field(default_factory=dict)


Policy = Callable[[Moment], Iterable[Assignment]]


def job(job_id: str, model: str, at: float = 0.0, **values: object) -> Waiting:
    """A waiting job of one unit of work."""
    base = Waiting(
        job_id, "generation", model, f"{model}:none", None, 2, None, at, 0.0, 1.0, False, 1000, 1000, None, None, None
    )
    return base._replace(**values)  # type: ignore[arg-type]


def running(job_id: str, key: str, model: str, since: float = 0.0, **values: object) -> Busy:
    """What a device runs."""
    node = key.partition("/")[0]
    base = Busy(job_id, "generation", model, key, f"{model}:none", node, 2, None, None, 1.0, since, False)
    return base._replace(**values)  # type: ignore[arg-type]


def device(index: int, models: Sequence[str], memory_mb: int = 80_000, node: str = "n") -> DeviceView:
    return DeviceView(f"{node}/{index}", node, "cuda", memory_mb, frozenset(), frozenset(models))


def fifo(moment: Moment) -> list[Assignment]:
    """Strictly in order of arrival, ignoring loaded models; one job ahead of a device only when it is idle."""
    busy = {busy.device_key for busy in moment.queue.busy}
    dispatched = {waiting.dispatched_to for waiting in moment.queue.waiting}
    assignments, taken = [], set()
    for view in moment.devices:
        if view.key in busy or view.key in dispatched:
            continue
        for waiting in sorted(moment.queue.waiting, key=lambda item: (item.queued_at, item.job_id)):
            if waiting.dispatched_to is None and waiting.job_id not in taken and fits(waiting, view):
                assignments.append(Assignment(waiting.job_id, view.key))
                taken.add(waiting.job_id)
                break
    return assignments


def simulate(
    jobs: Sequence[Waiting],
    devices: Sequence[DeviceView],
    load_seconds: Callable[[str], float],
    run_seconds: Callable[[str, float, float], float],
    policy: Policy = decide,
) -> Outcome:
    """Play the trace to its end. Each device holds one loaded model."""
    estimates = Estimates(load_seconds, run_seconds)
    turns = FairStarts()
    views = {view.key: view for view in devices}
    waiting: dict[str, Waiting] = {}
    busy: dict[str, Busy] = {}
    outcome = Outcome()
    events = [(item.queued_at, 1, item.job_id) for item in jobs]
    by_id = {item.job_id: item for item in jobs}
    heapq.heapify(events)

    def claim(now: float) -> None:
        for item in list(waiting.values()):
            key = item.dispatched_to
            if key is None or key in busy:
                continue
            del waiting[item.job_id]
            view = views[key]
            seconds = run_seconds(item.model_cache_key, item.work, item.volume)
            if item.model_cache_key not in view.warm:
                seconds += load_seconds(item.model_cache_key)
                outcome.loads += 1
            of_size = {"work": item.work, "volume": item.volume}
            busy[key] = running(item.job_id, key, item.model_id or "", now, owner=item.owner, **of_size)
            outcome.starts[item.job_id] = now
            outcome.devices[item.job_id] = key
            outcome.order.append(item.job_id)
            heapq.heappush(events, (now + seconds, 0, key))

    while events:
        now = events[0][0]
        while events and events[0][0] == now:
            _, kind, name = heapq.heappop(events)
            if kind == 1:
                waiting[name] = by_id[name]
            else:
                ended = busy.pop(name)
                views[name] = replace(views[name], warm=frozenset({ended.model_cache_key}))
        claim(now)
        for _ in range(len(views) + 1):  # a claim frees the place ahead, as its wake-up does
            queue = Queue(now, tuple(waiting.values()), tuple(busy.values()))
            deadlines = turns.observe(queue, tuple(views.values()), estimates)
            outcome.deadlines.update(deadlines)
            assignments = list(policy(Moment(queue, tuple(views.values()), estimates, deadlines)))
            if not assignments:
                break
            for assignment in assignments:
                job = waiting[assignment.job_id]
                waiting[job.job_id] = job._replace(dispatched_to=assignment.device_key, dispatched_at=now)
            claim(now)
    return outcome
