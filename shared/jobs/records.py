"""A job as its owner sees it: read, cancelled, deleted.

Only this module, `accepting.py`, `ending/ends.py`, `batches.py`, `bulk.py`, `flows/`, `ordering.py`, `attempts.py` and
`finishing.py` (workers), `dispatch.py` (the dispatcher), `checkpoints.py` and `download_control.py` write the `jobs`
table. Each change of state
is one UPDATE that names the previous state, or locks the row first. Every write is idempotent: it detects its earlier
effect, so it can be repeated if the outcome of a commit is unknown.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, or_, update
from sqlmodel import Session, col, select

from shared import clock
from shared.database.engine import Database, is_repetition, settled
from shared.database.tables import Job
from shared.errors import Conflict, NotFound
from shared.jobs.ending import batch_ends, flow_marks, videos, webhooks
from shared.jobs.ending.ends import cancel_locked
from shared.states import JOB_ENDS, JobState, Phase

_REMOVED_WITHIN = timedelta(days=1)  # a node that is absent for longer may never return


@dataclass(frozen=True)
class Stopped:
    """A job after a cancel or delete. `ended`: this request ended it, so that the end is reported once."""

    job: Job
    ended: bool


def get(database: Database, job_id: str, *, only: str | None = None) -> Job:
    """Return the job. `only`: the owner that may see it; None: any. Raises NotFound, also for deleted jobs."""
    with database.read() as session:
        return visible(session, job_id, only)


def several(database: Database, job_ids: Sequence[str]) -> list[Job]:
    """Return those of the jobs that exist and are not deleted, in no particular order."""
    with database.read() as session:
        return list(session.exec(select(Job).where(col(Job.id).in_(job_ids), col(Job.deleted).is_(False))))


@settled
def request_cancel(database: Database, job_id: str, *, only: str | None = None) -> Stopped:
    """Cancel a waiting job, or request that a running one stops. Idempotent. `only` as in `get`.

    Raises NotFound, and Conflict if the job has succeeded or failed.
    """
    with database.write() as session:
        job = visible(session, job_id, only, lock=True)
        ended = cancel_locked(session, job) or (is_repetition() and job.status == JobState.CANCELLED)
    if job.status in (JobState.SUCCEEDED, JobState.FAILED):
        raise Conflict(f"The job has already {job.status}; only a queued, paused or running job can be cancelled")
    return Stopped(job, ended)


@settled
def remove(database: Database, job_id: str, *, only: str | None = None) -> Stopped:
    """Mark the job as deleted, cancel it if necessary, and free its idempotency key. `only` as in `get`.

    `purge` removes its row once it has ended. Raises NotFound, and Conflict while its flow has not ended.
    """
    with database.write() as session:
        visible(session, job_id, only, deleted_too=is_repetition())
        flow_marks.check_removable(session, job_id)
        # A repetition may find it already deleted by its first call.
        job = visible(session, job_id, only, lock=True, deleted_too=is_repetition())
        ended = cancel_locked(session, job)
        job.deleted = True
        job.idempotency_key = None
        session.add(job)
        videos.forget(session, [job_id])
    return Stopped(job, ended)


@settled
def expire(database: Database, job_ids: Sequence[str]) -> list[str]:
    """Mark ended jobs as deleted, before their files are removed. Return those that are deleted now.

    What has become a favourite meanwhile stays, and so does what an open flow may need.
    """
    with database.write() as session:
        open_flows = flow_marks.locked_open_flows(session, job_ids)
        ended = (col(Job.id).in_(job_ids), col(Job.status).in_(JOB_ENDS))
        columns: tuple[Any, ...] = (Job.id, Job.flow_id, Job.deleted)
        rows = list(session.exec(select(*columns).where(*ended).order_by(col(Job.id)).with_for_update()))
        # A statement of its own, which sees what was written before these rows were locked.
        kept = videos.kept(session, job_ids)
        gone = [id for id, flow_id, deleted in rows if flow_id not in open_flows and (deleted or id not in kept)]
        session.connection().execute(
            update(Job).where(col(Job.id).in_(gone)).values(deleted=True, idempotency_key=None)
        )
        videos.forget(session, gone)
    return gone


def purge(database: Database, job_ids: Sequence[str]) -> int:
    """Remove the rows of ended jobs, but not their uses, and batches with their last job. Return how many jobs.

    A cancelled download stays, for a day at most, until its node has removed the partial files that only it names. The
    jobs of a flow stay until it has ended; with its last job the flow goes.
    """
    if not job_ids:
        return 0
    with database.write() as session:
        flows = flow_marks.lock_flows_of(session, job_ids)
        batch_ids = batch_ends.locked_of(session, job_ids)
        webhooks.drop(session, job_ids)
        videos.forget(session, job_ids)
        ended = (col(Job.status).in_(JOB_ENDS), _is_tidy(), flow_marks.of_no_open_flow())
        result = session.connection().execute(delete(Job).where(col(Job.id).in_(job_ids), *ended))
        flow_marks.drop_empty(session, flows)
        batch_ends.drop_empty(session, batch_ids)
        return int(result.rowcount)


def purgeable(database: Database, ended_before: datetime, limit: int = 500, besides: Collection[str] = ()) -> list[str]:
    """Return the ids of ended jobs that were deleted or ended before that time, without those in `besides`.

    Favourites and videos in collections stay until they are deleted.
    """
    wanted = (col(Job.id).not_in(besides), _is_tidy(), flow_marks.of_no_open_flow())
    with database.read() as session:
        # An expression, because SQLite would read the index of all ended jobs to find the few deleted ones.
        ended = col(Job.status).concat("").in_(JOB_ENDS)
        found = list(session.exec(select(Job.id).where(*wanted, ended, col(Job.deleted).is_(True)).limit(limit)))
        # One query for each state, without the deleted ones, so that each reads a range of an index.
        for status in JOB_ENDS:
            if len(found) < limit:
                old = select(Job.id).where(col(Job.status) == status, *wanted, col(Job.finished_at) < ended_before)
                if status == JobState.SUCCEEDED:
                    old = old.where(videos.of_no_one())
                found += session.exec(old.limit(limit - len(found)))
    return list(dict.fromkeys(found))


def deleted_ones(database: Database, job_ids: Collection[str]) -> list[str]:
    """Return those of the jobs that are deleted and whose rows still exist."""
    with database.read() as session:
        return list(session.exec(select(Job.id).where(col(Job.id).in_(job_ids), col(Job.deleted).is_(True))))


def winning_attempts(database: Database, job_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return (status, attempt) by id, for jobs that exist."""
    query = select(Job.id, Job.status, Job.attempt).where(col(Job.id).in_(job_ids))
    with database.read() as session:
        return {job_id: (status, attempt) for job_id, status, attempt in session.exec(query)}


def _is_tidy() -> ColumnElement[bool]:
    """The condition that no files of an ended job remain to be removed on a node."""
    return or_(
        col(Job.phase).is_(None), col(Job.phase) != Phase.REMOVING, col(Job.finished_at) < clock.now() - _REMOVED_WITHIN
    )


def visible(session: Session, job_id: str, only: str | None, *, lock: bool = False, deleted_too: bool = False) -> Job:
    """Return the job; with `lock`, locked until the transaction ends. Raises NotFound."""
    job = session.get(Job, job_id, with_for_update=lock)
    if job is None or (job.deleted and not deleted_too) or (only is not None and job.owner != only):
        raise NotFound("job", job_id)
    return job
