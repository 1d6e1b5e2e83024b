"""Decides which node job starts next, and which download yields its slot. Pure, like placement on devices.

Downloads share a node's slots. A more urgent one takes the slot of a less urgent one, which waits again and keeps its
bytes. Of every other type one job runs on a node at a time.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from scheduler.placement.devices import Assignment
from shared.catalogue.job_types import DOWNLOAD
from shared.forecast.order import in_order
from shared.jobs.dispatch import Busy, Queue, Waiting, rank_of
from shared.messaging import celery


@dataclass(frozen=True)
class NodeDecision:
    assignments: tuple[Assignment, ...]
    yields: tuple[str, ...]  # running downloads that are asked to yield their slots
    recalls: tuple[str, ...] = ()  # unanswered dispatches that are replaced by more urgent ones


def decide(queue: Queue, nodes: Collection[str], download_slots: int, redispatch_seconds: float) -> NodeDecision:
    """Decide for the node jobs of the queue. `nodes`: names of the live nodes."""
    assignments: list[Assignment] = []
    yields: list[str] = []
    recalls: list[str] = []
    for node in sorted(nodes):
        key = celery.node_key(node)
        here = [job for job in queue.waiting if job.target_node == node]
        running = [job for job in queue.busy if job.device_key == key]
        dispatched = [job for job in here if job.dispatched_to == key and not _lost(job, queue.now, redispatch_seconds)]
        taken = Counter([job.type for job in running] + [job.type for job in dispatched])
        left_out: list[Waiting] = []
        ready = [job for job in here if job not in dispatched and job.not_before <= queue.now]
        for job in in_order(ready, running, queue.now):
            if taken[job.type] < (download_slots if job.type == DOWNLOAD else 1):
                taken[job.type] += 1
                assignments.append(Assignment(job.job_id, key))
            elif (other := _least_urgent(job, dispatched, queue.now)) is not None:
                dispatched.remove(other)
                recalls.append(other.job_id)
                assignments.append(Assignment(job.job_id, key))
            elif job.type == DOWNLOAD:
                left_out.append(job)
        yields += _yields(left_out, [job for job in running if job.type == DOWNLOAD])
    return NodeDecision(tuple(assignments), tuple(yields), tuple(recalls))


def _least_urgent(job: Waiting, dispatched: list[Waiting], now: float) -> Waiting | None:
    """Return the least urgent of the dispatched jobs of the same type that are less urgent than the job."""
    behind = [other for other in dispatched if other.type == job.type and _rank(job, now) < _rank(other, now)]
    return max(behind, key=lambda other: (_rank(other, now), other.queued_at), default=None)


def _rank(job: Waiting, now: float) -> int:
    return rank_of(job, now)


def _yields(left_out: list[Waiting], running: list[Busy]) -> list[str]:
    """Choose by the requested priority, not the one risen by waiting: otherwise two would swap forever."""
    asked = sum(job.requested_action is not None for job in running)
    givers = sorted(
        (job for job in running if job.requested_action is None), key=lambda job: (job.priority, job.claimed_at)
    )
    urgent = sorted(left_out, key=lambda job: (job.priority, job.queued_at))[asked:]
    return [giver.job_id for giver, job in zip(reversed(givers), urgent, strict=False) if giver.priority > job.priority]


def _lost(job: Waiting, now: float, redispatch_seconds: float) -> bool:
    return job.dispatched_at is None or now - job.dispatched_at > redispatch_seconds
