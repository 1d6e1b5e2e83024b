"""The order in which queued jobs should start."""

from collections import Counter
from collections.abc import Iterable

from shared.jobs.dispatch import Busy, Queue, Waiting, rank_of


def queue_order(queue: Queue) -> list[str]:
    """Return the ids of the queued jobs in the order in which they should start.

    Dispatched jobs are first, then jobs that can start, by rank, fairness and age, then jobs that cannot start yet:
    those in their back-off and those that wait for a model.
    """
    dispatched = [job for job in queue.waiting if job.dispatched_to is not None]
    rest = [job for job in queue.waiting if job.dispatched_to is None]
    ready: list[Waiting] = []
    later: list[Waiting] = []
    for job in rest:
        (ready if job.not_before <= queue.now and job.phase is None else later).append(job)
    served: list[Busy | Waiting] = [*queue.busy, *dispatched]
    ordered = [*in_order(dispatched, queue.busy, queue.now), *in_order(ready, served, queue.now)]
    ordered += in_order(later, served, queue.now)
    return [job.job_id for job in ordered]


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
