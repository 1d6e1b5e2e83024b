"""Which lines of the queue there are, and the first jobs of each: read in as many steps as there are lines."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import JSON, Connection, cast, func, literal, literal_column, true
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from shared.tables import Job

# The value stands in the statement, so that every planner sees that the indexes of queued jobs serve it.
QUEUED = col(Job.status) == literal("queued", literal_execute=True)


def lines_there(connection: Connection) -> list[str]:
    """The lines in which anybody waits, found by stepping from one to the next in their index."""
    first: Any = select(func.min(Job.line).label("line")).where(QUEUED)
    lines = first.cte("lines", recursive=True)
    following = select(func.min(Job.line)).where(QUEUED, col(Job.line) > lines.c.line).scalar_subquery()
    lines = lines.union_all(select(following).where(lines.c.line.is_not(None)))
    return list(connection.execute(select(lines.c.line).where(lines.c.line.is_not(None))).scalars())


def first_of_each(
    connection: Connection, columns: Sequence[Any], lines: list[str], each: int, ready_at: float | None = None
) -> list[Any]:
    """These columns of the first jobs of those lines; only of those that may start by then, where that is given.

    The first of the columns has to be the id.
    """
    if not lines:
        return []
    first: Any
    query: Any
    if connection.dialect.name == "postgresql":
        names = func.json_array_elements_text(cast(lines, JSON)).table_valued("value")
        first = select(*columns).where(QUEUED, Job.line == names.c.value)
        if ready_at is not None:
            first = first.where(col(Job.not_before) <= ready_at)
        head = first.order_by(col(Job.queued_at)).limit(each).correlate(names).lateral()
        query = select(head).select_from(names.join(head, true()))
    else:  # which has no LATERAL
        names = func.json_each(json.dumps(lines)).table_valued("value")
        inner = aliased(Job, name="inner_jobs")
        first = select(literal_column("inner_jobs.rowid")).select_from(inner)
        first = first.where(inner.status == literal("queued", literal_execute=True), inner.line == names.c.value)
        if ready_at is not None:
            first = first.where(inner.not_before <= ready_at)
        first = first.order_by(inner.queued_at).limit(each).correlate(names)
        # An outer join, for it settles which of the two is the outer loop.
        query = select(*columns).select_from(names.outerjoin(Job, literal_column("jobs.rowid").in_(first)))
    return [row for row in connection.execute(query).all() if row[0] is not None]
