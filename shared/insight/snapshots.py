"""The installation's figures of each minute. Sole reader and writer of `snapshots`."""

from datetime import datetime
from typing import Any

from sqlalchemy import Float, Integer, delete, func
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlmodel import col, select

from shared.database.engine import Database, hold
from shared.database.tables import Snapshot

# How several snapshots are combined: maximum of counts, minimum of healthy models, mean of the rest.
_HIGHEST = (
    "total_models", "active_models", "total_generations_24h", "alerts_count", "recommendations_count", "queued_jobs",
    "running_jobs", "succeeded_1h", "failed_1h", "oldest_queued_seconds",
)  # fmt: skip
_LOWEST = ("healthy_models",)
_MEAN = (
    "average_quality_score", "average_performance_score", "system_load_percent", "memory_usage_percent",
    "average_generation_seconds", "disk_used_percent", "disk_free_gb",
)  # fmt: skip


def record(database: Database, snapshot: Snapshot) -> None:
    """Store a snapshot. It replaces one of the same time."""
    with database.write() as session:
        hold(session, "snapshots")
        session.merge(snapshot)


def history(database: Database, since: datetime, until: datetime, points: int = 500) -> list[Snapshot]:
    """Return at most `points` snapshots, oldest first: the time is divided into equal parts, which give one each.

    Its time is that of the newest snapshot in the part, so that a few snapshots are returned as stored.
    """
    # SQLite reads times to a millisecond: a small margin keeps the last one within the last part.
    width = ((until - since).total_seconds() + 0.01) / points
    part = _whole_part((_seconds_of(col(Snapshot.at)) - since.timestamp()) / width)
    columns: list[Any] = [func.max(Snapshot.at).label("at")]
    columns += [func.max(getattr(Snapshot, name)).label(name) for name in _HIGHEST]
    columns += [func.min(getattr(Snapshot, name)).label(name) for name in _LOWEST]
    columns += [func.avg(getattr(Snapshot, name)).label(name) for name in _MEAN]
    query = (
        select(*columns)
        .where(col(Snapshot.at) >= since, col(Snapshot.at) < until)
        .group_by(part)
        .order_by(func.max(Snapshot.at))
    )
    with database.read() as session:
        return [Snapshot(**row._mapping) for row in session.connection().execute(query)]


def newest(database: Database) -> datetime | None:
    """Return the time of the newest snapshot; None if there is none."""
    with database.read() as session:
        return session.exec(select(func.max(Snapshot.at))).one()


def drop_older(database: Database, before: datetime) -> int:
    """Remove older snapshots. Return how many."""
    with database.write() as session:
        return session.connection().execute(delete(Snapshot).where(col(Snapshot.at) < before)).rowcount


class _seconds_of(FunctionElement[float]):
    """A stored time as seconds since 1970."""

    type = Float()
    inherit_cache = True


@compiles(_seconds_of, "sqlite")
def _seconds_of_sqlite(element: Any, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"((julianday({compiler.process(element.clauses, **kwargs)}) - 2440587.5) * 86400.0)"


@compiles(_seconds_of, "postgresql")
def _seconds_of_postgresql(element: Any, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"extract(epoch from {compiler.process(element.clauses, **kwargs)})::double precision"


class _whole_part(FunctionElement[int]):
    """The integer part of a number that is not negative."""

    type = Integer()
    inherit_cache = True


@compiles(_whole_part, "sqlite")
def _whole_part_sqlite(element: Any, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **kwargs)} AS INTEGER)"  # truncates


@compiles(_whole_part, "postgresql")
def _whole_part_postgresql(element: Any, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"floor({compiler.process(element.clauses, **kwargs)})"
