"""Queued jobs that may not start yet, or not any more: before their start time, outside their window, before other jobs
of their flow have ended, or after their latest start.

A held job is queued but stands in no line, so any number of them costs the dispatcher nothing. When it may start, it
joins its line with the waiting time that it has from then on. Jobs that wait for a window do so in order of arrival,
each owner's under a name of their own.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, func, literal, or_, update
from sqlmodel import Session, col, select

from shared.database.engine import Database, is_repetition, settled
from shared.database.tables import Job, epoch_at_start, epoch_now
from shared.errors import Conflict
from shared.jobs.lines import windows
from shared.jobs.lines.heads import QUEUED, first_of_each, held_lines, lines_there
from shared.jobs.lines.names import HELD, NEEDS, OWNER_DIGITS, held_line, line_of, needs_of
from shared.jobs.lines.windows import Windows
from shared.states import JobState, Priority

START_TIME = "start_time"
DEPENDENCY = "dependency"  # on other jobs of its flow
WINDOW = "window"
BULK = "bulk"  # an action on many jobs, which a web process carries out (`shared/jobs/bulk.py`)
_AT_ONCE = 500
_HELD_AT_ONCE = 5000
_LINES_AT_ONCE = 1000
# What decides whether a job waits for its window. Jobs of one line share it.
_DECIDING = (Job.type, Job.priority, Job.owner, Job.front_at)


def line_of_job(job: Job) -> str:
    """Return the line in which the job stands once it may start."""
    needs = dict(zip(NEEDS, needs_of(job), strict=True))
    return line_of(job.owner, job.priority, **needs, front_at=job.front_at)


def waiting_line(held: str, owner: str | None) -> str:
    """Return what stands in place of a line while the job is held."""
    return held_line(owner) if held == WINDOW else HELD


def settle(session: Session, job: Job) -> None:
    """Let a job whose row is locked join its line, or wait for its window.

    It goes on waiting for its start time, for other jobs of its flow, or for the web process that carries it out.
    """
    if job.held not in (START_TIME, DEPENDENCY, BULK):
        _settle(session, job, _in_force(session, job), _now(session))


@settled
def release_due(database: Database) -> int:
    """Let held jobs whose start time has come join their lines, up to 500 at once. Return how many.

    Those of low priority wait for their window, if it is closed.
    """
    due = (QUEUED, col(Job.held) == START_TIME, col(Job.queued_at) <= epoch_at_start())
    with database.read() as session:  # most passes find none, and need no write
        if session.exec(select(Job.id).where(*due).order_by(col(Job.queued_at)).limit(1)).first() is None:
            return 0
    with database.write() as session:
        in_force = windows.read_in(session)
        found = session.exec(select(Job).where(*due).order_by(col(Job.queued_at)).limit(_AT_ONCE).with_for_update())
        jobs = list(found)
        now = _now(session)
        for job in jobs:
            _settle(session, job, in_force, now)
    return len(jobs)


def follow_windows(database: Database, in_force: Windows) -> tuple[int, int]:
    """Release jobs whose window is open, and hold those whose window is closed. Return how many of each.

    At most 500 and 5000 at once, so that a hundred thousand need many passes, each of them short. Which of them may
    start does not depend on it: claims read the windows.
    """
    return _release_open(database, in_force), 0 if in_force.is_empty else _hold_outside(database, in_force)


@settled
def _release_open(database: Database, in_force: Windows) -> int:
    with database.read() as session:
        waiting = select(Job.id).where(QUEUED, col(Job.held) == WINDOW).limit(1)
        if session.exec(waiting).first() is None:  # most passes find none
            return 0
        connection = session.connection()
        now = _now(session)
        first = first_of_each(connection, (Job.id, *_DECIDING, Job.line), held_lines(connection), 1)
    lines = [row.line for row in first if not in_force.closed(row.type, row.priority, row.owner, row.front_at, now)]
    released = 0
    if not lines:
        return released
    each = max(1, _AT_ONCE // len(lines))  # of every owner, because the first one may have a hundred thousand
    with database.write() as session:
        now = _now(session)
        for line in lines[:_AT_ONCE]:
            query = select(Job).where(QUEUED, Job.line == line).order_by(col(Job.queued_at)).limit(each)
            for job in session.exec(query.with_for_update()).all():
                # They keep the order of their arrival.
                _settle(session, job, in_force, now + released * 1e-6)
                released += 1
    return released


@settled
def _hold_outside(database: Database, in_force: Windows) -> int:
    with database.read() as session:
        connection = session.connection()
        now = _now(session)
        first = first_of_each(connection, (Job.id, *_DECIDING, Job.line), lines_there(connection), 1)
    lines = [
        row.line for row in first if in_force.closed(row.type, row.priority, row.owner, row.front_at, now) and row.line
    ]
    if not lines:
        return 0
    these = select(Job.id).where(QUEUED, col(Job.line).in_(lines[:_LINES_AT_ONCE]), col(Job.held).is_(None))
    these = these.limit(_HELD_AT_ONCE).with_for_update(skip_locked=True)
    # A line begins with its owner's part, as `held_line` ends with it.
    line = literal(HELD).concat(func.substr(col(Job.line), 1, OWNER_DIGITS))
    outside = update(Job).where(QUEUED, col(Job.id).in_(these.scalar_subquery()), col(Job.held).is_(None))
    outside = outside.values(held=WINDOW, line=line, dispatched_to=None, dispatched_at=None, unplaceable_since=None)
    with database.write() as session:
        return int(session.connection().execute(outside).rowcount)


def _settle(session: Session, job: Job, in_force: Windows, now: float) -> None:
    """Let the job join its line, or wait for its window. Its waiting time counts from then."""
    if in_force.closed(job.type, job.priority, job.owner, job.front_at, now):
        job.held = WINDOW
        job.line = held_line(job.owner)
        job.dispatched_to = job.dispatched_at = job.unplaceable_since = None
    else:
        job.queued_at = now if job.held == WINDOW else job.queued_at
        job.held = None
        job.line = line_of_job(job)
    session.add(job)


def _now(session: Session) -> float:
    return float(session.connection().execute(select(epoch_now())).scalar_one())


def release_dependant(session: Session, job: Job, now: float) -> None:
    """Let a job whose dependencies have ended join its line, or wait for its start or window. Its row is locked."""
    if job.start_after is not None and job.start_after > now:
        job.queued_at, job.held = job.start_after, START_TIME
        session.add(job)
        return
    job.queued_at, job.held = now, None
    _settle(session, job, _in_force(session, job), now)


def _in_force(session: Session, job: Job) -> Windows:
    return windows.read_in(session) if job.priority == Priority.LOW.rank else Windows()


def in_time() -> ColumnElement[bool]:
    """Return the condition that the job may still start. One that has started before is in time for ever."""
    return or_(col(Job.start_before).is_(None), col(Job.start_before) > epoch_now(), col(Job.attempt) > 0)


def expired(database: Database, limit: int = _AT_ONCE) -> Sequence[str]:
    """Return the ids of queued jobs that have never started and whose latest start has passed."""
    query = select(Job.id).where(QUEUED, col(Job.start_before) <= epoch_at_start(), col(Job.attempt) == 0)
    with database.read() as session:
        return list(session.exec(query.order_by(col(Job.start_before)).limit(limit)))


def with_latest_start(database: Database, limit: int = 200) -> list[tuple[str, str | None, float]]:
    """Return (id, model, latest start) of queued jobs that have one and have never started, the nearest first."""
    query = select(Job.id, Job.model_id, Job.start_before).where(
        QUEUED, col(Job.start_before).is_not(None), col(Job.attempt) == 0
    )
    with database.read() as session:
        rows = session.exec(query.order_by(col(Job.start_before)).limit(limit)).all()
    return [(job_id, model_id, start_before or 0.0) for job_id, model_id, start_before in rows]


def move_to_front(database: Database, job_id: str) -> Job:
    """Move a queued job before all others; of several, the last one moved is first. Raises Conflict.

    It keeps its priority. A job before its start time is first once it may start. One that waits for its window starts
    in spite of it: a job is moved to the front because it should run now.
    """
    return _move(database, job_id, to_front=True)


def move_back(database: Database, job_id: str) -> Job:
    """Return a queued job to the place that its priority and age give it, where it was moved to the front.

    Otherwise nothing changes. Raises Conflict if the job is not queued.
    """
    return _move(database, job_id, to_front=False)


@settled
def _move(database: Database, job_id: str, *, to_front: bool) -> Job:
    with database.write() as session:
        job = session.get(Job, job_id, with_for_update=True)
        if job is None or job.deleted or job.status != JobState.QUEUED:
            if is_repetition() and job is not None and (job.front_at is not None) == to_front:
                return job
            state = "deleted" if job is None or job.deleted else job.status
            where = "moved to the front" if to_front else "returned to its place"
            raise Conflict(f"The job is {state}; only a queued job can be {where}")
        if not to_front and job.front_at is None:
            return job
        job.front_at = epoch_now() if to_front else None  # type: ignore[assignment]
        session.add(job)
        session.flush()
        session.refresh(job)
        settle(session, job)
        # Its message, if any, waits behind others at a busy device, or would start it before its turn.
        job.dispatched_to = job.dispatched_at = None
        session.add(job)
    return job
