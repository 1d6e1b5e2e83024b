"""The lines of the queue and the first jobs of each, read in as many steps as there are lines."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    JSON,
    Connection,
    Float,
    Integer,
    Text,
    and_,
    bindparam,
    cast,
    func,
    literal,
    literal_column,
    true,
)
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from shared.database.tables import Job
from shared.jobs.lines.names import HELD, start_of_lines

# The value is part of the statement, so that every planner can use the indexes of queued jobs.
QUEUED = col(Job.status) == literal("queued", literal_execute=True)


def lines_there(connection: Connection) -> list[str]:
    """Return the lines with waiting jobs, by stepping from one to the next in their index."""
    return list(connection.execute(_lines()).scalars())


def lines_of(connection: Connection, owner: str | None) -> list[str]:
    """Return the lines of one owner, likewise: however many others wait, it takes as many steps as it has lines."""
    low = start_of_lines(owner)
    return list(connection.execute(_lines(one_owner=True), {"low": low, "high": f"{low}~"}).scalars())


def held_lines(connection: Connection) -> list[str]:
    """Return the names under which jobs wait for their windows, likewise."""
    return list(connection.execute(_lines(held=True)).scalars())


def first_of_each(
    connection: Connection, columns: Sequence[Any], lines: list[str], each: int, ready_at: float | None = None
) -> list[Any]:
    """Return these columns of the first `each` jobs of those lines; with `ready_at`, of jobs that may start by then.

    The first column must be the id.
    """
    if not lines:
        return []
    given: dict[str, Any] = {"each": each}
    given |= {"lines": lines if connection.dialect.name == "postgresql" else json.dumps(lines)}
    given |= {} if ready_at is None else {"ready_at": ready_at}
    query = _heads(tuple(columns), connection.dialect.name, ready=ready_at is not None)
    return [row for row in connection.execute(query, given).all() if row[0] is not None]


@cache
def _lines(*, held: bool = False, one_owner: bool = False) -> Any:
    within = col(Job.line) > HELD if held else col(Job.line) < HELD
    if one_owner:
        within = and_(col(Job.line) >= bindparam("low", type_=Text), col(Job.line) < bindparam("high", type_=Text))
    first: Any = select(func.min(Job.line).label("line")).where(QUEUED, within)
    lines = first.cte("lines", recursive=True)
    following = select(func.min(Job.line)).where(QUEUED, col(Job.line) > lines.c.line, within).scalar_subquery()
    lines = lines.union_all(select(following).where(lines.c.line.is_not(None)))
    return select(lines.c.line).where(lines.c.line.is_not(None))


@cache
def _heads(columns: tuple[Any, ...], dialect: str, *, ready: bool) -> Any:
    """Build the statement once, because every pass of the dispatcher executes it."""
    first: Any
    each = bindparam("each", type_=Integer)
    ready_at = bindparam("ready_at", type_=Float)
    if dialect == "postgresql":
        names = func.json_array_elements_text(cast(bindparam("lines", type_=JSON), JSON)).table_valued("value")
        first = select(*columns).where(QUEUED, Job.line == names.c.value)
        if ready:
            first = first.where(col(Job.not_before) <= ready_at)
        head = first.order_by(col(Job.queued_at)).limit(each).correlate(names).lateral()
        return select(head).select_from(names.join(head, true()))
    # SQLite has no LATERAL.
    names = func.json_each(bindparam("lines", type_=Text)).table_valued("value")
    inner = aliased(Job, name="inner_jobs")
    first = select(literal_column("inner_jobs.rowid")).select_from(inner)
    first = first.where(inner.status == literal("queued", literal_execute=True), inner.line == names.c.value)
    if ready:
        first = first.where(inner.not_before <= ready_at)
    first = first.order_by(inner.queued_at).limit(each).correlate(names)
    # An outer join, because it determines the outer loop.
    return select(*columns).select_from(names.outerjoin(Job, literal_column("jobs.rowid").in_(first)))
