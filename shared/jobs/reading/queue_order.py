"""The list of jobs in the order in which they are served: running ones first, then queued, held, paused and ended ones.

Queued jobs come in the order that the dispatcher publishes, which is exact for the first thousand, then by priority and
age. A cursor names the section and the last job in it. If that job has left the published order meanwhile, those before
it have too, so the page begins with the first one that still waits: a page then repeats jobs, but leaves none out.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    JSON,
    Connection,
    Float,
    Integer,
    String,
    Text,
    and_,
    bindparam,
    cast,
    func,
    literal,
    literal_column,
    or_,
    true,
)
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from shared.database.engine import Database
from shared.database.tables import Job
from shared.jobs.lines import holding
from shared.jobs.lines.heads import QUEUED, first_of_each, lines_of, lines_there
from shared.jobs.reading import lists, queue_positions
from shared.messaging.progress import RestingRedis
from shared.states import JOB_ENDS, JobState

_ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
CURSOR = re.compile(
    rf"(?:(?P<plain>running|first|paused|ended):(?P<id>{_ID})"
    rf"|(?P<timed>line|held):(?P<priority>\d{{1,3}}):(?P<at>\d{{1,15}}(?:\.\d{{1,12}})?):(?P<timed_id>{_ID}))"
)
_HELD = (holding.START_TIME, holding.WINDOW, holding.DEPENDENCY, holding.BULK)
_WITHOUT_LINE = 1_000  # read at once
_SECTIONS = ("running", "first", "line", "held", "paused", "ended")
_OF_STATE = {
    JobState.RUNNING: ("running",),
    JobState.QUEUED: ("first", "line", "held"),
    JobState.PAUSED: ("paused",),
}  # fmt: skip


@dataclass(frozen=True)
class Ordered:
    """A page of jobs. `next`: the cursor of the next page; None: there is none."""

    jobs: list[Job]
    next: str | None


@dataclass(frozen=True)
class Which:
    """Which jobs are listed. None: any."""

    only: str | None = None
    type: str | None = None
    status: str | None = None
    model_id: str | None = None

    def fits(self, row: Any) -> bool:
        """Return whether a row with these columns matches, whatever its state."""
        return (
            (self.only is None or row.owner == self.only)
            and (self.type is None or row.type == self.type)
            and (self.model_id is None or row.model_id == self.model_id)
        )


@dataclass(frozen=True)
class _Place:
    """The place in the list after which a page begins, by the last job before it."""

    section: str
    job_id: str = ""
    priority: int = -1
    at: float = 0.0


def page(database: Database, client: RestingRedis, which: Which, limit: int, after: str | None = None) -> Ordered:
    """Return a page of jobs in the order in which they are served. `after`: a cursor that `CURSOR` matches."""
    place = _place(after)
    sections = _OF_STATE.get(JobState(which.status), ("ended",)) if which.status is not None else _SECTIONS
    begin = _SECTIONS.index(place.section) if place is not None else 0
    found: list[tuple[str, str]] = []  # id and cursor
    published = queue_positions.order(client) if "first" in sections else []
    # A job that changes its state between two statements would be on the page twice, or not at all.
    with database.read(snapshot=True) as session:
        if "first" in sections:
            published = list(dict.fromkeys([*_moved_to_front(session, which), *published]))
        for section in sections:
            if _SECTIONS.index(section) < begin or len(found) > limit:
                continue
            start = place if place is not None and place.section == section else _Place(section)
            found += _section(session, which, section, start, limit + 1 - len(found), published)
        ids = [job_id for job_id, _ in found[:limit]]
        shown = {job.id: job for job in session.exec(select(Job).where(col(Job.id).in_(ids)))}
    return Ordered(
        [shown[job_id] for job_id in ids if job_id in shown], found[limit - 1][1] if len(found) > limit else None
    )


def _place(after: str | None) -> _Place | None:
    if after is None:
        return None
    found = CURSOR.fullmatch(after)
    assert found is not None, after
    if found["plain"]:
        return _Place(found["plain"], found["id"])
    return _Place(found["timed"], found["timed_id"], int(found["priority"]), float(found["at"]))


def _section(
    session: Session, which: Which, section: str, start: _Place, limit: int, published: Sequence[str]
) -> list[tuple[str, str]]:
    """Return (id, cursor) of the first jobs of one section after `start`."""
    if section == "first":
        return [(job_id, f"first:{job_id}") for job_id in _first(session, which, start, limit, published)]
    if section in ("line", "held"):
        rows = (_line if section == "line" else _held)(session, which, start, limit, frozenset(published))
        return [(row.id, f"{section}:{row.priority}:{row.queued_at:.9f}:{row.id}") for row in rows]
    if section == "ended":
        states: tuple[str, ...] = (which.status,) if which.status in JOB_ENDS else tuple(JOB_ENDS)
    else:
        states = (JobState.RUNNING if section == "running" else JobState.PAUSED,)
    ids = lists.first_of_states(
        session, states, limit, only=which.only, type=which.type, model_id=which.model_id,
        after=start.job_id or None, oldest_first=section != "ended",
    )  # fmt: skip
    return [(job_id, f"{section}:{job_id}") for job_id in ids]


_COLUMNS: Any = (Job.id, Job.priority, Job.queued_at, Job.owner, Job.type, Job.model_id)


def _moved_to_front(session: Session, which: Which) -> list[str]:
    """Return the jobs that were moved before all others. The published order may not have that yet.

    Each stands in a line of its own, so the heads of the lines have them all. Of several, the last one moved is first.
    """
    connection = session.connection()
    heads = first_of_each(connection, (Job.id, Job.front_at), _lines_for(connection, which), 1)
    moved = sorted((row for row in heads if row.front_at is not None), key=_by_front)
    return [row.id for row in moved]


def _lines_for(connection: Connection, which: Which) -> list[str]:
    """Return the lines that can have such jobs, and the empty name if there are jobs without a line."""
    if which.only is None:
        return lines_there(connection)
    mine = lines_of(connection, which.only)
    without: Any = select(Job.id).where(QUEUED, Job.line == "").limit(1)
    return [*mine, ""] if connection.execute(without).first() is not None else mine


def _by_front(row: Any) -> float:
    return -float(row.front_at)


def _first(session: Session, which: Which, start: _Place, limit: int, published: Sequence[str]) -> list[str]:
    rest = published[published.index(start.job_id) + 1 :] if start.job_id in published else published
    if not rest:
        return []
    query: Any = select(*_COLUMNS).where(
        col(Job.id).in_(rest), QUEUED, col(Job.held).is_(None), col(Job.deleted).is_(False)
    )
    waiting = {row.id for row in session.connection().execute(query) if which.fits(row)}
    return [job_id for job_id in rest if job_id in waiting][:limit]


def _line(session: Session, which: Which, start: _Place, limit: int, published: frozenset[str]) -> list[Any]:
    """Return the first jobs by priority and age that the published order does not have."""
    connection = session.connection()
    heads = first_of_each(connection, (Job.id, Job.line, *_COLUMNS[1:]), _lines_for(connection, which), 1)
    lines = sorted((row.priority, row.line) for row in heads if row.line and which.fits(row))
    begins, ties = _published_ends(session, published)
    beyond = (start.priority, start.at, start.job_id)

    def rest_of(asked: list[tuple[str, float, str]], each: int) -> list[Any]:
        rows = connection.execute(_after(connection.dialect.name), {"starts": json.dumps(asked), "each": each})
        return [
            row
            for row in rows
            if row.id not in published
            and which.fits(row)
            and (start.priority < 0 or (row.priority, row.queued_at, row.id) > beyond)
        ]

    # Jobs that a process of an older version has stored have no line, and are few.
    found = rest_of([("", 0.0, "")], _WITHOUT_LINE) if any(not row.line for row in heads) else []
    # The jobs of a line have one priority, so the lines of the next one are asked only if these are too few.
    of_lines = 0
    for line_priority in sorted({priority for priority, _ in lines if priority >= start.priority}):
        if of_lines >= limit:
            break
        asked = []
        for priority, line in lines:
            if priority == line_priority:
                at, job_id = begins.get(line, 0.0), ""
                if start.priority == priority and start.at >= at:
                    at, job_id = start.at, start.job_id
                asked.append((line, at, job_id))
        rows = rest_of(asked, limit + ties)
        of_lines += len(rows)
        found += rows
    return sorted(found, key=lambda row: (row.priority, row.queued_at, row.id))[:limit]


def _published_ends(session: Session, published: frozenset[str]) -> tuple[dict[str, float], int]:
    """Return when the last published job of each line was queued, and how many of a line share that moment, at most."""
    if not published:
        return {}, 0
    query = select(Job.line, Job.queued_at).where(col(Job.id).in_(published), QUEUED)
    ends: dict[str, float] = {}
    alike: dict[str, int] = {}
    for line, queued_at in sorted(session.exec(query)):
        alike[line] = alike.get(line, 0) + 1 if ends.get(line) == queued_at else 1
        ends[line] = queued_at
    return ends, max(alike.values(), default=0)


@cache
def _after(dialect: str) -> Any:
    """Build the statement for the first jobs of several lines, each after its own (queued at, id)."""
    each = bindparam("each", type_=Integer)
    columns: Any = _COLUMNS
    if dialect == "postgresql":
        starts: Any = func.json_array_elements(cast(bindparam("starts", type_=Text), JSON))
        starts = starts.table_valued("value").render_derived()
        line, at, job_id = (starts.c.value.op("->>")(place) for place in range(3))
        at = cast(at, Float(53))
        beyond = or_(col(Job.queued_at) > at, and_(col(Job.queued_at) == at, col(Job.id) > job_id))
        first: Any = select(*columns).where(
            QUEUED, Job.line == line, col(Job.deleted).is_(False), col(Job.queued_at) >= at, beyond
        )
        head = first.order_by(col(Job.queued_at), col(Job.id)).limit(each).correlate(starts).lateral()
        return select(head).select_from(starts.join(head, true()))
    starts = func.json_each(bindparam("starts", type_=Text)).table_valued("value")
    line, at, job_id = (func.json_extract(starts.c.value, f"$[{place}]") for place in range(3))
    inner = aliased(Job, name="inner_jobs")
    # SQLite has no LATERAL, but a rowid.
    first = select(literal_column("inner_jobs.rowid")).select_from(inner)
    first = first.where(
        inner.status == literal("queued", literal_execute=True),
        inner.line == line,
        col(inner.deleted).is_(False),
        col(inner.queued_at) >= at,
        or_(col(inner.queued_at) > at, and_(col(inner.queued_at) == at, col(inner.id) > job_id)),
    )
    first = first.order_by(inner.queued_at, inner.id).limit(each).correlate(starts)
    return select(*columns).select_from(starts.join(Job, literal_column("jobs.rowid").in_(first)))


def _held(session: Session, which: Which, start: _Place, limit: int, published: frozenset[str]) -> list[Any]:
    """Return the first jobs that may not start yet, by the time from which they may, whatever holds them."""
    found: list[Any] = []
    at, job_id = bindparam("at", type_=Float), bindparam("job_id", type_=String)
    for reason in _HELD:
        query: Any = select(*_COLUMNS).where(
            QUEUED, Job.held == reason, col(Job.deleted).is_(False), col(Job.queued_at) >= at,
            or_(col(Job.queued_at) > at, col(Job.id) > job_id),
        )  # fmt: skip
        if which.only is not None:
            query = query.where(Job.owner == which.only)
        if which.type is not None:
            query = query.where(Job.type == which.type)
        if which.model_id is not None:
            query = query.where(Job.model_id == which.model_id)
        query = query.order_by(col(Job.queued_at), col(Job.id)).limit(limit)
        found += session.connection().execute(query, {"at": start.at, "job_id": start.job_id}).all()
    return sorted(found, key=lambda row: (row.queued_at, row.id))[:limit]
