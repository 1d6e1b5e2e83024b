"""Positions in the queue: by the order that the leading dispatcher publishes, else by counting rows.

The order is kept in Redis while it is fresh. It is exact for the first thousand jobs: a job's position is the number of
jobs before it that are still queued. Later and newer jobs are counted by stored priority and age, and their positions
are marked as approximate.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from shared.database.engine import Database
from shared.database.tables import Job
from shared.jobs.reading import queues
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
    """Publish the order in which the first queued jobs are served. If it is lost, positions are approximate."""
    text = json.dumps(list(job_ids), separators=(",", ":"))
    client.ask(lambda redis: redis.set(_KEY, text, ex=_FRESH_SECONDS))


def order(client: RestingRedis) -> list[str]:
    """Return the published order of the first queued jobs; empty where none is fresh."""
    text = client.ask(lambda redis: redis.get(_KEY))
    found: list[str] = json.loads(text) if text else []
    return found


def positions(database: Database, client: RestingRedis, jobs: Sequence[Job]) -> dict[str, Position]:
    """Return the positions by id, for those of the jobs that are queued."""
    waiting = [job for job in jobs if job.status == JobState.QUEUED and job.held is None]
    if not waiting:
        return {}
    published = order(client)
    places = {job_id: place for place, job_id in enumerate(published)}
    last = max((places[job.id] for job in waiting if job.id in places), default=-1)
    still = queues.still_queued(database, published[: last + 1]) if last >= 0 else set()
    found: dict[str, Position] = {}
    ahead = 0
    for job_id in published[: last + 1]:
        found[job_id] = Position(ahead, approximate=False)
        ahead += job_id in still
    counted = queues.positions(database, [job for job in waiting if job.id not in places])
    return {
        job.id: found[job.id] if job.id in places else Position(counted[job.id], approximate=True)
        for job in waiting
        if (job.id in still if job.id in places else job.id in counted)
    }
