"""Samples of devices, and their averages by model. Sole reader and writer of `samples` and `sample_hours`.

Raw rows are kept for a day. Each past hour becomes one row for each device and model, with sums and counts, so that an
average over a month reads a few hundred rows. These are kept for 90 days.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Float, Row, RowMapping, Select, and_, case, cast, delete, func, insert, literal, or_, select
from sqlmodel import Session, col

from shared.database.engine import Database, hold
from shared.database.tables import Sample, SampleHour

_HOUR = timedelta(hours=1)
_KEPT = timedelta(days=1)
_HOURS_KEPT = timedelta(days=90)  # as long as the minutes' snapshots
# Samples this old are committed, whatever the nodes' clocks say. Only then is their hour rolled up.
_SETTLED = timedelta(minutes=5)
SLOWDOWNS = frozenset({"hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown"})
"""The reasons for a reduced clock rate that point to heat or to the power supply."""
_NOTHING = ""  # the model of rows for samples without a running job


@dataclass(frozen=True)
class Reading:
    """The measurements of a device at one moment. None: not measured. 1 MB = 10^6 bytes."""

    utilization_percent: float | None  # of the GPU; of one core for a CPU device's processes, so it may pass 100
    memory_used_mb: float | None
    memory_total_mb: float | None
    temperature_celsius: float | None
    power_watts: float | None
    ecc_uncorrected: int | None = None  # uncorrectable memory errors since the driver was loaded
    throttle_reasons: str | None = None  # why the clock rate is reduced, comma-separated; empty: it is not


@dataclass(frozen=True)
class Doing:
    """The job on a device at one moment. All fields are None if it was idle."""

    job_id: str | None
    model_id: str | None  # None also for a placeholder, which runs no model
    phase: str | None  # None also if Redis is unavailable


@dataclass(frozen=True)
class Averages:
    """A model's samples over some time. A figure is the mean of the samples that have it; None if none has."""

    samples: int
    utilization_percent: float | None
    memory_used_mb: float | None
    memory_peak_mb: float | None  # the largest sample
    memory_total_mb: float | None  # of the devices that it ran on, weighted as memory_used_mb is
    temperature_celsius: float | None
    power_watts: float | None
    kind: str = "cuda"  # cuda: of GPUs; cpu: of the processes of CPU devices


def record(database: Database, device_key: str, kind: str, reading: Reading, doing: Doing, at: datetime) -> None:
    """Store one sample. `kind`: of the device, ``cuda`` or ``cpu``."""
    with database.write() as session:
        session.add(Sample(device_key=device_key, kind=kind, at=at, **vars(reading), **vars(doing)))


def latest(database: Database, since: datetime) -> dict[str, Sample]:
    """Return the newest sample of each device since then, by device key."""
    # Grouped by an expression, because SQLite would otherwise read a whole day of each device by the column's index.
    key = col(Sample.device_key).concat("")
    newest = (
        select(key.label("device_key"), func.max(Sample.at).label("at"))
        .where(col(Sample.at) >= since)
        .group_by(key)
        .subquery()
    )
    query = select(Sample).join(
        newest, (col(Sample.device_key) == newest.c.device_key) & (col(Sample.at) == newest.c.at)
    )
    with database.read() as session:
        return {sample.device_key: sample for sample in session.scalars(query)}


def utilizations(database: Database, since: datetime) -> dict[str, float]:
    """Return the mean utilisation of each device since then, by device key. A device without a measurement is missing.

    Each measurement counts as at most 100 %, because that of a CPU device is of one core.
    """
    key = col(Sample.device_key).concat("")  # as in `latest`
    load = case((col(Sample.utilization_percent) > 100.0, 100.0), else_=col(Sample.utilization_percent))
    query = (
        select(key, func.avg(load))
        .where(col(Sample.at) >= since, col(Sample.utilization_percent).is_not(None))
        .group_by(key)
    )
    with database.read() as session:
        return {device: float(mean) for device, mean in session.execute(query).all()}


def averages(database: Database, since: datetime) -> dict[str, Averages]:
    """Return the averages by model, over the samples that were taken while its jobs ran.

    It reads rolled-up hours, and raw rows for the time after the last of these and for the partial hour of `since`, if
    they still exist. If a model ran on GPUs and on CPU devices, only GPUs count, because their percentages differ.
    """
    first_whole = _hour_of(since) if since == _hour_of(since) else _hour_of(since) + _HOUR
    with database.read() as session:
        # Read first: an hour that is rolled up meanwhile is still counted from its raw rows, and so only once.
        rolled_up_to = _rolled_up_to(session) or since
        hours = session.execute(_hours(first_whole, rolled_up_to)).all()
        head = and_(col(Sample.at) >= since, col(Sample.at) < min(first_whole, rolled_up_to))
        tail = col(Sample.at) >= max(since, rolled_up_to)
        raw = session.execute(_raw().where(or_(head, tail), col(Sample.model_id).is_not(None))).all()
    return _averaged([*hours, *raw])


def roll_up(database: Database, now: datetime) -> int:
    """Roll up every past hour; remove raw rows older than a day and hours older than 90 days.

    Return how many hours were rolled up. It is idempotent: an hour's rows are written in one transaction, once five
    minutes have passed since its end.
    """
    until = _hour_of(now - _SETTLED)
    with database.read() as session:
        cursor = _rolled_up_to(session)
    written = 0
    while (start := _next_hour(database, cursor, until)) is not None:
        cursor = start + _HOUR
        _write_hour(database, start, cursor)
        written += 1
    with database.write() as session:
        session.execute(delete(Sample).where(col(Sample.at) < now - _KEPT, col(Sample.at) < until))
        session.execute(delete(SampleHour).where(col(SampleHour.hour) < _hour_of(now - _HOURS_KEPT)))
    return written


def _hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _rolled_up_to(session: Session) -> datetime | None:
    newest = session.execute(select(func.max(SampleHour.hour))).scalar_one()
    return newest + _HOUR if newest is not None else None


def _next_hour(database: Database, since: datetime | None, until: datetime) -> datetime | None:
    """Return the first hour from `since` on that ended by `until` and has samples."""
    query = select(col(Sample.at)).where(col(Sample.at) < until).order_by(col(Sample.at)).limit(1)
    with database.read() as session:
        found = session.execute(query if since is None else query.where(col(Sample.at) >= since)).scalar_one_or_none()
    return _hour_of(found) if found is not None else None


def _raw(*by: Any) -> Select[Any]:
    """Return the query of raw rows summed up by model, kind and `by`."""
    total = case((col(Sample.memory_used_mb).is_not(None), col(Sample.memory_total_mb)))
    columns: list[Any] = [
        *by,
        col(Sample.model_id).label("model_id"),
        col(Sample.kind).label("kind"),
        func.count().label("samples"),
        func.coalesce(func.sum(Sample.utilization_percent), 0.0).label("utilization_sum"),
        func.count(col(Sample.utilization_percent)).label("utilization_count"),
        func.coalesce(func.sum(Sample.memory_used_mb), 0.0).label("memory_sum_mb"),
        func.coalesce(func.max(Sample.memory_used_mb), 0.0).label("memory_max_mb"),
        func.count(col(Sample.memory_used_mb)).label("memory_count"),
        func.avg(total).label("memory_total_mb"),
        func.coalesce(func.sum(Sample.temperature_celsius), 0.0).label("temperature_sum"),
        func.coalesce(func.max(Sample.temperature_celsius), 0.0).label("temperature_max"),
        func.count(col(Sample.temperature_celsius)).label("temperature_count"),
        func.coalesce(func.sum(Sample.power_watts), 0.0).label("power_sum"),
        func.count(col(Sample.power_watts)).label("power_count"),
    ]
    return select(*columns).group_by(*by, col(Sample.model_id), col(Sample.kind))


def _write_hour(database: Database, start: datetime, end: datetime) -> None:
    query = _raw(col(Sample.device_key).label("device_key")).where(col(Sample.at) >= start, col(Sample.at) < end)
    with database.write() as session:
        rows: dict[tuple[str, str], RowMapping] = {}
        for row in session.execute(query).mappings():
            key = (row["device_key"], row["model_id"] or _NOTHING)
            # A device that changed its kind within the hour, by a restart, counts as the kind with more samples.
            if key not in rows or rows[key]["samples"] < row["samples"]:
                rows[key] = row
        hold(session, "sample hours")
        session.execute(delete(SampleHour).where(col(SampleHour.hour) == start))
        if rows:
            session.execute(
                insert(SampleHour),
                [{**row, "hour": start, "model_id": model_id} for (_, model_id), row in rows.items()],
            )


_SUMMED = (
    "samples", "utilization_sum", "utilization_count", "memory_sum_mb", "memory_count", "temperature_sum",
    "temperature_count", "power_sum", "power_count",
)  # fmt: skip


def _hours(since: datetime, until: datetime) -> Select[Any]:
    """Return the query of hours in that time summed up by model and kind, with the columns of `_raw`."""
    total = func.sum(col(SampleHour.memory_total_mb) * col(SampleHour.memory_count))
    named = case((col(SampleHour.memory_total_mb).is_not(None), col(SampleHour.memory_count)), else_=literal(0))
    columns: list[Any] = [
        col(SampleHour.model_id).label("model_id"),
        col(SampleHour.kind).label("kind"),
        *(func.sum(col(getattr(SampleHour, name))).label(name) for name in _SUMMED),
        func.max(SampleHour.memory_max_mb).label("memory_max_mb"),
        (total / func.nullif(cast(func.sum(named), Float), 0.0)).label("memory_total_mb"),
    ]
    return (
        select(*columns)
        .where(col(SampleHour.hour) >= since, col(SampleHour.hour) < until, col(SampleHour.model_id) != _NOTHING)
        .group_by(col(SampleHour.model_id), col(SampleHour.kind))
    )


def _averaged(rows: Iterable[Row[Any]]) -> dict[str, Averages]:
    """Return the averages of rows of `_raw` and `_hours`, by model."""
    by_model: dict[str, list[Row[Any]]] = {}
    for row in rows:
        by_model.setdefault(row.model_id, []).append(row)
    found = {}
    for model_id, all_of_it in by_model.items():
        kind = "cuda" if any(row.kind == "cuda" for row in all_of_it) else "cpu"
        parts = [row for row in all_of_it if row.kind == kind]
        totals = [(row.memory_total_mb, row.memory_count) for row in parts if row.memory_total_mb is not None]
        found[model_id] = Averages(
            samples=sum(row.samples for row in parts),
            utilization_percent=_mean((row.utilization_sum, row.utilization_count) for row in parts),
            memory_used_mb=_mean((row.memory_sum_mb, row.memory_count) for row in parts),
            memory_peak_mb=max((row.memory_max_mb for row in parts if row.memory_count), default=None),
            memory_total_mb=_mean((total * count, count) for total, count in totals),
            temperature_celsius=_mean((row.temperature_sum, row.temperature_count) for row in parts),
            power_watts=_mean((row.power_sum, row.power_count) for row in parts),
            kind=kind,
        )
    return found


def _mean(sums: Iterable[tuple[float, int]]) -> float | None:
    pairs = list(sums)
    count = sum(count for _, count in pairs)
    return round(sum(total for total, _ in pairs) / count, 2) if count else None
