"""Which waiting job is called to which device: the dispatcher's side of the `jobs` table.

A bell is a Celery message; the row says on which device's queue it lies and since when. A bell may be lost, doubled or
stale: the row decides, and only the device that it names may claim.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import update
from sqlmodel import Session, col, select

from shared import clock
from shared.attempts import Failure
from shared.database import Database
from shared.job_types import GENERATION
from shared.jobs import note_end
from shared.states import JobState, Phase
from shared.tables import Job, epoch_now

# Per model, this many of the first in line are looked at. Enough to fill any number of devices between two looks. Where
# several owners wait they share them, but none has fewer than this.
_LOOK_AHEAD = 200
_LOOK_AHEAD_OF_EACH = 20


@dataclass(frozen=True)
class Waiting:
    """A queued job as placement sees it. Times are seconds by the database's clock."""

    job_id: str
    type: str
    model_id: str | None
    warm_key: str
    target_node: str | None
    priority: int
    owner: str | None
    queued_at: float
    not_before: float
    work: float
    mock: bool
    min_vram_mb: int
    min_ram_mb: int
    phase: str | None
    bell_device: str | None
    bell_at: float | None


@dataclass(frozen=True)
class Busy:
    """A running job as placement sees it."""

    job_id: str
    type: str
    model_id: str | None
    device_key: str
    warm_key: str
    node: str
    priority: int
    halt: str | None
    owner: str | None
    work: float
    claimed_at: float
    mock: bool


@dataclass(frozen=True)
class Queue:
    """The moment that placement decides on."""

    now: float
    waiting: tuple[Waiting, ...]
    busy: tuple[Busy, ...]


_WAITING = (
    Job.id, Job.type, Job.model_id, Job.warm_key, Job.target_node, Job.priority, Job.owner, Job.queued_at,
    Job.not_before, Job.work, Job.mock, Job.min_vram_mb, Job.min_ram_mb, Job.phase, Job.bell_device, Job.bell_at,
)  # fmt: skip
_BUSY = (
    Job.id, Job.type, Job.model_id, Job.device_key, Job.warm_key, Job.node, Job.priority, Job.halt, Job.owner, Job.work,
    Job.claimed_at, Job.mock,
)  # fmt: skip


def look(database: Database) -> Queue:
    """The first in line of each model and owner, every bell that is out, and what runs."""
    queued = col(Job.status) == JobState.QUEUED
    owned = col(Job.owner).is_not(None)
    with database.read() as session:
        connection = session.connection()
        now = connection.execute(select(epoch_now())).scalar_one()
        models = connection.execute(select(Job.model_id).where(queued).distinct()).scalars().all()
        owners = connection.execute(select(Job.owner).where(queued, owned).distinct()).scalars().all()
        # Whoever has queued many must not hide those who came after.
        lines = [queued] if not owners else [queued & ~owned, *(queued & (col(Job.owner) == one) for one in owners)]
        each = max(_LOOK_AHEAD // len(lines), _LOOK_AHEAD_OF_EACH)
        waiting: dict[str, Waiting] = {}
        for model_id in models:
            of_model = col(Job.model_id).is_(None) if model_id is None else col(Job.model_id) == model_id
            for line in lines:
                first = (
                    select(*_WAITING)  # type: ignore[call-overload]
                    .where(line, of_model)
                    .order_by(col(Job.priority), col(Job.queued_at))
                    .limit(each)
                )
                waiting.update((row[0], Waiting(*row)) for row in connection.execute(first))
        if len(waiting) >= each:
            rung = select(*_WAITING).where(queued, col(Job.bell_device).is_not(None))  # type: ignore[call-overload]
            waiting.update((row[0], Waiting(*row)) for row in connection.execute(rung))
        running = select(*_BUSY).where(col(Job.status) == JobState.RUNNING)  # type: ignore[call-overload]
        busy = tuple(Busy(*row) for row in connection.execute(running))
    return Queue(now, tuple(waiting.values()), busy)


def ring(database: Database, bells: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Notes each (job id, device key) as rung now. Returns those that were still waiting."""
    if not bells:
        return []
    rung = []
    with database.write() as session:
        for job_id, device_key in bells:
            changed = session.connection().execute(
                update(Job)
                .where(col(Job.id) == job_id, col(Job.status) == JobState.QUEUED)
                .values(bell_device=device_key, bell_at=epoch_now(), phase=None)
            )
            if changed.rowcount:
                rung.append((job_id, device_key))
    return rung


def silence(database: Database, job_ids: Collection[str] | None = None) -> int:
    """Takes bells back (all of them, or those of these jobs): the jobs wait to be placed again."""
    where = [col(Job.status) == JobState.QUEUED, col(Job.bell_device).is_not(None)]
    if job_ids is not None:
        where.append(col(Job.id).in_(job_ids))
    with database.write() as session:
        query = update(Job).where(*where).values(bell_device=None, bell_at=None)
        return int(session.connection().execute(query).rowcount)


def hand_back(database: Database, job_id: str, device_key: str) -> bool:
    """Takes back the bell of a job that the worker there cannot read: it is to be rung anew. Whether it was its own."""
    where = (col(Job.id) == job_id, col(Job.status) == JobState.QUEUED, col(Job.bell_device) == device_key)
    with database.write() as session:
        query = update(Job).where(*where).values(bell_device=None, bell_at=None)
        return bool(session.connection().execute(query).rowcount)


def mark_waiting_for_model(database: Database, held: Collection[str]) -> int:
    """Says `waiting_for_model` on queued jobs whose model no node holds, and takes it from the others."""
    queued = (col(Job.status) == JobState.QUEUED, col(Job.mock).is_(False), col(Job.type) == GENERATION)
    absent = update(Job).where(*queued, col(Job.model_id).not_in(held), col(Job.phase).is_(None))
    present = update(Job).where(*queued, col(Job.model_id).in_(held), col(Job.phase) == Phase.WAITING_FOR_MODEL)
    with database.write() as session:
        connection = session.connection()
        changed = connection.execute(absent.values(phase=Phase.WAITING_FOR_MODEL)).rowcount
        return int(changed + connection.execute(present.values(phase=None)).rowcount)


def give_up(database: Database, job_id: str, failure: Failure) -> Job | None:
    """Fails a job that still waits; None where it does not any more."""
    with database.write() as session:
        query = select(Job).where(col(Job.id) == job_id, col(Job.status) == JobState.QUEUED).with_for_update()
        job = session.exec(query).one_or_none()
        return _given_up(session, job, failure) if job is not None else None


def give_up_node(session: Session, node: str, failure: Failure) -> list[Job]:
    """Fails what waits, or is paused, for that node and no other."""
    waiting = col(Job.status).in_((JobState.QUEUED, JobState.PAUSED))
    query = select(Job).where(Job.target_node == node, waiting).with_for_update()
    return [_given_up(session, job, failure) for job in session.exec(query).all()]


def given_up_with_node(session: Session, node: str) -> list[Job]:
    """What `give_up_node` has ended, where its commit was not answered."""
    query = select(Job).where(Job.target_node == node, Job.status == JobState.FAILED)
    return [job for job in session.exec(query) if (job.error or {}).get("code") == "node_lost"]


def _given_up(session: Session, job: Job, failure: Failure) -> Job:
    job.status = JobState.FAILED
    job.finished_at = clock.now()
    job.error = failure.as_dict()
    job.bell_device = job.bell_at = job.phase = job.paused_by = None
    session.add(job)
    note_end(session, job)
    return job
