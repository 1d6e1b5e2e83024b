"""Batches: many jobs that are accepted in one transaction, and then read, cancelled and reported together.

The jobs of a batch never change: a retry of one of them is no part of it. `batch_ends.py` counts their ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import func, insert
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from shared import clock
from shared.database.engine import Database, is_repetition, settled
from shared.database.tables import Batch, Job, epoch_now
from shared.errors import InvalidField, LimitReached, NotFound
from shared.jobs import accepting
from shared.jobs.accepting import NewJob
from shared.jobs.ending import ends
from shared.jobs.records import Stopped
from shared.states import JOB_ENDS, JobState

MOST_JOBS = 1000
_CANCELLED_AT_ONCE = 100  # in one transaction, so that other writers need not wait long


@dataclass(frozen=True)
class NewBatch:
    """A batch that is about to be stored."""

    id: str
    name: str = ""
    owner: str | None = None
    webhook_url: str | None = None
    idempotency_key: str | None = None
    request_hash: str | None = None


@dataclass(frozen=True)
class Accepted:
    """A stored batch, and whether it existed before (same idempotency key, same body)."""

    batch: Batch
    replayed: bool
    first_id: str = ""  # of the job that carries the idempotency key of a request with `count`


@dataclass(frozen=True)
class Page:
    batches: list[Batch]
    has_more: bool


@dataclass(frozen=True)
class Member:
    """A job of a batch, as far as summaries and archives need it."""

    id: str
    status: JobState
    attempt: int
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


@settled
def accept(database: Database, new: NewBatch, jobs: Sequence[NewJob]) -> Accepted:
    """Store the batch with all its jobs in one transaction, or nothing. The jobs have one owner.

    The idempotency key is the batch's own, or that of its first job, if one request stands for all jobs.

    Raises InvalidField if the idempotency key was used with another body, LimitReached if the owner's limit leaves no
    room for all jobs, StoreFull, DatabaseUnavailable and OutcomeUnknown.
    """
    try:
        return _accept(database, new, jobs)
    except IntegrityError:
        # Another transaction used the key between our read and our insert.
        return _accept(database, new, jobs)


def replayed(database: Database, new: NewBatch) -> Batch | None:
    """Return the batch that an earlier request with the same key and body created; None if there is none.

    Raises InvalidField if that request had another body.
    """
    if new.idempotency_key is None:
        return None
    with database.read() as session:
        return _earlier(session, new)


def replayed_first(database: Database, first: NewJob) -> Accepted | None:
    """Return what an earlier request with the key and body of this first job created; None if there is none.

    Raises InvalidField if that request had another body.
    """
    if first.idempotency_key is None:
        return None
    with database.read() as session:
        return _of_first(session, first)


def get(database: Database, batch_id: str, *, only: str | None = None) -> Batch:
    """Return the batch. `only`: the owner that may see it; None: any. Raises NotFound."""
    with database.read() as session:
        return _visible(session, batch_id, only)


def page(database: Database, *, only: str | None = None, limit: int, after: str | None = None) -> Page:
    """Return batches, newest first, after the one with id `after`. `only` as in `get`."""
    query = select(Batch).order_by(col(Batch.id).desc()).limit(limit + 1)
    if after is not None:
        query = query.where(col(Batch.id) < after)
    if only is not None:
        query = query.where(Batch.owner == only)
    with database.read() as session:
        rows = list(session.exec(query))
    return Page(rows[:limit], has_more=len(rows) > limit)


def counts(database: Database, batch_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return for each batch how many of its jobs are in each state, without deleted ones."""
    query = (
        select(Job.batch_id, Job.status, func.count())
        .where(col(Job.batch_id).in_(batch_ids), col(Job.deleted).is_(False))
        .group_by(col(Job.batch_id), col(Job.status))
    )
    found: dict[str, dict[str, int]] = {batch_id: {} for batch_id in batch_ids}
    with database.read() as session:
        for batch_id, status, count in session.exec(query):
            found[batch_id or ""][status] = count
    return found


def members(database: Database, batch_id: str, *, whole: bool = False) -> list[Member]:
    """Return the jobs of the batch that are not deleted, in the order of the request. `whole`: with their results."""
    columns: tuple[Any, ...] = (Job.id, Job.status, Job.attempt)
    columns += (Job.result, Job.error) if whole else ()
    query: Any = select(*columns).where(Job.batch_id == batch_id, col(Job.deleted).is_(False))
    with database.read() as session:
        # Sorted here: a planner could otherwise read all jobs in the order of their ids.
        rows = sorted(session.exec(query).all(), key=lambda row: str(row[0]))
    return [Member(row[0], JobState(row[1]), *row[2:]) for row in rows]


def cancel(database: Database, batch_id: str, *, only: str | None = None) -> tuple[Batch, list[Stopped]]:
    """Cancel the jobs of the batch that wait, and request that running ones stop. Idempotent.

    Return the batch, and the jobs that were cancelled or asked to stop. Raises NotFound.
    """
    _note_cancel(database, batch_id, only)
    stopped: list[Stopped] = []
    query = select(Job.id).where(Job.batch_id == batch_id, col(Job.status).not_in(JOB_ENDS))
    with database.read() as session:
        left = sorted(session.exec(query))
    for first in range(0, len(left), _CANCELLED_AT_ONCE):
        stopped += _cancel(database, left[first : first + _CANCELLED_AT_ONCE])
    return get(database, batch_id), stopped


def no_room(limit: int, room: int, count: int) -> LimitReached:
    """Return the refusal of a batch of `count` jobs. `limit`: of the key's queued jobs, which leaves that room."""
    message = f"This API key may have {limit} jobs queued, which leaves room for {max(0, room)} of the {count} "
    message += "jobs of the batch. Send fewer at once, or later"
    return LimitReached(message, accepting.QUEUE_RETRY_SECONDS)


@settled
def _note_cancel(database: Database, batch_id: str, only: str | None) -> None:
    with database.write() as session:
        batch = _visible(session, batch_id, only, lock=True)
        if batch.finished_at is None and batch.cancel_at is None:
            batch.cancel_at = clock.now()
            session.add(batch)


@settled
def _cancel(database: Database, job_ids: Sequence[str]) -> list[Stopped]:
    with database.write() as session:
        rows = select(Job).where(col(Job.id).in_(job_ids)).order_by(col(Job.id)).with_for_update()
        jobs = list(session.exec(rows))
        going = [Stopped(job, False) for job in jobs if job.status == JobState.RUNNING]
        again = [job for job in jobs if is_repetition() and job.status == JobState.CANCELLED]
        return [*going, *(Stopped(job, True) for job in (*ends.cancel_all(session, jobs), *again))]


def _accept(database: Database, new: NewBatch, jobs: Sequence[NewJob]) -> Accepted:
    now = clock.now()
    with database.read() as session:
        queued_at = session.connection().execute(select(epoch_now())).scalar_one()
        in_force = accepting.windows_for(session, jobs)
    # Built before the transaction, which keeps other writers waiting on SQLite.
    rows = [
        accepting.row_of(replace(job, batch_id=new.id), now, queued_at + place * 1e-6, in_force)
        for place, job in enumerate(jobs)
    ]
    with database.write() as session:
        if is_repetition() and (row := session.get(Batch, new.id)) is not None:
            return Accepted(row, replayed=False, first_id=jobs[0].id)
        if (earlier := _of_first(session, jobs[0])) is not None:
            return earlier
        if new.idempotency_key is not None and (row := _earlier(session, new)) is not None:
            return Accepted(row, replayed=True)
        room = accepting.room_of(session, jobs)
        if new.owner in room and room[new.owner] < len(jobs):
            raise no_room(jobs[0].owner_may_queue or 0, room[new.owner], len(jobs))
        batch = Batch(
            id=new.id, owner=new.owner, name=new.name, webhook_url=new.webhook_url,
            idempotency_key=new.idempotency_key, request_hash=new.request_hash, created_at=now, total=len(jobs),
            unended=len(jobs),
        )  # fmt: skip
        session.add(batch)
        session.flush()
        session.execute(insert(Job), rows)
    return Accepted(batch, replayed=False, first_id=jobs[0].id)


def _of_first(session: Session, first: NewJob) -> Accepted | None:
    """Return the batch whose first job has the key of this one. Raises InvalidField if a job has it otherwise."""
    if first.idempotency_key is None:
        return None
    job = session.exec(select(Job).where(Job.idempotency_key == first.idempotency_key)).one_or_none()
    if job is None:
        return None
    batch = session.get(Batch, job.batch_id) if job.batch_id is not None else None
    if batch is None or job.request_hash != first.request_hash:
        raise _mismatch()
    return Accepted(batch, replayed=True, first_id=job.id)


def _earlier(session: Session, new: NewBatch) -> Batch | None:
    row = session.exec(select(Batch).where(Batch.idempotency_key == new.idempotency_key)).one_or_none()
    if row is not None and row.request_hash != new.request_hash:
        raise _mismatch()
    return row


def _mismatch() -> InvalidField:
    return InvalidField.of("Idempotency-Key", "this key was used with another body", "idempotency_mismatch")


def _visible(session: Session, batch_id: str, only: str | None, *, lock: bool = False) -> Batch:
    batch = session.get(Batch, batch_id, with_for_update=lock)
    if batch is None or (only is not None and batch.owner != only):
        raise NotFound("batch", batch_id)
    return batch
