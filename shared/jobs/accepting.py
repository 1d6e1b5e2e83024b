"""Accept jobs: store new ones, many in one transaction. Repeated requests find the job of the first."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy import func, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import defer
from sqlalchemy.orm.attributes import set_committed_value
from sqlmodel import Session, col, select

from shared import clock
from shared.catalogue.job_types import BULK, DOWNLOAD, GenerationParams
from shared.database.engine import Database, hold, is_repetition, settled
from shared.database.tables import Job, epoch_now
from shared.errors import Conflict, InvalidField, LimitReached, OutcomeUnknown
from shared.jobs.ids import new_id
from shared.jobs.lines import holding, windows
from shared.jobs.lines.names import line_of
from shared.jobs.lines.windows import Windows
from shared.states import JobState, Priority
from shared.telemetry import tracing

# JSON of a new row, which is known and need not be parsed.
_GIVEN = ("params", "labels")
_NOT_READ_BACK = tuple(defer(getattr(Job, name)) for name in _GIVEN)

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


def queue_limit_message(limit: int) -> str:
    return f"This API key has {limit} jobs queued, which is its limit"


def digest(request: str) -> str:
    """Return the hash by which a repeated request is recognised."""
    return hashlib.sha256(request.encode()).hexdigest()


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


def was_accepted(database: Database, new: NewJob) -> bool:
    """Return whether a job with that idempotency key exists."""
    if new.idempotency_key is None:
        return False
    with database.read() as session:
        query = select(func.count()).select_from(Job).where(Job.idempotency_key == new.idempotency_key)
        return session.exec(query).one() > 0


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
            query = insert(Job).returning(Job, sort_by_parameter_order=True).options(*_NOT_READ_BACK)
            for row, values in zip(session.scalars(query, fresh), fresh, strict=True):
                for name in _GIVEN:
                    set_committed_value(row, name, values[name])
                known[row.id] = row
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
    model_cache_key, work, volume = "", 0.0, 0.0
    if isinstance(params, GenerationParams):
        model_cache_key, work, volume = params.model_cache_key, params.work, params.volume
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
        "volume": volume,
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
