"""The order in which queued jobs should start."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from shared.jobs.dispatch import Busy, Queue, Waiting, rank_of

_NONE: Mapping[str, float] = MappingProxyType({})
_CLEARLY_SECONDS = 1.0  # expected ends vary a little with every step
_FEW = 64  # of more dispatched jobs, those beside each other start at nearly the same time


def queue_order(queue: Queue, ends: Mapping[str, float] = _NONE) -> list[str]:
    """Return the ids of the queued jobs in the order in which they should start.

    Dispatched jobs are first, then jobs that can start, by rank, fairness and age, then jobs that cannot start yet:
    those in their back-off and those that wait for a model. `ends`: when running jobs leave their devices, by id, where
    that is known. A dispatched job starts when its device is free, so they are in the order of that: a more urgent one
    that would gain clearly by another device is sent there. What was moved to the front stays first.
    """
    dispatched = [job for job in queue.waiting if job.dispatched_to is not None]
    rest = [job for job in queue.waiting if job.dispatched_to is None]
    ready: list[Waiting] = []
    later: list[Waiting] = []
    for job in rest:
        (ready if job.not_before <= queue.now and job.phase is None else later).append(job)
    served: list[Busy | Waiting] = [*queue.busy, *dispatched]
    ordered = _as_they_start(in_order(dispatched, queue.busy, queue.now), queue, ends)
    ordered += in_order(ready, served, queue.now)
    ordered += in_order(later, served, queue.now)
    return [job.job_id for job in ordered]


def _as_they_start(dispatched: Sequence[Waiting], queue: Queue, ends: Mapping[str, float]) -> list[Waiting]:
    if not ends or len(dispatched) > _FEW:
        return list(dispatched)
    busy = {job.device_key: job.job_id for job in queue.busy}
    found: list[tuple[float | None, Waiting]] = []
    for job in dispatched:
        running = busy.get(job.dispatched_to or "")
        at = queue.now if running is None else ends.get(running)
        place = len(found)
        while place and at is not None:
            before, other = found[place - 1]
            if other.front_at is not None or before is None or before - at <= _CLEARLY_SECONDS:
                break
            place -= 1
        found.insert(place, (at, job))
    return [job for _, job in found]


def in_order(jobs: Iterable[Waiting], served: Iterable[Busy | Waiting], now: float) -> list[Waiting]:
    """Sort by rank, then alternate between owners, then by age.

    Jobs of an owner in ``served`` count as jobs already served for that owner.
    """
    taken = Counter(job.owner for job in served)
    keyed = []
    for rank, queued_at, job_id, job in sorted((rank_of(job, now), job.queued_at, job.job_id, job) for job in jobs):
        keyed.append((rank, taken[job.owner], queued_at, job_id, job))
        taken[job.owner] += 1
    return [item[-1] for item in sorted(keyed)]
