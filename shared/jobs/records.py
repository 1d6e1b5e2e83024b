"""A job as its owner sees it: accepted, read, listed, cancelled, deleted.

Only this module, `batches.py`, `bulk.py`, `flows/`, `ordering.py`, `attempts.py` and `finishing.py` (workers),
`dispatch.py` (the dispatcher), `checkpoints.py` and `download_control.py` write the `jobs` table. Each change of state
is one UPDATE that names the previous state, or locks the row first. Every write is idempotent: it detects its earlier
effect, so it can be repeated if the outcome of a commit is unknown.
"""

import hashlib
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel
from sqlalchemy import ColumnElement, and_, case, delete, func, insert, or_, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from shared import clock
from shared.catalogue.job_types import BULK, DOWNLOAD, GENERATION, GenerationParams
from shared.database.engine import Database, hold, is_repetition, settled
from shared.database.tables import Job, Use, epoch_now
from shared.errors import Conflict, InvalidField, LimitReached, NotFound, OutcomeUnknown
from shared.jobs import batch_ends, flow_marks, webhooks
from shared.jobs.lines import holding, windows
from shared.jobs.lines.names import line_of
from shared.jobs.lines.windows import Windows
from shared.jobs.usage.gpu_time import device_seconds
from shared.states import JOB_ENDS, JobState, Phase, Priority
from shared.telemetry import tracing

_REMOVED_WITHIN = timedelta(days=1)  # a node that is absent for longer may never return
QUEUE_RETRY_SECONDS = 10  # for owners at their limit: when one of their jobs will start is unknown


@dataclass(frozen=True)
class NewJob:
    """A validated job that is about to be stored."""

    type: str
    params: BaseModel
    priority: Priority
    min_vram_mb: int = 0
    min_ram_mb: int = 0
    memory_needs: str = ""  # of `memory_plan.needs`
    id: str = field(default_factory=lambda: new_id())
    mock: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    owner: str | None = None  # id of the API key
    owner_may_queue: int | None = None  # with this many jobs queued, further ones are refused
    idempotency_key: str | None = None
    request_hash: str | None = None
    retry_of: str | None = None
    batch_id: str | None = None
    max_failures: int = 5
    retry_backoff_seconds: float | None = None  # after the first failure; None: the setting
    bandwidth_mbps: float | None = None  # of a download, in 10^6 bits a second
    webhook_url: str | None = None
    webhook_progress: bool = False
    delay_seconds: float = 0.0  # it joins the queue this long after it was accepted
    start_after: float | None = None  # seconds since 1970: it joins the queue then
    start_before: float | None = None  # seconds since 1970: if it has not started by then, it fails
    traceparent: str | None = field(default_factory=tracing.here)  # of the request
    flow_id: str | None = None
    depends: bool = False  # on other jobs of its flow: it is held until they have ended


@dataclass(frozen=True)
class Accepted:
    """The result for a `NewJob`: its row, and whether it existed before (same idempotency key, same body)."""

    job: Job
    replayed: bool


@dataclass(frozen=True)
class Stopped:
    """A job after a cancel or delete. `ended`: this request ended it, so that the end is reported once."""

    job: Job
    ended: bool


def queue_limit_message(limit: int) -> str:
    return f"This API key has {limit} jobs queued, which is its limit"


def digest(request: str) -> str:
    """Return the hash by which a repeated request is recognised."""
    return hashlib.sha256(request.encode()).hexdigest()


def new_ids(count: int) -> list[str]:
    """Return so many ids that sort in this order."""
    ids: list[str] = []
    while len(ids) < count:
        one = new_id()
        if not ids or one > ids[-1]:  # two of the same quarter of a microsecond may be in the wrong order
            ids.append(one)
    return ids


def new_id() -> str:
    """Return a UUIDv7 (RFC 9562, method 3): milliseconds, their fraction, random bits. Ids sort by creation."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = rest * 4096 // 1_000_000
    value = (milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | secrets.randbits(62)
    return str(uuid.UUID(int=value))


@settled
def accept(database: Database, new: Sequence[NewJob]) -> list[Accepted | Exception]:
    """Store the jobs in one transaction. Return for each its row, now on disk, or the error why it was not stored.

    A known idempotency key returns the earlier job if the body is the same, else an InvalidField. A job over its
    owner's limit returns a LimitReached, and a download that is already running to that node a Conflict.

    Raises StoreFull and DatabaseUnavailable if none was stored, and OutcomeUnknown.
    """
    try:
        return list(_accept(database, new))
    except IntegrityError:
        # Another transaction used one of the keys between our read and our insert. Stored one by one, each sees it.
        return [_accept_alone(database, job) for job in new]


def get(database: Database, job_id: str, *, only: str | None = None) -> Job:
    """Return the job. `only`: the owner that may see it; None: any. Raises NotFound, also for deleted jobs."""
    with database.read() as session:
        return visible(session, job_id, only)


def was_accepted(database: Database, new: NewJob) -> bool:
    """Return whether a job with that idempotency key exists."""
    if new.idempotency_key is None:
        return False
    with database.read() as session:
        query = select(func.count()).select_from(Job).where(Job.idempotency_key == new.idempotency_key)
        return session.exec(query).one() > 0


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
    return Stopped(job, ended)


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
        ended = (col(Job.status).in_(JOB_ENDS), _is_tidy(), flow_marks.of_no_open_flow())
        result = session.connection().execute(delete(Job).where(col(Job.id).in_(job_ids), *ended))
        flow_marks.drop_empty(session, flows)
        batch_ends.drop_empty(session, batch_ids)
        return int(result.rowcount)


def purgeable(database: Database, ended_before: datetime, limit: int = 500, besides: Collection[str] = ()) -> list[str]:
    """Return the ids of ended jobs that were deleted or ended before that time, without those in `besides`."""
    wanted = (col(Job.id).not_in(besides), _is_tidy(), flow_marks.of_no_open_flow())
    with database.read() as session:
        # An expression, because SQLite would read the index of all ended jobs to find the few deleted ones.
        ended = col(Job.status).concat("").in_(JOB_ENDS)
        found = list(session.exec(select(Job.id).where(*wanted, ended, col(Job.deleted).is_(True)).limit(limit)))
        # One query for each state, without the deleted ones, so that each reads a range of an index.
        for status in JOB_ENDS:
            if len(found) < limit:
                old = select(Job.id).where(col(Job.status) == status, *wanted, col(Job.finished_at) < ended_before)
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


def mark_partials(job: Job) -> None:
    """Mark a cancelled download whose node has partial files to remove, in the transaction that ends the job."""
    if job.type == DOWNLOAD and job.status == JobState.CANCELLED and job.attempt > 0:
        job.phase = Phase.REMOVING


def note_end(session: Session, job: Job) -> None:
    """Store the use and the message, and tell flow and batch. Call it in the transaction that ends the job."""
    assert job.finished_at is not None
    if job.type == GENERATION:
        session.add(use_of(job, JobState(job.status), job.finished_at, job.result))
    flow_marks.note_end(session, job)
    webhooks.add_end(session, job, f"msg_{new_id()}")
    if job.batch_id is not None:  # last, because jobs are locked before batches
        batch_ends.note(session, job.batch_id, {JobState(job.status): 1}, job.finished_at, f"msg_{new_id()}")


def use_of(job: Job, outcome: JobState, finished_at: datetime, result: dict[str, Any] | None) -> Use:
    """Return the use of an ended generation, which is kept forever."""
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
        device_seconds=device_seconds(job, finished_at),
        devices=job.devices,
        width=job.params["width"],
        height=job.params["height"],
        frames=job.params["frames"],
        steps=job.params["steps"],
        speed=job.speed,
        work=job.work,
        warm=made.get("warm"),
        timings=made.get("timings", {}),
        resumed_from_step=job.resumed_from_step,
        peak_vram_mb=made.get("peak_vram_mb"),
        device_name=made.get("device_name"),
        quality=(made.get("quality") or {}).get("score"),
        profile=made.get("profile"),
        error_code=(job.error or {}).get("code"),
    )


def _is_tidy() -> ColumnElement[bool]:
    """The condition that no files of an ended job remain to be removed on a node."""
    return or_(
        col(Job.phase).is_(None), col(Job.phase) != Phase.REMOVING, col(Job.finished_at) < clock.now() - _REMOVED_WITHIN
    )


def _accept_alone(database: Database, new: NewJob) -> Accepted | Exception:
    """Return an error instead of raising it, because earlier jobs are stored and must not be reported as lost."""
    try:
        return _accept(database, [new])[0]
    except OutcomeUnknown:
        raise  # all are repeated, and those that were stored are recognised
    except IntegrityError as error:
        if new.type == DOWNLOAD:
            return Conflict("A download of this model to this node exists already and has not ended")
        return error
    except Exception as error:
        return error


def _accept(database: Database, new: Sequence[NewJob]) -> list[Accepted | InvalidField | LimitReached]:
    now = clock.now()
    with database.write() as session:
        queued_at = session.connection().execute(select(epoch_now())).scalar_one()
        keys = [job.idempotency_key for job in new if job.idempotency_key is not None]
        hashes: dict[str | None, tuple[str, str | None]] = {}  # by key: the job's id and the hash of its request
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
        in_force = windows_for(session, new)
        room = room_of(session, new)
        too_many = set()
        for place, job in enumerate(new):
            if job.id in accepted_before or job.idempotency_key in hashes:
                continue
            if job.owner in room:
                room[job.owner] -= 1
            if room.get(job.owner, 0) < 0:
                too_many.add(job.id)
            else:
                # One commit, but in order of arrival.
                fresh.append(row_of(job, now, queued_at + place * 1e-6, in_force))
                if job.idempotency_key is not None:
                    hashes[job.idempotency_key] = (job.id, job.request_hash)
        if fresh:
            query = insert(Job).returning(Job, sort_by_parameter_order=True)
            known |= {row.id: row for row in session.scalars(query, fresh)}
    outcome: list[Accepted | InvalidField | LimitReached] = []
    for job in new:
        if job.id in too_many:
            outcome.append(LimitReached(queue_limit_message(job.owner_may_queue or 0), QUEUE_RETRY_SECONDS))
            continue
        owner_id, request_hash = hashes.get(job.idempotency_key, (job.id, job.request_hash))
        if request_hash == job.request_hash:
            outcome.append(Accepted(known[owner_id], replayed=owner_id != job.id))
        else:
            outcome.append(
                InvalidField.of("Idempotency-Key", "this key was used with another body", "idempotency_mismatch")
            )
    return outcome


def room_of(session: Session, new: Sequence[NewJob]) -> dict[str | None, int]:
    """Return how many jobs each owner with a limit may still queue."""
    limits = {
        job.owner: job.owner_may_queue for job in new if job.owner is not None and job.owner_may_queue is not None
    }
    if not limits:
        return {}
    for owner in sorted(filter(None, limits)):
        hold(session, f"queued by {owner}")  # otherwise two transactions could count at the same time
    room: dict[str | None, int] = {}
    for owner, limit in limits.items():  # one query for each, so that the index of the owner's queued jobs is used
        counting = select(func.count()).select_from(Job).where(Job.owner == owner, Job.status == JobState.QUEUED)
        room[owner] = limit - session.exec(counting).one()
    return room


def windows_for(session: Session, new: Sequence[NewJob]) -> Windows:
    """Return the windows in force; none are read if no job is of low priority."""
    return windows.read_in(session) if any(job.priority == Priority.LOW for job in new) else Windows()


def row_of(new: NewJob, now: datetime, queued_at: float, in_force: Windows) -> dict[str, Any]:
    """Return the row as plain values: under load, constructing an object costs more than storing it."""
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
        "memory_needs": new.memory_needs,
        "devices": 1 if new.mock else getattr(params, "devices_per_job", 1),
    }
    later = new.start_after is not None and new.start_after > queued_at
    held = None
    if new.depends:
        held = holding.DEPENDENCY
    elif later:
        held = holding.START_TIME
    elif in_force.closed(new.type, new.priority.rank, new.owner, None, queued_at):
        held = holding.WINDOW
    elif new.type == BULK:
        held = holding.BULK
    return {
        **needs,
        "id": new.id,
        "type": new.type,
        "status": JobState.QUEUED,
        "line": line_of(**needs) if held is None else holding.waiting_line(held, new.owner),
        "held": held,
        "start_after": new.start_after,
        "start_before": new.start_before,
        "work": work,
        "speed": getattr(params, "speed", "exact"),
        "params": params.model_dump(mode="json"),
        "labels": new.metadata,
        "idempotency_key": new.idempotency_key,
        "request_hash": new.request_hash,
        "retry_of": new.retry_of,
        "flow_id": new.flow_id,
        "batch_id": new.batch_id,
        "max_failures": new.max_failures,
        "retry_backoff_seconds": new.retry_backoff_seconds,
        "bandwidth_mbps": new.bandwidth_mbps,
        "webhook_url": new.webhook_url,
        "webhook_progress": new.webhook_progress,
        "traceparent": new.traceparent,
        "created_at": now,
        "queued_at": new.start_after if later else queued_at + new.delay_seconds,
        "not_before": queued_at + new.delay_seconds if new.delay_seconds else 0.0,
    }


def visible(session: Session, job_id: str, only: str | None, *, lock: bool = False, deleted_too: bool = False) -> Job:
    """Return the job; with `lock`, locked until the transaction ends. Raises NotFound."""
    job = session.get(Job, job_id, with_for_update=lock)
    if job is None or (job.deleted and not deleted_too) or (only is not None and job.owner != only):
        raise NotFound("job", job_id)
    return job


def cancel_all(session: Session, jobs: Sequence[Job]) -> list[Job]:
    """Cancel many jobs whose rows are locked, as one by one but in few statements. Return those that this ended.

    The locks of their batches are taken here, all in one order.
    """
    batch_ends.locked_of(session, [job.id for job in jobs])
    going = [job.id for job in jobs if job.status == JobState.RUNNING and job.cancel_at is None]
    if going:
        session.connection().execute(update(Job).where(col(Job.id).in_(going)).values(cancel_at=epoch_now()))
    waiting = [job.id for job in jobs if job.status in (JobState.QUEUED, JobState.PAUSED)]
    if not waiting:
        return []
    now = clock.now()
    partial_files = case((and_(col(Job.type) == DOWNLOAD, col(Job.attempt) > 0), Phase.REMOVING.value), else_=None)
    session.connection().execute(
        update(Job)
        .where(col(Job.id).in_(waiting))
        .values(
            status=JobState.CANCELLED,
            finished_at=now,
            cancel_at=epoch_now(),
            dispatched_to=None,
            dispatched_at=None,
            phase=partial_files,
            unplaceable_since=None,
            held=None,
        )
    )
    rows = select(Job).where(col(Job.id).in_(waiting)).order_by(col(Job.id))
    ended = list(session.exec(rows.execution_options(populate_existing=True)))
    of_batches: Counter[str] = Counter()
    for job in ended:
        if job.type == GENERATION:
            session.add(use_of(job, JobState.CANCELLED, now, job.result))
        flow_marks.note_end(session, job)
        webhooks.add_end(session, job, f"msg_{new_id()}")
        if job.batch_id is not None:
            of_batches[job.batch_id] += 1
    for batch_id, count in sorted(of_batches.items()):
        batch_ends.note(session, batch_id, {JobState.CANCELLED: count}, now, f"msg_{new_id()}")
    return ended


def cancel_locked(session: Session, job: Job) -> bool:
    """Cancel a job whose row is locked. Return whether that ended it."""
    if job.status in (JobState.QUEUED, JobState.PAUSED):
        job.status = JobState.CANCELLED
        job.finished_at = clock.now()
        job.cancel_at = epoch_now()  # type: ignore[assignment]
        job.dispatched_to = job.dispatched_at = job.phase = job.unplaceable_since = job.held = None
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
