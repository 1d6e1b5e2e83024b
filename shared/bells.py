"""Which waiting job is called to which device: the dispatcher's side of the `jobs` table.

A bell is a Celery message; the row says on which device's queue it lies and since when. A bell may be lost, doubled or
stale: the row decides, and only the device that it names may claim.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, literal, update
from sqlmodel import Session, col, select

from shared import clock
from shared.attempts import Failure
from shared.database import Database, is_repetition, settled
from shared.job_types import GENERATION
from shared.jobs import note_end
from shared.states import JobState, Phase, Priority
from shared.tables import Job, epoch_now

# A job that waits this long counts as one priority higher.
PRIORITY_RISE_SECONDS = 600.0
# Of each line this many of the first are looked at. Enough to fill any number of devices between two looks. Where
# several owners wait they share them, but none has fewer than this.
_LOOK_AHEAD = 200
_LOOK_AHEAD_OF_EACH = 20
# Of the whole queue the order of this many is told exactly.
ORDERED = 1000


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
    unplaceable_since: float | None = None


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
    Job.unplaceable_since,
)  # fmt: skip
_BUSY = (
    Job.id, Job.type, Job.model_id, Job.device_key, Job.warm_key, Job.node, Job.priority, Job.halt, Job.owner, Job.work,
    Job.claimed_at, Job.mock,
)  # fmt: skip


# The value stands in the statement, so that every planner sees that the indexes of queued jobs serve it.
_QUEUED = col(Job.status) == literal("queued", literal_execute=True)
# Jobs of one line can run on the same devices, or on the same node: those at its head cannot hide another line.
_LINE = (Job.owner, Job.model_id, Job.warm_key, Job.target_node, Job.mock)


def rank(priority: int, queued_at: float, now: float) -> int:
    """The priority that a job has earned: it rises by one for each ten minutes of waiting. 0 is served first."""
    return max(0, priority - int((now - queued_at) / PRIORITY_RISE_SECONDS))


def look(database: Database) -> Queue:
    """The first in each line by the rank that they have earned, every bell that is out, and what runs."""
    with database.read() as session:
        connection = session.connection()
        now = connection.execute(select(epoch_now())).scalar_one()
        lines: dict[tuple[Any, ...], list[int]] = {}
        heads = select(*_LINE, Job.priority).where(_QUEUED).distinct()  # type: ignore[call-overload]
        for head in connection.execute(heads):
            lines.setdefault(tuple(head[:-1]), []).append(head[-1])
        # Whoever has queued many must not hide those who came after.
        each = max(_LOOK_AHEAD // max(1, len({line[0] for line in lines})), _LOOK_AHEAD_OF_EACH)
        waiting: dict[str, Waiting] = {}
        for line, priorities in lines.items():
            # Within one priority those who came first rank highest, so the first of each hold the first of all.
            found = [job for priority in priorities for job in _first(connection, line, priority, each, now)]
            found.sort(key=lambda job: (rank(job.priority, job.queued_at, now), job.queued_at, job.job_id))
            ready = [job for job in found if job.not_before <= now][:each]
            later = [job for job in found if job.not_before > now][:each]
            waiting.update((job.job_id, job) for job in (*ready, *later))
        if len(waiting) >= each:
            rung = select(*_WAITING).where(_QUEUED, col(Job.bell_device).is_not(None))  # type: ignore[call-overload]
            waiting.update((row[0], Waiting(*row)) for row in connection.execute(rung))
        running = select(*_BUSY).where(col(Job.status) == JobState.RUNNING)  # type: ignore[call-overload]
        busy = tuple(Busy(*row) for row in connection.execute(running))
    return Queue(now, tuple(waiting.values()), busy)


def foremost(database: Database, limit: int = ORDERED) -> Queue:
    """Of the whole queue the first of each priority, enough to hold the first `limit`; and what runs."""
    with database.read() as session:
        connection = session.connection()
        now = connection.execute(select(epoch_now())).scalar_one()
        waiting: list[Waiting] = []
        for priority in range(len(Priority)):
            first = select(*_WAITING).where(_QUEUED, Job.priority == priority)  # type: ignore[call-overload]
            rows = connection.execute(first.order_by(col(Job.queued_at), col(Job.id)).limit(limit))
            waiting += (Waiting(*row) for row in rows)
        running = select(*_BUSY).where(col(Job.status) == JobState.RUNNING)  # type: ignore[call-overload]
        busy = tuple(Busy(*row) for row in connection.execute(running))
    return Queue(now, tuple(waiting), busy)


def _first(connection: Connection, line: Sequence[Any], priority: int, limit: int, now: float) -> list[Waiting]:
    """The first of a line and priority; jobs that may not start yet do not take the places of those that may."""
    where: list[ColumnElement[bool]] = [
        col(column).is_(None) if value is None else col(column) == value
        for column, value in zip(_LINE, line, strict=True)
    ]
    query = select(*_WAITING).where(_QUEUED, *where, Job.priority == priority)  # type: ignore[call-overload]
    query = query.order_by(col(Job.queued_at)).limit(limit)
    found = [Waiting(*row) for row in connection.execute(query)]
    if len(found) == limit and any(job.not_before > now for job in found):
        found += [Waiting(*row) for row in connection.execute(query.where(col(Job.not_before) <= now))]
    return found


@settled
def ring(database: Database, bells: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Notes each (job id, device key) as rung now. Returns those that were still waiting."""
    if not bells:
        return []
    rung = set()
    with database.write() as session:
        for job_id, device_key in sorted(bells):  # in one order everywhere: two dispatchers wait for each other's rows
            changed = session.connection().execute(
                update(Job)
                .where(col(Job.id) == job_id, col(Job.status) == JobState.QUEUED)
                .values(bell_device=device_key, bell_at=epoch_now(), phase=None, unplaceable_since=None)
            )
            if changed.rowcount:
                rung.add((job_id, device_key))
    return [bell for bell in bells if bell in rung]


@settled
def silence(database: Database, job_ids: Collection[str] | None = None) -> int:
    """Takes bells back (all of them, or those of these jobs): the jobs wait to be placed again."""
    where = [_QUEUED, col(Job.bell_device).is_not(None)]
    if job_ids is not None:
        where.append(col(Job.id).in_(job_ids))
    with database.write() as session:
        query = update(Job).where(*where).values(bell_device=None, bell_at=None)
        return int(session.connection().execute(query).rowcount)


@settled
def hand_back(database: Database, job_id: str, device_key: str) -> bool:
    """Takes back the bell of a job that lies at that device: it is to be rung anew. Whether it still lay there."""
    where = (col(Job.id) == job_id, col(Job.status) == JobState.QUEUED, col(Job.bell_device) == device_key)
    with database.write() as session:
        query = update(Job).where(*where).values(bell_device=None, bell_at=None)
        return bool(session.connection().execute(query).rowcount)


def note_unplaceable(database: Database, like: Waiting, unplaceable: bool) -> int:
    """Notes since when nothing could run this job, and those that need the same; or that something could now.

    Returns how many rows changed.
    """
    needs = (Job.model_id, Job.warm_key, Job.target_node, Job.mock, Job.min_vram_mb, Job.min_ram_mb)
    values = (like.model_id, like.warm_key, like.target_node, like.mock, like.min_vram_mb, like.min_ram_mb)
    where = [
        col(column).is_(None) if value is None else col(column) == value
        for column, value in zip(needs, values, strict=True)
    ]
    since = col(Job.unplaceable_since)
    where.append(since.is_(None) if unplaceable else since.is_not(None))
    with database.write() as session:
        query = update(Job).where(_QUEUED, *where).values(unplaceable_since=epoch_now() if unplaceable else None)
        return int(session.connection().execute(query).rowcount)


def put_off_unplaceable(database: Database, watched_until: float) -> int:
    """Leaves the time from that moment to now out of the time in which nothing could run the jobs.

    Returns how many rows changed.
    """
    since = col(Job.unplaceable_since)
    # Those noted after that moment begin anew; of the others the time until then is kept.
    kept = case((since < watched_until, watched_until - since), else_=0.0)
    with database.write() as session:
        query = update(Job).where(_QUEUED, since.is_not(None)).values(unplaceable_since=epoch_now() - kept)
        return int(session.connection().execute(query).rowcount)


def mark_waiting_for_model(database: Database, held: Collection[str]) -> int:
    """Says `waiting_for_model` on queued jobs whose model no node holds, and takes it from the others."""
    queued = (_QUEUED, col(Job.mock).is_(False), col(Job.type) == GENERATION)
    absent = update(Job).where(*queued, col(Job.model_id).not_in(held), col(Job.phase).is_(None))
    present = update(Job).where(*queued, col(Job.model_id).in_(held), col(Job.phase) == Phase.WAITING_FOR_MODEL)
    with database.write() as session:
        connection = session.connection()
        changed = connection.execute(absent.values(phase=Phase.WAITING_FOR_MODEL)).rowcount
        return int(changed + connection.execute(present.values(phase=None)).rowcount)


@settled
def give_up(database: Database, job_id: str, failure: Failure) -> Job | None:
    """Fails a job that still waits; None where it does not any more."""
    with database.write() as session:
        job = session.get(Job, job_id, with_for_update=True)
        if job is None or job.status != JobState.QUEUED:
            settled_before = is_repetition() and job is not None and job.error == failure.as_dict()
            return job if settled_before else None
        return _given_up(session, job, failure)


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
    job.bell_device = job.bell_at = job.phase = job.paused_by = job.unplaceable_since = None
    session.add(job)
    note_end(session, job)
    return job
