"""Where queued jobs stand: by the order that the leading dispatcher publishes, else by counting rows.

The order lies in Redis for as long as it is fresh. It is exact for the first thousand: a job's position is the number
of jobs before it that are still queued. What stands further back, or has come since, is counted by stored priority and
age and said to be approximate.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from shared.database.engine import Database
from shared.database.tables import Job
from shared.jobs import queues
from shared.messaging.progress import RestingRedis
from shared.states import JobState

_KEY = "wanworks:queue-order"
_FRESH_SECONDS = 15


@dataclass(frozen=True)
class Position:
    """How many queued jobs start before this one."""

    ahead: int
    approximate: bool


def publish(client: RestingRedis, job_ids: Sequence[str]) -> None:
    """Says in which order the first of the queue are served. Losing it makes positions approximate."""
    text = json.dumps(list(job_ids), separators=(",", ":"))
    client.ask(lambda redis: redis.set(_KEY, text, ex=_FRESH_SECONDS))


def positions(database: Database, client: RestingRedis, jobs: Sequence[Job]) -> dict[str, Position]:
    """By id, of those of the jobs that are queued."""
    waiting = [job for job in jobs if job.status == JobState.QUEUED]
    if not waiting:
        return {}
    text = client.ask(lambda redis: redis.get(_KEY))
    order: list[str] = json.loads(text) if text else []
    places = {job_id: place for place, job_id in enumerate(order)}
    last = max((places[job.id] for job in waiting if job.id in places), default=-1)
    still = queues.still_queued(database, order[: last + 1]) if last >= 0 else set()
    found: dict[str, Position] = {}
    ahead = 0
    for job_id in order[: last + 1]:
        found[job_id] = Position(ahead, approximate=False)
        ahead += job_id in still
    counted = queues.positions(database, [job for job in waiting if job.id not in places])
    return {
        job.id: found[job.id] if job.id in places else Position(counted[job.id], approximate=True)
        for job in waiting
        if (job.id in still if job.id in places else job.id in counted)
    }
