"""Queued jobs that may not start yet, or not any more: before their start time, after their latest start.

A held job is queued but stands in no line, so any number of them costs the dispatcher nothing. When
it may start, it joins its line with the waiting time that it has from then on.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, or_
from sqlmodel import Session, col, select

from shared.database.engine import Database, is_repetition, settled
from shared.database.tables import Job, epoch_now
from shared.errors import Conflict
from shared.jobs.lines.heads import QUEUED
from shared.jobs.lines.names import line_of
from shared.states import JobState

START_TIME = "start_time"
BULK = "bulk"  # an action on many jobs, which a web process carries out (`shared/jobs/bulk.py`)
_AT_ONCE = 500


def line_of_job(job: Job) -> str:
    """Return the line in which the job stands once it may start."""
    return line_of(
        job.owner,
        job.priority,
        job.model_id,
        job.model_cache_key,
        job.target_node,
        job.mock,
        job.min_vram_mb,
        job.min_ram_mb,
        job.memory_needs,
        job.devices,
        job.front_at,
    )


@settled
def release_due(database: Database) -> int:
    """Let held jobs whose start time has come join their lines, up to 500 at once. Return how many."""
    due = (QUEUED, col(Job.held) == START_TIME, col(Job.queued_at) <= epoch_now())
    with database.read() as session:  # most passes find none, and need no write
        if session.exec(select(Job.id).where(*due).limit(1)).first() is None:
            return 0
    with database.write() as session:
        found = session.exec(select(Job).where(*due).order_by(col(Job.queued_at)).limit(_AT_ONCE).with_for_update())
        jobs = list(found)
        for job in jobs:
            release(session, job)
    return len(jobs)


def release(session: Session, job: Job) -> None:
    """Let a held job, whose row is locked, join its line."""
    job.held = None
    job.line = line_of_job(job)
    session.add(job)


def in_time() -> ColumnElement[bool]:
    """Return the condition that the job may still start. One that has started before is in time for ever."""
    return or_(col(Job.start_before).is_(None), col(Job.start_before) > epoch_now(), col(Job.attempt) > 0)


def expired(database: Database, limit: int = _AT_ONCE) -> Sequence[str]:
    """Return the ids of queued jobs that have never started and whose latest start has passed."""
    query = select(Job.id).where(QUEUED, col(Job.start_before) <= epoch_now(), col(Job.attempt) == 0).limit(limit)
    with database.read() as session:
        return list(session.exec(query))


@settled
def move_to_front(database: Database, job_id: str) -> Job:
    """Move a queued job before all others; of several, the last one moved is first. Raises Conflict.

    It keeps its priority. A job that may not start yet is first once it may.
    """
    with database.write() as session:
        job = session.get(Job, job_id, with_for_update=True)
        if job is None or job.deleted or job.status != JobState.QUEUED:
            if is_repetition() and job is not None and job.front_at is not None:
                return job
            state = "deleted" if job is None or job.deleted else job.status
            raise Conflict(f"The job is {state}; only a queued job can be moved to the front")
        job.front_at = epoch_now()  # type: ignore[assignment]
        session.add(job)
        session.flush()
        session.refresh(job)
        if job.held is None:
            job.line = line_of_job(job)
        # Its message, if any, waits behind others at a busy device.
        job.dispatched_to = job.dispatched_at = None
        session.add(job)
    return job
