"""Ended generations and their device time by key, day and model. Placeholders do not count."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import case, func
from sqlmodel import col, select

from shared.database.engine import Database
from shared.database.tables import Use
from shared.states import JobState

DIMENSIONS = ("key", "day", "model")


@dataclass(frozen=True)
class Group:
    """The uses of one group. None: the group is not of one key, day or model; a key of None: without a key."""

    owner: str | None
    day: date | None
    model_id: str | None
    jobs: int
    succeeded: int
    failed: int
    cancelled: int
    gpu_seconds: float


def groups(
    database: Database, first: date, last: date, by: Collection[str], owner: str | None = None, limit: int | None = None
) -> list[Group]:
    """Return the uses that ended on these days in UTC, the last one included, by day, key and model.

    `by`: of `DIMENSIONS`. `owner`: only of this key. `limit`: at most so many groups.
    """
    begin = datetime.combine(first, time(), UTC)
    end = datetime.combine(last, time(), UTC) + timedelta(days=1)
    with database.read() as session:
        day: Any = (
            func.substr(Use.finished_at, 1, 10)
            if database.is_sqlite
            else func.to_char(func.timezone("UTC", Use.finished_at), "YYYY-MM-DD")
        )
        columns = {"day": day, "key": col(Use.owner), "model": col(Use.model_id)}
        chosen = [columns[name].label(f"of_{name}") for name in columns if name in by]
        figures = [
            func.count().label("jobs"),
            *(_count(state).label(state.value) for state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)),
            func.coalesce(func.sum(func.coalesce(Use.device_seconds, Use.seconds)), 0.0).label("gpu_seconds"),
        ]
        query: Any = select(*chosen, *figures).where(
            col(Use.finished_at) >= begin, col(Use.finished_at) < end, col(Use.mock).is_(False)
        )
        if owner is not None:
            query = query.where(Use.owner == owner)
        names = [one.name for one in chosen]
        if chosen:
            query = query.group_by(*names).order_by(*names)
        rows = session.connection().execute(query.limit(limit)).mappings().all()
    return [
        Group(
            owner=row.get("of_key"),
            day=date.fromisoformat(row["of_day"]) if "of_day" in row else None,
            model_id=row.get("of_model"),
            jobs=row["jobs"],
            succeeded=row["succeeded"],
            failed=row["failed"],
            cancelled=row["cancelled"],
            gpu_seconds=float(row["gpu_seconds"]),
        )
        for row in rows
        if row["jobs"]
    ]


def _count(state: JobState) -> Any:
    return func.coalesce(func.sum(case((col(Use.outcome) == state, 1), else_=0)), 0)
