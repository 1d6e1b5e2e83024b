"""Uses by model and day. Sole reader and writer of the table of days, which a schedule rolls up from `uses`."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import delete, func
from sqlmodel import Session, col, select

from shared.database.engine import Database, hold
from shared.database.tables import Use, UseDay
from shared.jobs.usage.latest_uses import COUNTED
from shared.states import JobState

# Rows that ended this long ago are committed, whatever the nodes' clocks say. Only those are rolled up.
_SETTLED = timedelta(minutes=5)
# Histogram buckets in an octave: two times in one bucket differ by less than 2^(1/16), or 4.5 %.
_OCTAVE = 16
# Up to this many successes are sorted; more are read from histograms.
_SORTED = 1000


@dataclass(frozen=True)
class Day:
    """A model's uses on one day in UTC."""

    model_id: str
    day: date
    uses: int
    successes: int
    seconds: float  # summed over the successes
    hours: tuple[int, ...]  # uses by hour of the day
    busy_seconds: float = 0.0  # device time of all uses, including failed ones
    histogram: Mapping[str, int] = field(default_factory=dict)  # successes by bucket of their seconds


@dataclass(frozen=True)
class Totals:
    """A model's uses over some days."""

    uses: int = 0
    successes: int = 0
    seconds: float = 0.0  # summed over the successes
    busy_seconds: float = 0.0  # device time of all uses, including failed ones
    histogram: Mapping[str, int] = field(default_factory=dict)  # successes by bucket of their seconds

    @property
    def average_seconds(self) -> float | None:
        """The average of the successes; None without successes."""
        return self.seconds / self.successes if self.successes else None


def days(database: Database, since: date) -> list[Day]:
    """Return the uses by model and day, oldest first, including those that have just ended.

    It reads the rolled-up days, and from `uses` only rows that ended since.
    """
    columns = (
        UseDay.model_id, UseDay.day, UseDay.uses, UseDay.successes, UseDay.seconds, UseDay.hours, UseDay.busy_seconds,
        UseDay.histogram, UseDay.until,
    )  # fmt: skip
    query = select(*columns).where(col(UseDay.day) >= since)  # type: ignore[call-overload]
    with database.read() as session:
        # Read the days first: what is rolled up meanwhile is then read from `uses`, and counted once.
        rows = session.exec(query).all()
        rolled_up_to = max((row.until for row in rows), default=datetime.combine(since, time(), UTC))
        fresh = _tallied(_ended(session, rolled_up_to, None))
    found = {(row[0], row[1]): _day_of(row) for row in rows}
    for key, tally in fresh.items():
        known = found.get(key)
        found[key] = tally.day(key) if known is None else _sum(known, tally.day(key))
    return sorted(found.values(), key=lambda day: (day.day, day.model_id))


def totals(days: Iterable[Day]) -> dict[str, Totals]:
    """Return the sums of those days by model."""
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
    """Return the 95th percentile of the seconds of the model's successes since that day, whose totals are `total`.

    It is the nearest rank: the ceil(0.95 n)-th of n sorted times. For more than 1,000 successes it is read from the
    histogram, with an error of less than 4.5 %.
    """
    if total.successes > _SORTED:
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


def roll_up(database: Database, now: datetime) -> int:
    """Roll up the days that have new uses, including today. Return how many days were written.

    It is idempotent: until a day is over, it is counted from `uses` again each time. Uses that ended in the last five
    minutes are left for the next run.
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
    """Return (model, outcome, seconds, end) of the uses that ended in that time."""
    query = select(Use.model_id, Use.outcome, Use.seconds, Use.finished_at).where(
        col(Use.finished_at) >= start, *COUNTED
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
        .where(col(Use.finished_at) >= since, col(Use.finished_at) < until, *COUNTED)
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
    """Return the bucket's number as a JSON key. Bucket n covers 2^(n/16) up to 2^((n+1)/16) seconds."""
    return str(math.floor(_OCTAVE * math.log2(max(seconds, 1e-3))))


def _added(histograms: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for histogram in histograms:
        total.update(histogram)
    return dict(total)


def _from_histogram(histogram: Mapping[str, int], rank: int) -> float | None:
    """Return the `rank`-th sorted time, assuming that times are spread evenly on a logarithmic scale in a bucket."""
    before = 0
    for bucket, count in sorted((int(name), count) for name, count in histogram.items()):
        if before + count >= rank > before:
            return math.pow(2.0, (bucket + (rank - before - 0.5) / count) / _OCTAVE)
        before += count
    return None
