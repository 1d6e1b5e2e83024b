"""Reads of the `jobs` table for monitoring: how much waits, positions in the queue, and what runs."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import accumulate
from typing import Any

from sqlalchemy import (
    JSON,
    Float,
    Integer,
    Text,
    bindparam,
    case,
    cast,
    func,
    literal_column,
)  # fmt: skip
from sqlmodel import Session, col, select

from shared.catalogue.job_types import GENERATION
from shared.database.engine import Database
from shared.database.tables import Job, Pause, epoch_now
from shared.jobs.claims import gangs
from shared.jobs.claims.pauses import covering
from shared.jobs.finishing import ON_DEVICE
from shared.jobs.lines.heads import QUEUED, first_of_each
from shared.jobs.lines.holding import START_TIME, WINDOW
from shared.jobs.lines.names import HELD
from shared.jobs.reading import lists
from shared.states import JOB_ENDS, JobState, Phase

_NEVER = 1e15  # later than any job is queued, in seconds


@dataclass(frozen=True)
class Depth:
    """The number of waiting and running jobs of one model and priority."""

    priority: int  # rank
    model_id: str | None
    queued: int
    waiting_for_model: int  # of the queued ones
    oldest_seconds: float | None  # waiting time of the oldest queued job
    running: int


def positions(database: Database, jobs: Sequence[Job]) -> dict[str, int]:
    """Return for each queued job of these how many queued jobs are before it by priority and age.

    The rows between one of them and the next are counted once, so a page of jobs costs as much as its last job.
    """
    waiting = {(job.priority, job.queued_at) for job in jobs if job.status == JobState.QUEUED}
    if not waiting:
        return {}
    last = max(priority for priority, _ in waiting)
    # The ordered queue, divided at each of the jobs: (priority, from, to).
    stretches: list[tuple[int, float, float]] = []
    stretches_before: dict[tuple[int, float], int] = {}
    for priority in range(last + 1):
        begin = 0.0
        for queued_at in sorted(at for rank, at in waiting if rank == priority):
            stretches.append((priority, begin, queued_at))
            stretches_before[priority, queued_at] = len(stretches)
            begin = queued_at
        if priority != last:
            stretches.append((priority, begin, _NEVER))
    with database.read() as session:
        connection = session.connection()
        rows = connection.execute(_counting(connection.dialect.name), {"stretches": json.dumps(stretches)})
        ahead: list[int] = [0, *accumulate(count for _, count in sorted((row.place, row.jobs) for row in rows))]
        still = set(session.exec(select(Job.id).where(col(Job.id).in_([job.id for job in jobs]), QUEUED)))
    return {job.id: ahead[stretches_before[job.priority, job.queued_at]] for job in jobs if job.id in still}


@cache
def _counting(dialect: str) -> Any:
    """Build the statement that counts the queued jobs in each stretch once: building takes longer than executing."""
    given = bindparam("stretches", type_=Text)
    stretch: Any
    if dialect == "postgresql":
        stretch = (
            func.json_array_elements(cast(given, JSON)).table_valued("value", with_ordinality="place").render_derived()
        )
        priority, begin, end = (stretch.c.value.op("->>")(literal_column(str(at))) for at in range(3))
        priority, begin, end = cast(priority, Integer), cast(begin, Float(53)), cast(end, Float(53))
        place = stretch.c.place
    else:
        stretch = func.json_each(given).table_valued("key", "value")
        priority, begin, end = (func.json_extract(stretch.c.value, f"$[{at}]") for at in range(3))
        place = stretch.c.key
    inside = (QUEUED, Job.priority == priority, col(Job.queued_at) >= begin, col(Job.queued_at) < end)
    count = select(func.count()).select_from(Job).where(*inside).correlate(stretch).scalar_subquery()
    return select(place.label("place"), count.label("jobs"))


def still_queued(database: Database, job_ids: Sequence[str]) -> set[str]:
    """Return those of the jobs that are queued now."""
    with database.read() as session:
        query = select(Job.id).where(col(Job.id).in_(job_ids), Job.status == JobState.QUEUED)
        return set(session.exec(query))


def queued_of(database: Database, owner: str) -> int:
    """Return the number of the owner's queued jobs."""
    with database.read() as session:
        query = select(func.count()).select_from(Job).where(Job.owner == owner, Job.status == JobState.QUEUED)
        return session.exec(query).one()


def queued_by_priority(database: Database) -> dict[int, int]:
    """Return the number of queued jobs by priority."""
    query = select(Job.priority, func.count()).where(Job.status == JobState.QUEUED).group_by(col(Job.priority))
    with database.read() as session:
        return dict(session.exec(query).all())


@dataclass(frozen=True)
class _LineDepth:
    """The number of waiting jobs of one line, and the values that its jobs share."""

    type: str
    model_id: str | None
    mock: bool
    priority: int
    queued: int
    waiting_for_model: int
    oldest_at: float | None  # when the first of them was queued
    oldest_ready_at: float | None  # of those that do not wait for a model
    # The other values come from here.
    owner: str | None = None
    target_node: str | None = None


def _line_depths(session: Session) -> list[_LineDepth]:
    """Return every line, counted in its index. The shared values are read from its first job."""
    awaits = col(Job.phase).is_not_distinct_from(Phase.WAITING_FOR_MODEL)
    alike = (Job.type, Job.model_id, Job.mock, Job.priority)
    figures = (
        func.count(),
        func.sum(case((awaits, 1), else_=0)),
        func.min(Job.queued_at),
        func.min(case((awaits, None), else_=col(Job.queued_at))),
    )
    connection = session.connection()
    of_lines = select(Job.line, *figures).where(  # type: ignore[call-overload]
        QUEUED, Job.line != "", col(Job.line) < HELD
    )
    lines = {row[0]: row[1:] for row in connection.execute(of_lines.group_by(Job.line))}
    first = first_of_each(connection, (Job.id, Job.line, Job.owner, Job.target_node, *alike), list(lines), 1)
    found = [_LineDepth(*row[4:], *lines[row[1]], *row[2:4]) for row in first]
    # Jobs that a process of an older version has accepted have no line.
    others = select(*alike, *figures).where(QUEUED, Job.line == "")  # type: ignore[call-overload]
    return found + [_LineDepth(*row) for row in connection.execute(others.group_by(*alike))]


def held(database: Database) -> int:
    """Return how many queued jobs may not start yet."""
    query = select(func.count()).select_from(Job).where(QUEUED, col(Job.held).is_not(None))
    with database.read() as session:
        return int(session.exec(query).one())


def held_by_reason(database: Database, in_force: Collection[Pause]) -> dict[str, int]:
    """Return how many queued jobs may not start, by reason: what they are held for, and `pause` for those in lines that
    one of these pauses covers."""
    query = select(Job.held, func.count()).where(QUEUED, col(Job.held).is_not(None)).group_by(col(Job.held))
    with database.read() as session:
        found = {reason or "": count for reason, count in session.exec(query)}
        lines = _line_depths(session) if in_force else []
    paused = sum(
        line.queued
        for line in lines
        if covering(in_force, model_id=line.model_id, owner=line.owner, job_type=line.type, node=line.target_node)
    )
    return {START_TIME: 0, WINDOW: 0, **found, "pause": paused}


def depths(database: Database) -> list[Depth]:
    """Return what waits and runs, by priority and model, most urgent first."""
    return depths_and_counts(database)[0]


def depths_and_counts(database: Database) -> tuple[list[Depth], dict[tuple[str, str | None, str], int]]:
    """Return what `depths` returns, and the number of jobs that have not ended by (type, model, state).

    Queued jobs that may not start yet have the state `held`, because a cluster must not grow for them.
    Both count the same rows of the queue.
    """
    going: Any = (
        select(Job.type, Job.model_id, Job.priority, Job.status, func.count())  # type: ignore[call-overload]
        .where(col(Job.status).in_((JobState.RUNNING, JobState.PAUSED)))
        .group_by(col(Job.type), col(Job.model_id), col(Job.priority), col(Job.status))
    )
    lines: dict[tuple[int, str | None], list[_LineDepth]] = defaultdict(list)
    running: Counter[tuple[int, str | None]] = Counter()
    counts: Counter[tuple[str, str | None, str]] = Counter()
    with database.read() as session:
        now = session.connection().execute(select(epoch_now())).scalar_one()
        for line in _line_depths(session):
            lines[line.priority, line.model_id].append(line)
            counts[line.type, line.model_id, JobState.QUEUED] += line.queued
        later = select(Job.type, Job.model_id, func.count()).where(QUEUED, col(Job.held).is_not(None))
        for type, model_id, count in session.exec(later.group_by(col(Job.type), col(Job.model_id))):
            counts[type, model_id, HELD] += count
        for type, model_id, priority, status, count in session.exec(going):
            counts[type, model_id, status] += count
            if status == JobState.RUNNING:
                running[priority, model_id] += count
    found = []
    for priority, model_id in sorted(lines.keys() | running.keys(), key=lambda key: (key[0], key[1] or "")):
        of_these = lines.get((priority, model_id), [])
        oldest = _first(line.oldest_at for line in of_these)
        found.append(
            Depth(
                priority,
                model_id,
                sum(line.queued for line in of_these),
                sum(line.waiting_for_model for line in of_these),
                None if oldest is None else now - oldest,
                running[priority, model_id],
            )
        )
    return found, dict(counts)


def _first(moments: Iterable[float | None]) -> float | None:
    return min((moment for moment in moments if moment is not None), default=None)


def stirred(database: Database, ended_after: datetime, limit: int = 200) -> dict[str, tuple[Any, ...]]:
    """Return the changeable columns of the jobs on live pages, by id.

    These are running and paused jobs, the newest `limit` queued jobs, and jobs that ended after `ended_after`.
    """
    columns = (
        Job.id, Job.status, Job.attempt, Job.percent, Job.phase, Job.priority, Job.bandwidth_mbps, Job.paused_by,
        Job.requested_action, col(Job.cancel_at).is_not(None), Job.owner,
    )  # fmt: skip
    shown = col(Job.deleted).is_(False)
    going = select(*columns).where(  # type: ignore[call-overload]
        shown, col(Job.status).in_((JobState.RUNNING, JobState.PAUSED))
    )
    ended = select(*columns).where(  # type: ignore[call-overload]
        shown, col(Job.status).in_(JOB_ENDS), col(Job.finished_at) > ended_after
    )
    found: dict[str, tuple[Any, ...]] = {}
    with database.read() as session:
        newest = lists.newest(session, JobState.QUEUED, limit)
        queued = select(*columns).where(col(Job.id).in_(newest), QUEUED)  # type: ignore[call-overload]
        for query in (going, queued.order_by(col(Job.id).desc()), ended.order_by(col(Job.finished_at).desc())):
            found |= {row[0]: tuple(row) for row in session.exec(query.limit(limit))}
    return found


@dataclass(frozen=True)
class Wait:
    """Queued jobs that wait for a device or node, without those that wait for a model."""

    queued: int
    oldest_seconds: float | None


def waiting(database: Database) -> Wait:
    """Return how many jobs wait, and for how long the oldest has waited."""
    with database.read() as session:
        now = session.connection().execute(select(epoch_now())).scalar_one()
        lines = _line_depths(session)
    oldest = _first(line.oldest_ready_at for line in lines)
    return Wait(sum(line.queued - line.waiting_for_model for line in lines), None if oldest is None else now - oldest)


def running(database: Database) -> list[Job]:
    """Return all running jobs."""
    with database.read() as session:
        return list(session.exec(select(Job).where(Job.status == JobState.RUNNING)))


def on_devices(database: Database) -> dict[str, Job]:
    """Return the job that holds each device, by device key. A gang holds several; a job that is being finished none."""
    query = select(Job).where(Job.status == JobState.RUNNING, ON_DEVICE)
    with database.read() as session:
        found = [job for job in session.exec(query) if job.device_key is not None]
    return {key: job for job in found for key in (job.device_key or "", *gangs.keys_of(job.members))}


def finishing_on_devices(database: Database) -> set[str]:
    """Return the keys of the devices whose previous job is being finished."""
    query = select(Job.device_key).where(Job.status == JobState.RUNNING, Job.phase == Phase.FINISHING)
    with database.read() as session:
        return {key for key in session.exec(query) if key is not None}


def nodes_with(database: Database, job_type: str) -> set[str]:
    """Return the nodes with a queued or running job of that type."""
    query = select(Job.target_node).where(
        Job.type == job_type, col(Job.status).in_((JobState.QUEUED, JobState.RUNNING))
    )
    with database.read() as session:
        return {node for node in session.exec(query) if node is not None}


@dataclass(frozen=True)
class Load:
    """The number of queued and running generations, without placeholders, which need no model."""

    queued: int = 0
    running: int = 0


def generations(database: Database) -> dict[str, Load]:
    """Return the load by model, for models that have any."""
    running = (
        select(Job.model_id, func.count())
        .where(Job.status == JobState.RUNNING, Job.type == GENERATION, col(Job.mock).is_(False))
        .group_by(col(Job.model_id))
    )
    queued: Counter[str] = Counter()
    with database.read() as session:
        for line in _line_depths(session):
            if line.type == GENERATION and not line.mock:
                queued[line.model_id or ""] += line.queued
        runs = {model_id or "": count for model_id, count in session.exec(running)}
    return {model_id: Load(queued[model_id], runs.get(model_id, 0)) for model_id in queued.keys() | runs.keys()}
