"""What ended generations teach: how long a model takes, how often it is used and how it ends.

Sole reader of `uses`, and sole reader and writer of the days that they are rolled up to.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, func, union_all
from sqlmodel import Session, col, select

from shared.catalogue.job_types import GENERATION
from shared.database.engine import Database, hold
from shared.database.tables import Job, Use, UseDay
from shared.states import JobState, Phase

# Medians over this many of the latest uses: enough to steady them, few enough to follow a new driver or GPU.
_LATEST = 20
# What ended this long ago has been committed, whatever the nodes' clocks say: only then is it rolled up.
_SETTLED = timedelta(minutes=5)
# Buckets of the histograms to an octave: two times in one bucket differ by less than 2^(1/16), 4.5 %.
_OCTAVE = 16
# Up to so many successes are ordered one by one; more are read from histograms.
_ORDERED = 1000


@dataclass(frozen=True)
class Durations:
    """Measured medians for one warm key. None: never measured."""

    load_seconds: float | None
    seconds_per_work: float | None  # seconds, loading left out, per megapixel x frame x step
    samples: int = 0  # jobs behind `seconds_per_work`


@dataclass(frozen=True)
class PhaseTimes:
    """Measured medians of one model at one size, in seconds. None: never measured."""

    phases: Mapping[str, float]  # by phase name
    step: float | None  # one denoising step


@dataclass(frozen=True)
class Day:
    """A model's uses on one day in UTC."""

    model_id: str
    day: date
    uses: int
    successes: int
    seconds: float  # summed over the successes
    hours: tuple[int, ...]  # uses by hour of the day
    busy_seconds: float = 0.0  # that devices spent on the uses, failed ones too
    histogram: Mapping[str, int] = field(default_factory=dict)  # successes by bucket of their seconds


@dataclass(frozen=True)
class Totals:
    """A model's uses over some days."""

    uses: int = 0
    successes: int = 0
    seconds: float = 0.0  # summed over the successes
    busy_seconds: float = 0.0  # that devices spent on the uses, failed ones too
    histogram: Mapping[str, int] = field(default_factory=dict)  # successes by bucket of their seconds

    @property
    def average_seconds(self) -> float | None:
        """Of the successes."""
        return self.seconds / self.successes if self.successes else None


@dataclass(frozen=True)
class Latest:
    """A model's latest uses, at most 20."""

    uses: int = 0
    successes: int = 0
    last_used: datetime | None = None
    seconds_per_work: tuple[float, ...] = ()  # of the successes, loading left out

    @property
    def success_rate(self) -> float | None:
        return self.successes / self.uses if self.uses else None


@dataclass(frozen=True, slots=True)
class Ended:
    """One use, as the figures of a day count it."""

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


def days(database: Database, since: date) -> list[Day]:
    """Uses by model and day, oldest first, exact up to this moment.

    Reads the days that are rolled up, and from `uses` only what has ended since.
    """
    columns = (
        UseDay.model_id, UseDay.day, UseDay.uses, UseDay.successes, UseDay.seconds, UseDay.hours, UseDay.busy_seconds,
        UseDay.histogram, UseDay.until,
    )  # fmt: skip
    query = select(*columns).where(col(UseDay.day) >= since)  # type: ignore[call-overload]
    with database.read() as session:
        # The rows come first: what is rolled up meanwhile is then read from `uses`, and so counted once.
        rows = session.exec(query).all()
        rolled_up_to = max((row.until for row in rows), default=datetime.combine(since, time(), UTC))
        fresh = _tallied(_ended(session, rolled_up_to, None))
    found = {(row[0], row[1]): _day_of(row) for row in rows}
    for key, tally in fresh.items():
        known = found.get(key)
        found[key] = tally.day(key) if known is None else _sum(known, tally.day(key))
    return sorted(found.values(), key=lambda day: (day.day, day.model_id))


def totals(days: Iterable[Day]) -> dict[str, Totals]:
    """By model."""
    by_model: dict[str, list[Day]] = {}
    for day in days:
        by_model.setdefault(day.model_id, []).append(day)
    return {
        model_id: Totals(
            uses=sum(day.uses for day in each),
            successes=sum(day.successes for day in each),
            seconds=sum(day.seconds for day in each),
            busy_seconds=sum(day.busy_seconds for day in each),
            histogram=_added(day.histogram for day in each),
        )
        for model_id, each in by_model.items()
    }


def p95_seconds(database: Database, model_id: str, since: date, total: Totals) -> float | None:
    """The time, in seconds, that 95 % of the model's successes since that day did not exceed; `total` is over these.

    By nearest rank: the ceil(0.95 n)-th of n times in order. Up to 1,000 successes are put in order themselves; of
    more, the time is read from the histogram, where it is off by less than 4.5 %.
    """
    if total.successes > _ORDERED:
        return _from_histogram(total.histogram, math.ceil(0.95 * sum(total.histogram.values())))
    query = select(Use.seconds).where(
        Use.model_id == model_id,
        Use.outcome == JobState.SUCCEEDED,
        col(Use.mock).is_(False),
        col(Use.finished_at) >= datetime.combine(since, time(), UTC),
        col(Use.seconds).is_not(None),
    )
    with database.read() as session:
        seconds = sorted(value for value in session.exec(query) if value is not None)
    return seconds[math.ceil(0.95 * len(seconds)) - 1] if seconds else None


def successes(database: Database, model_ids: Sequence[str], since: date) -> dict[str, Successes]:
    """The latest successes since that day of each of the models that has any."""
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
    """The uses that ended since then, oldest first; with `after`, only those whose row has a higher number."""
    query = select(Use.id, Use.model_id, Use.outcome, Use.seconds, Use.created_at, Use.finished_at).where(*_COUNTED)  # type: ignore[call-overload]
    # By one index or the other, never by both: the few rows after a number are found by that alone.
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


def latest(database: Database, model_ids: Sequence[str]) -> dict[str, Latest]:
    """The latest uses of each of the models that has any."""
    columns = (
        Use.model_id, Use.outcome, Use.finished_at, Use.seconds, Use.width, Use.height, Use.frames, Use.steps,
        Use.timings,
    )  # fmt: skip
    by_model = _newest_of_each(database, columns, model_ids, *_COUNTED)
    return {model_id: _latest_of(uses) for model_id, uses in by_model.items()}


def _newest_of_each(
    database: Database, columns: Sequence[Any], model_ids: Sequence[str], *wanted: Any
) -> dict[str, list[Row[Any]]]:
    """Those columns of each model's latest uses that fit, at most 20, the newest first."""
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
    for row in sorted(rows, key=lambda row: row.finished_at, reverse=True):  # a union promises no order
        by_model.setdefault(row.model_id, []).append(row)
    return by_model


def newest(database: Database) -> int:
    """The number of the newest row, whatever it is: unchanged, nothing has ended since. 0: there is none."""
    with database.read() as session:
        return session.exec(select(func.max(Use.id))).one() or 0


def roll_up(database: Database, now: datetime) -> int:
    """Rolls up the days that have uses which are not rolled up yet, today included. Returns how many days.

    Idempotent: a day is counted anew from `uses` each time, until it is over. What ended in the last five minutes is
    left for the next time.
    """
    until = now - _SETTLED
    with database.read() as session:
        done_to = session.exec(select(func.max(UseDay.until))).one()
    cursor: datetime = done_to if done_to is not None else datetime(1970, 1, 1, tzinfo=UTC)
    written = 0
    while (found := _next_use(database, cursor, until)) is not None:
        start = datetime.combine(found.astimezone(UTC).date(), time(), UTC)
        cursor = start + timedelta(days=1)
        _write_day(database, start, min(cursor, until))
        written += 1
    return written


def durations(database: Database, model_cache_key: str) -> Durations:
    """From the latest real successes under that warm key, on any device."""
    loads, rates = [], []
    for use in _latest(database, model_cache_key):
        work = use.width * use.height * use.frames * use.steps / 1e6
        loading = use.timings.get(Phase.LOADING, 0.0)
        if use.warm is False:
            loads.append(loading)
        rates.append((sum(use.timings.values()) - loading) / work)
    return Durations(_median(loads), _median(rates), len(rates))


def gpu_seconds(database: Database, owner: str, since: datetime, now: datetime) -> float:
    """Seconds that this owner's generations have held devices since that moment: ended ones, and those that run."""
    ended = select(func.coalesce(func.sum(Use.seconds), 0.0)).where(
        Use.owner == owner, col(Use.finished_at) >= since, col(Use.mock).is_(False)
    )
    # What runs is little, whoever owns it; what an owner ever had may be much.
    running = select(Job.owner, Job.started_at).where(
        Job.status == JobState.RUNNING, Job.type == GENERATION, col(Job.mock).is_(False)
    )
    with database.read() as session:
        begun = [started for one, started in session.exec(running) if one == owner and started is not None]
        held = session.exec(ended).one() or 0.0
    return held + sum((now - max(started, since)).total_seconds() for started in begun)


def awaited_gpu_seconds(database: Database, owner: str) -> float:
    """Seconds that this owner's queued generations will hold devices, as jobs like them did; never measured: none."""
    waiting = (
        select(Job.model_cache_key, func.sum(Job.work))
        .where(Job.owner == owner, Job.status == JobState.QUEUED, Job.type == GENERATION, col(Job.mock).is_(False))
        .group_by(col(Job.model_cache_key))
    )
    with database.read() as session:
        found = session.exec(waiting).all()
    return sum(work * (durations(database, model_cache_key).seconds_per_work or 0.0) for model_cache_key, work in found)


def phase_times(
    database: Database, model_cache_key: str, device_name: str, width: int, height: int, frames: int
) -> PhaseTimes:
    """From the latest real successes of exactly that size on that kind of device."""
    uses = [
        use
        for use in _latest(database, model_cache_key)
        if (use.width, use.height, use.frames, use.device_name) == (width, height, frames, device_name)
    ]
    by_phase: dict[str, list[float]] = {}
    for use in uses:
        for phase, seconds in use.timings.items():
            by_phase.setdefault(phase, []).append(seconds)
    steps = [use.timings[Phase.DENOISING] / use.steps for use in uses if Phase.DENOISING in use.timings]
    return PhaseTimes({phase: statistics.median(values) for phase, values in by_phase.items()}, _median(steps))


def _latest(database: Database, model_cache_key: str) -> list[Use]:
    model_id = model_cache_key.partition(":")[0]
    query = (
        select(Use)
        .where(
            Use.model_id == model_id,
            Use.model_cache_key == model_cache_key,
            Use.outcome == JobState.SUCCEEDED,
            col(Use.mock).is_(False),
        )
        .order_by(col(Use.finished_at).desc())
        .limit(_LATEST)
    )
    with database.read() as session:
        return list(session.exec(query))


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


# What counts as a use.
_COUNTED: tuple[ColumnElement[bool], ...] = (
    col(Use.mock).is_(False),
    col(Use.outcome).in_((JobState.SUCCEEDED, JobState.FAILED)),
)


@dataclass
class _Tally:
    uses: int = 0
    successes: int = 0
    seconds: float = 0.0
    busy_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.hours = [0] * 24
        self.histogram: dict[str, int] = {}

    def add(self, outcome: str, seconds: float | None, hour: int) -> None:
        self.uses += 1
        self.hours[hour] += 1
        self.busy_seconds += seconds or 0.0
        if outcome == JobState.SUCCEEDED:
            self.successes += 1
            self.seconds += seconds or 0.0
            if seconds is not None:
                bucket = _bucket(seconds)
                self.histogram[bucket] = self.histogram.get(bucket, 0) + 1

    def day(self, key: tuple[str, date]) -> Day:
        return Day(
            *key, self.uses, self.successes, self.seconds, tuple(self.hours), self.busy_seconds, dict(self.histogram)
        )


def _ended(
    session: Session, start: datetime, end: datetime | None
) -> Iterable[tuple[str, str, float | None, datetime]]:
    """(model, outcome, seconds, end) of the uses that ended then."""
    query = select(Use.model_id, Use.outcome, Use.seconds, Use.finished_at).where(
        col(Use.finished_at) >= start, *_COUNTED
    )
    if end is not None:
        query = query.where(col(Use.finished_at) < end)
    return session.exec(query)


def _tallied(uses: Iterable[tuple[str, str, float | None, datetime]]) -> dict[tuple[str, date], _Tally]:
    found: dict[tuple[str, date], _Tally] = {}
    for model_id, outcome, seconds, finished_at in uses:
        moment = finished_at.astimezone(UTC)
        found.setdefault((model_id, moment.date()), _Tally()).add(outcome, seconds, moment.hour)
    return found


def _next_use(database: Database, since: datetime, until: datetime) -> datetime | None:
    query = (
        select(Use.finished_at)
        .where(col(Use.finished_at) >= since, col(Use.finished_at) < until, *_COUNTED)
        .order_by(col(Use.finished_at))
        .limit(1)
    )
    with database.read() as session:
        return session.exec(query).one_or_none()


def _write_day(database: Database, start: datetime, until: datetime) -> None:
    with database.write() as session:
        hold(session, "use days")
        found = _tallied(_ended(session, start, until))
        session.connection().execute(delete(UseDay).where(col(UseDay.day) == start.date()))
        for (model_id, day), tally in found.items():
            session.add(
                UseDay(
                    model_id=model_id,
                    day=day,
                    uses=tally.uses,
                    successes=tally.successes,
                    seconds=tally.seconds,
                    busy_seconds=tally.busy_seconds,
                    until=until,
                    hours=tally.hours,
                    histogram=tally.histogram,
                )
            )


def _day_of(row: Any) -> Day:
    hours = tuple(row.hours)
    return Day(row.model_id, row.day, row.uses, row.successes, row.seconds, hours, row.busy_seconds, row.histogram)


def _sum(one: Day, other: Day) -> Day:
    hours = tuple(a + b for a, b in zip(one.hours, other.hours, strict=True))
    return Day(
        one.model_id,
        one.day,
        one.uses + other.uses,
        one.successes + other.successes,
        one.seconds + other.seconds,
        hours,
        one.busy_seconds + other.busy_seconds,
        _added((one.histogram, other.histogram)),
    )


def _bucket(seconds: float) -> str:
    """The bucket's number, as JSON has keys: bucket n is from 2^(n/16) up to 2^((n+1)/16) seconds."""
    return str(math.floor(_OCTAVE * math.log2(max(seconds, 1e-3))))


def _added(histograms: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for histogram in histograms:
        total.update(histogram)
    return dict(total)


def _from_histogram(histogram: Mapping[str, int], rank: int) -> float | None:
    """The `rank`-th time in order; within its bucket, times are taken to lie evenly on the logarithmic scale."""
    before = 0
    for bucket, count in sorted((int(name), count) for name, count in histogram.items()):
        if before + count >= rank > before:
            return math.pow(2.0, (bucket + (rank - before - 0.5) / count) / _OCTAVE)
        before += count
    return None


def _latest_of(uses: Sequence[Row[Any]]) -> Latest:
    rates = []
    successes = 0
    for use in uses:
        if use.outcome != JobState.SUCCEEDED:
            continue
        successes += 1
        work = use.width * use.height * use.frames * use.steps / 1e6
        spent = sum(use.timings.values()) - use.timings.get(Phase.LOADING, 0.0) if use.timings else use.seconds
        if spent:
            rates.append(spent / work)
    return Latest(len(uses), successes, max(use.finished_at for use in uses), tuple(rates))
