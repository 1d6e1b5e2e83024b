"""The whole installation's figures, minute by minute. Sole reader and writer of `snapshots`."""

from datetime import datetime
from typing import Any

from sqlalchemy import Float, Integer, delete, func
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlmodel import col, select

from shared.database.engine import Database, hold
from shared.database.tables import Snapshot

# How several snapshots become one: counts show their height, healthy models their worst, the rest the mean.
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
    """Stores it; a second one of the same moment takes the first one's place."""
    with database.write() as session:
        hold(session, "snapshots")
        session.merge(snapshot)


def history(database: Database, since: datetime, until: datetime, points: int = 500) -> list[Snapshot]:
    """Oldest first, at most `points`: the time is cut into so many equal parts, and each that has any gives one.

    Its moment is that of the newest one in it, so that few snapshots come back as they were stored.
    """
    # SQLite reads moments to a millisecond: a little room keeps the last one within the last part.
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
    """The moment of the newest one."""
    with database.read() as session:
        return session.exec(select(func.max(Snapshot.at))).one()


def drop_older(database: Database, before: datetime) -> int:
    """Returns how many."""
    with database.write() as session:
        return session.connection().execute(delete(Snapshot).where(col(Snapshot.at) < before)).rowcount


class _seconds_of(FunctionElement[float]):
    """A stored moment as seconds since 1970."""

    type = Float()
    inherit_cache = True


@compiles(_seconds_of, "sqlite")
def _seconds_of_sqlite(element: Any, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"((julianday({compiler.process(element.clauses, **kwargs)}) - 2440587.5) * 86400.0)"


@compiles(_seconds_of, "postgresql")
def _seconds_of_postgresql(element: Any, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"extract(epoch from {compiler.process(element.clauses, **kwargs)})::double precision"


class _whole_part(FunctionElement[int]):
    """Of a number that is not negative."""

    type = Integer()
    inherit_cache = True


@compiles(_whole_part, "sqlite")
def _whole_part_sqlite(element: Any, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **kwargs)} AS INTEGER)"  # it cuts off


@compiles(_whole_part, "postgresql")
def _whole_part_postgresql(element: Any, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"floor({compiler.process(element.clauses, **kwargs)})"
