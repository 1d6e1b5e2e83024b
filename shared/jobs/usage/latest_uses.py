"""The latest uses of models: how often they succeed, how long they take, and on which devices they run.

A use is one ended generation that was not a placeholder and was not cancelled. `by_day` sums uses up by day.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

from sqlalchemy import ColumnElement, Row, func, union_all
from sqlmodel import col, select

from shared.database.engine import Database
from shared.database.tables import Use
from shared.jobs.usage.parts import LIKE, History, Parts
from shared.states import JobState

_LATEST = 20

COUNTED: tuple[ColumnElement[bool], ...] = (
    col(Use.mock).is_(False),
    col(Use.outcome).in_((JobState.SUCCEEDED, JobState.FAILED)),
)
"""The condition for a row to count as a use."""


@dataclass(frozen=True)
class Latest:
    """A model's latest uses, at most 20."""

    uses: int = 0
    successes: int = 0
    last_used: datetime | None = None
    # Of the timed successes, newest first: the seconds without loading over what is expected of their size and kind, by
    # all of them; and the seconds of denoising for each megapixel x frame x step.
    relative_seconds: tuple[float, ...] = ()
    seconds_per_work: tuple[float, ...] = ()

    @property
    def success_rate(self) -> float | None:
        return self.successes / self.uses if self.uses else None


@dataclass(frozen=True, slots=True)
class Ended:
    """One use, as daily figures count it."""

    id: int
    model_id: str
    succeeded: bool
    seconds: float | None  # from its start to its end
    response_seconds: float  # from its request to its end
    finished_at: datetime


@dataclass(frozen=True)
class Successes:
    """A model's latest successes within some time, at most 20."""

    newest: datetime
    qualities: tuple[float, ...] = ()  # the technical scores, of those that have one
    devices: tuple[str, ...] = ()  # names, newest first
    profiles: tuple[str, ...] = ()  # memory profiles, newest first


def latest(database: Database, model_ids: Sequence[str]) -> dict[str, Latest]:
    """Return the latest uses by model, for the models that have any."""
    columns = (
        Use.model_id, Use.outcome, Use.finished_at, Use.seconds, Use.width, Use.height, Use.frames, Use.steps,
        Use.timings, Use.resumed_from_step, Use.model_cache_key, Use.speed, Use.devices, Use.device_seconds, Use.work,
    )  # fmt: skip
    by_model = _newest_of_each(database, columns, model_ids, *COUNTED)
    return {model_id: _latest_of(uses) for model_id, uses in by_model.items()}


def successes(database: Database, model_ids: Sequence[str], since: date) -> dict[str, Successes]:
    """Return the latest successes since that day by model, for the models that have any."""
    columns = (Use.model_id, Use.finished_at, Use.quality, Use.device_name, Use.profile)
    wanted = (
        Use.outcome == JobState.SUCCEEDED,
        col(Use.mock).is_(False),
        col(Use.finished_at) >= datetime.combine(since, time(), UTC),
    )
    by_model = _newest_of_each(database, columns, model_ids, *wanted)
    return {
        model_id: Successes(
            newest=uses[0].finished_at,
            qualities=tuple(use.quality for use in uses if use.quality is not None),
            devices=tuple(dict.fromkeys(use.device_name for use in uses if use.device_name)),
            profiles=tuple(dict.fromkeys(use.profile for use in uses if use.profile)),
        )
        for model_id, uses in by_model.items()
    }


def ended(database: Database, since: datetime, after: int = 0) -> list[Ended]:
    """Return the uses that ended since then, oldest first. With `after`, only rows with a higher number."""
    query = select(Use.id, Use.model_id, Use.outcome, Use.seconds, Use.created_at, Use.finished_at).where(*COUNTED)  # type: ignore[call-overload]
    # One index or the other, never both: the number alone finds the few newer rows.
    query = query.where(col(Use.id) > after) if after else query.where(col(Use.finished_at) >= since)
    with database.read() as session:
        rows = session.exec(query).all()
    found = [
        Ended(
            id=row.id,
            model_id=row.model_id,
            succeeded=row.outcome == JobState.SUCCEEDED,
            seconds=row.seconds,
            response_seconds=(row.finished_at - row.created_at).total_seconds(),
            finished_at=row.finished_at,
        )
        for row in rows
        if row.finished_at >= since
    ]
    return sorted(found, key=lambda use: use.finished_at)


def newest(database: Database) -> int:
    """Return the number of the newest row, counted or not; 0 if there is none. While it is unchanged, nothing ended."""
    with database.read() as session:
        return session.exec(select(func.max(Use.id))).one() or 0


def _newest_of_each(
    database: Database, columns: Sequence[Any], model_ids: Sequence[str], *wanted: Any
) -> dict[str, list[Row[Any]]]:
    """Return the columns of each model's latest matching uses, at most 20, newest first."""
    of_each = [
        select(*columns)
        .where(Use.model_id == model_id, *wanted)
        .order_by(col(Use.finished_at).desc())
        .limit(_LATEST)
        .subquery()
        for model_id in model_ids
    ]
    if not of_each:
        return {}
    with database.read() as session:
        rows = session.connection().execute(union_all(*(select(each) for each in of_each))).all()
    by_model: dict[str, list[Row[Any]]] = {}
    for row in sorted(rows, key=lambda row: row.finished_at, reverse=True):  # a union guarantees no order
        by_model.setdefault(row.model_id, []).append(row)
    return by_model


def _latest_of(uses: Sequence[Row[Any]]) -> Latest:
    successes = [use for use in uses if use.outcome == JobState.SUCCEEDED]
    # The times of a job that continued from a checkpoint are only of the rest.
    whole = [use for use in successes if use.resumed_from_step is None]
    timed = [(use, parts) for use in whole if (parts := Parts.of(use)) is not None]
    of_kind: dict[tuple[str, str, int], list[Parts]] = {}
    for use, parts in timed:
        of_kind.setdefault(_kind(use), []).append(parts)
    histories = {kind: History(found, LIKE) for kind, found in of_kind.items()}
    relative = []
    for use, parts in timed:
        expected = histories[_kind(use)].expected(parts.volume)
        seconds = 0.0 if expected is None else expected.seconds(parts.work, parts.volume)
        if seconds > 0:
            relative.append(parts.seconds / seconds)
    rates = (parts.denoising / (parts.volume * use.steps) for use, parts in timed)
    return Latest(len(uses), len(successes), max(use.finished_at for use in uses), tuple(relative), tuple(rates))


def _kind(use: Row[Any]) -> tuple[str, str, int]:
    """Return what must be equal for times to be compared, besides the size."""
    return use.model_cache_key, use.speed, use.devices
