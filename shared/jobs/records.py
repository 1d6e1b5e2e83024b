"""A job as its owner sees it: accepted, read, listed, cancelled, deleted.

With `attempts.py` (the worker's side) and `dispatch.py` (the dispatcher's side) this is the only writer of
the `jobs` table. A change of state is one UPDATE that names the state it starts from, or begins by locking the row.
Every write may be repeated: it recognises what it has done before, so a commit that was not answered is settled.
"""

import secrets
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel
from sqlalchemy import ColumnElement, delete, func, insert, or_
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from shared import clock
from shared.catalogue.job_types import DOWNLOAD, GENERATION, GenerationParams
from shared.database.engine import Database, hold, is_repetition, settled
from shared.database.tables import Job, Use, epoch_now
from shared.errors import Conflict, InvalidField, LimitReached, NotFound, OutcomeUnknown
from shared.jobs import webhooks
from shared.jobs.lines import line_of
from shared.states import JOB_ENDS, JobState, Phase, Priority
from shared.telemetry import tracing

_REMOVED_WITHIN = timedelta(days=1)  # a node that is away for longer may never come back
_QUEUE_RETRY_SECONDS = 10  # for who has too many queued: when one of them starts is not known


@dataclass(frozen=True)
class NewJob:
    """A job about to be accepted: all that admission settled."""

    type: str
    params: BaseModel
    priority: Priority
    min_vram_mb: int = 0
    min_ram_mb: int = 0
    id: str = field(default_factory=lambda: new_id())
    mock: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    owner: str | None = None  # the API key that asks
    owner_may_queue: int | None = None  # with this many jobs queued the owner has to wait
    idempotency_key: str | None = None
    request_hash: str | None = None
    retry_of: str | None = None
    max_failures: int = 5
    bandwidth_mbps: float | None = None  # of a download, in 10^6 bits a second
    webhook_url: str | None = None
    webhook_progress: bool = False
    delay_seconds: float = 0.0  # it joins the queue that long after it was accepted
    traceparent: str | None = field(default_factory=tracing.here)  # of the request that asks for it


@dataclass(frozen=True)
class Accepted:
    """What became of a `NewJob`: its row, and whether the row was there before (same key, same body)."""

    job: Job
    replayed: bool


@dataclass(frozen=True)
class Stopped:
    """A job after a cancel or a delete; `ended`: this very request ended it, so that it is reported once."""

    job: Job
    ended: bool


def new_id() -> str:
    """A UUIDv7 (RFC 9562, method 3): milliseconds, then the fraction of one, then random, so ids sort by creation."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = rest * 4096 // 1_000_000
    value = (milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | secrets.randbits(62)
    return str(uuid.UUID(int=value))


@settled
def accept(database: Database, new: Sequence[NewJob]) -> list[Accepted | Exception]:
    """Stores the jobs in one transaction; on return they are on disk. For each, its row or why it was not stored.

    A known idempotency key gives the old job where the body is the same, else an InvalidField; a job too many for its
    owner gives a LimitReached, a download of a model that is on its way to that node already a Conflict.
    Raises StoreFull and DatabaseUnavailable where none of them was stored, and OutcomeUnknown.
    """
    try:
        return list(_accept(database, new))
    except IntegrityError:
        # Somebody else took one of the keys between our look and our insert. One by one, each sees the truth.
        return [_accept_alone(database, job) for job in new]


def get(database: Database, job_id: str, *, only: str | None = None) -> Job:
    """Raises NotFound, also for a job that its owner has deleted. `only`: for this owner's eyes; None: for all."""
    with database.read() as session:
        return _visible(session, job_id, only)


def was_accepted(database: Database, new: NewJob) -> bool:
    """Whether a job under that idempotency key is there already."""
    if new.idempotency_key is None:
        return False
    with database.read() as session:
        query = select(func.count()).select_from(Job).where(Job.idempotency_key == new.idempotency_key)
        return session.exec(query).one() > 0


def several(database: Database, job_ids: Sequence[str]) -> list[Job]:
    """Those of the jobs that are there and are shown, in no order."""
    with database.read() as session:
        return list(session.exec(select(Job).where(col(Job.id).in_(job_ids), col(Job.deleted).is_(False))))


@settled
def request_cancel(database: Database, job_id: str, *, only: str | None = None) -> Stopped:
    """Cancels a waiting job at once and asks a running one to stop. Idempotent. `only` as in `get`.

    Raises NotFound, and Conflict where the job ended otherwise.
    """
    with database.write() as session:
        job = _visible(session, job_id, only, lock=True)
        ended = _cancel(session, job) or (is_repetition() and job.status == JobState.CANCELLED)
    if job.status in (JobState.SUCCEEDED, JobState.FAILED):
        raise Conflict(f"The job has already {job.status}; only a queued, paused or running job can be cancelled")
    return Stopped(job, ended)


@settled
def remove(database: Database, job_id: str, *, only: str | None = None) -> Stopped:
    """Hides the job, cancelling it if need be, and frees its idempotency key. Raises NotFound. `only` as in `get`.

    Its row goes by `purge` once it has ended.
    """
    with database.write() as session:
        # A repetition may find it hidden by its own first call.
        job = _visible(session, job_id, only, lock=True, deleted_too=is_repetition())
        ended = _cancel(session, job)
        job.deleted = True
        job.idempotency_key = None
        session.add(job)
    return Stopped(job, ended)


def purge(database: Database, job_ids: Sequence[str]) -> int:
    """Drops the rows of ended jobs (their uses stay). Returns how many went.

    A cancelled download stays until its node has removed the partial files that only its row names, a day at most.
    """
    if not job_ids:
        return 0
    with database.write() as session:
        webhooks.drop(session, job_ids)
        result = session.connection().execute(
            delete(Job).where(col(Job.id).in_(job_ids), col(Job.status).in_(JOB_ENDS), _is_tidy())
        )
        return int(result.rowcount)


def purgeable(database: Database, ended_before: datetime, limit: int = 500, besides: Collection[str] = ()) -> list[str]:
    """Ids of ended jobs that their owner deleted, or that ended before that moment. `besides`: these are left out."""
    wanted = (col(Job.id).not_in(besides), _is_tidy())
    with database.read() as session:
        # The state as an expression: SQLite would read the index of all ended jobs for the few that are hidden.
        ended = col(Job.status).concat("").in_(JOB_ENDS)
        found = list(session.exec(select(Job.id).where(*wanted, ended, col(Job.deleted).is_(True)).limit(limit)))
        for status in JOB_ENDS:  # one by one, and apart from the hidden ones: so each is a range of an index
            if len(found) < limit:
                old = select(Job.id).where(col(Job.status) == status, *wanted, col(Job.finished_at) < ended_before)
                found += session.exec(old.limit(limit - len(found)))
    return list(dict.fromkeys(found))


def winning_attempts(database: Database, job_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """(status, attempt) of those of the jobs that exist."""
    query = select(Job.id, Job.status, Job.attempt).where(col(Job.id).in_(job_ids))
    with database.read() as session:
        return {job_id: (status, attempt) for job_id, status, attempt in session.exec(query)}


def mark_partials(job: Job) -> None:
    """In the transaction that ends the job: of a cancelled download, that its node has partial files to remove."""
    if job.type == DOWNLOAD and job.status == JobState.CANCELLED and job.attempt > 0:
        job.phase = Phase.REMOVING


def is_generation(job: Job) -> bool:
    """Only generations are uses."""
    return job.type == GENERATION


def note_end(session: Session, job: Job) -> None:
    """In the transaction that ends the job: the use that stays, and the word to its webhook."""
    assert job.finished_at is not None
    if is_generation(job):
        session.add(use_of(job, JobState(job.status), job.finished_at, job.result))
    webhooks.add_end(session, job, f"msg_{new_id()}")


def use_of(job: Job, outcome: JobState, finished_at: datetime, result: dict[str, Any] | None) -> Use:
    """The row that stays for ever: what this job asked of the installation and how it ended."""
    made = result or {}
    assert job.model_id is not None, "a generation names its model"
    return Use(
        job_id=job.id,
        model_id=job.model_id,
        model_cache_key=job.model_cache_key,
        outcome=outcome,
        owner=job.owner,
        mock=job.mock,
        node=job.node,
        device=job.device,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=finished_at,
        seconds=(finished_at - job.started_at).total_seconds() if job.started_at else None,
        width=job.params["width"],
        height=job.params["height"],
        frames=job.params["frames"],
        steps=job.params["steps"],
        warm=made.get("warm"),
        timings=made.get("timings", {}),
        peak_vram_mb=made.get("peak_vram_mb"),
        device_name=made.get("device_name"),
        quality=(made.get("quality") or {}).get("score"),
        profile=made.get("profile"),
        error_code=(job.error or {}).get("code"),
    )


def _is_tidy() -> ColumnElement[bool]:
    """Of an ended job: nothing of it waits on a node to be removed."""
    return or_(
        col(Job.phase).is_(None), col(Job.phase) != Phase.REMOVING, col(Job.finished_at) < clock.now() - _REMOVED_WITHIN
    )


def _accept_alone(database: Database, new: NewJob) -> Accepted | Exception:
    """Returns an error instead of raising it: the jobs before this one are stored, and must not be reported as lost."""
    try:
        return _accept(database, [new])[0]
    except OutcomeUnknown:
        raise  # all of them are repeated, and those that were stored are recognised
    except IntegrityError as error:
        if new.type == DOWNLOAD:
            return Conflict("A download of this model to this node is under way already")
        return error
    except Exception as error:
        return error


def _accept(database: Database, new: Sequence[NewJob]) -> list[Accepted | InvalidField | LimitReached]:
    now = clock.now()
    with database.write() as session:
        queued_at = session.connection().execute(select(epoch_now())).scalar_one()
        keys = [job.idempotency_key for job in new if job.idempotency_key is not None]
        hashes: dict[str | None, tuple[str, str | None]] = {}  # by key: whose it is, and the hash of what was asked
        known = {}
        if is_repetition():
            known = {job.id: job for job in session.exec(select(Job).where(col(Job.id).in_([job.id for job in new])))}
        accepted_before = frozenset(known)
        if keys:
            found = session.exec(select(Job).where(col(Job.idempotency_key).in_(keys)))
            known |= {job.id: job for job in found}
            hashes = {
                job.idempotency_key: (job.id, job.request_hash)
                for job in known.values()
                if job.idempotency_key is not None
            }
        fresh: list[dict[str, Any]] = []
        room = _room(session, new)
        too_many = set()
        for place, job in enumerate(new):
            if job.id in accepted_before or job.idempotency_key in hashes:
                continue
            if job.owner in room:
                room[job.owner] -= 1
            if room.get(job.owner, 0) < 0:
                too_many.add(job.id)
            else:
                fresh.append(_values(job, now, queued_at + place * 1e-6))  # one commit, but first come, first served
                if job.idempotency_key is not None:
                    hashes[job.idempotency_key] = (job.id, job.request_hash)
        if fresh:
            query = insert(Job).returning(Job, sort_by_parameter_order=True)
            known |= {row.id: row for row in session.scalars(query, fresh)}
    outcome: list[Accepted | InvalidField | LimitReached] = []
    for job in new:
        if job.id in too_many:
            said = f"This API key has {job.owner_may_queue} jobs queued, which is its limit"
            outcome.append(LimitReached(said, _QUEUE_RETRY_SECONDS))
            continue
        owner_id, request_hash = hashes.get(job.idempotency_key, (job.id, job.request_hash))
        if request_hash == job.request_hash:
            outcome.append(Accepted(known[owner_id], replayed=owner_id != job.id))
        else:
            outcome.append(
                InvalidField.of("Idempotency-Key", "this key was used with another body", "idempotency_mismatch")
            )
    return outcome


def _room(session: Session, new: Sequence[NewJob]) -> dict[str | None, int]:
    """How many jobs each owner that has a limit may still queue."""
    limits = {
        job.owner: job.owner_may_queue for job in new if job.owner is not None and job.owner_may_queue is not None
    }
    if not limits:
        return {}
    for owner in sorted(filter(None, limits)):
        hold(session, f"queued by {owner}")  # two could count at once
    room: dict[str | None, int] = {}
    for owner, limit in limits.items():  # one by one: so the index of what an owner has queued is used
        counting = select(func.count()).select_from(Job).where(Job.owner == owner, Job.status == JobState.QUEUED)
        room[owner] = limit - session.exec(counting).one()
    return room


def _values(new: NewJob, now: datetime, queued_at: float) -> dict[str, Any]:
    """The row as plain values: under load, constructing it as an object costs more than storing it."""
    params = new.params
    model_cache_key, work = (
        ("", 0.0) if not isinstance(params, GenerationParams) else (params.model_cache_key, params.work)
    )
    needs: dict[str, Any] = {
        "owner": new.owner,
        "priority": new.priority.rank,
        "model_id": getattr(params, "model_id", None),
        "model_cache_key": model_cache_key,
        "target_node": getattr(params, "node", None),
        "mock": new.mock,
        "min_vram_mb": new.min_vram_mb,
        "min_ram_mb": new.min_ram_mb,
    }
    return {
        **needs,
        "id": new.id,
        "type": new.type,
        "status": JobState.QUEUED,
        "line": line_of(**needs),
        "work": work,
        "params": params.model_dump(mode="json"),
        "labels": new.metadata,
        "idempotency_key": new.idempotency_key,
        "request_hash": new.request_hash,
        "retry_of": new.retry_of,
        "max_failures": new.max_failures,
        "bandwidth_mbps": new.bandwidth_mbps,
        "webhook_url": new.webhook_url,
        "webhook_progress": new.webhook_progress,
        "traceparent": new.traceparent,
        "created_at": now,
        "queued_at": queued_at + new.delay_seconds,
        "not_before": queued_at + new.delay_seconds if new.delay_seconds else 0.0,
    }


def _visible(session: Session, job_id: str, only: str | None, *, lock: bool = False, deleted_too: bool = False) -> Job:
    job = session.get(Job, job_id, with_for_update=lock)
    if job is None or (job.deleted and not deleted_too) or (only is not None and job.owner != only):
        raise NotFound("job", job_id)
    return job


def _cancel(session: Session, job: Job) -> bool:
    """Of a job whose row is locked. Returns whether that ended it."""
    if job.status in (JobState.QUEUED, JobState.PAUSED):
        job.status = JobState.CANCELLED
        job.finished_at = clock.now()
        job.cancel_at = epoch_now()  # type: ignore[assignment]
        job.dispatched_to = job.dispatched_at = job.phase = job.unplaceable_since = None
        mark_partials(job)
        session.add(job)
        session.flush()
        session.refresh(job)
        note_end(session, job)
        return True
    if job.status == JobState.RUNNING and job.cancel_at is None:
        job.cancel_at = epoch_now()  # type: ignore[assignment]
        session.add(job)
        session.flush()
        session.refresh(job)
    return False
