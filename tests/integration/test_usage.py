"""Uses rolled up by day, read back exactly, whatever was rolled up so far."""

from datetime import UTC, datetime, timedelta

from sqlmodel import select

from shared import usage
from shared.database import Database
from shared.tables import UseDay
from tests.conftest import both_databases
from tests.uses import used

pytestmark = both_databases

NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
MARCH_1 = datetime(2026, 3, 1, tzinfo=UTC).date()


def some_uses(database: Database) -> None:
    used(database, finished_at=NOON - timedelta(days=3), seconds=10)
    used(database, finished_at=NOON - timedelta(days=3, hours=1), seconds=30)
    used(database, finished_at=NOON - timedelta(days=3), outcome="failed")
    used(database, finished_at=NOON - timedelta(days=3), outcome="cancelled")
    used(database, finished_at=NOON - timedelta(days=3), mock=True)
    used(database, "TI2V-5B", finished_at=NOON - timedelta(days=1))
    used(database, finished_at=NOON - timedelta(hours=2), seconds=5)
    used(database, finished_at=NOON - timedelta(minutes=1), seconds=7)


def test_days_are_the_same_before_and_after_they_are_rolled_up(database: Database) -> None:
    some_uses(database)
    before = usage.days(database, MARCH_1)
    assert usage.roll_up(database, NOON) == 3
    assert usage.days(database, MARCH_1) == before
    assert [(day.model_id, day.day.day, day.uses, day.successes, day.seconds) for day in before] == [
        ("T2V-A14B", 7, 3, 2, 40.0), ("TI2V-5B", 9, 1, 1, 10.0), ("T2V-A14B", 10, 2, 2, 12.0),
    ]  # fmt: skip
    assert {hour: count for hour, count in enumerate(before[0].hours) if count} == {11: 1, 12: 2}


def test_rolling_up_again_changes_nothing_and_the_current_day_grows(database: Database) -> None:
    some_uses(database)
    usage.roll_up(database, NOON)
    assert usage.roll_up(database, NOON) == 0
    used(database, finished_at=NOON + timedelta(minutes=30))
    used(database, finished_at=NOON - timedelta(minutes=3))  # committed late, by a clock that is behind
    whole = [day.uses for day in usage.days(database, MARCH_1)]
    assert whole == [3, 1, 4]
    assert usage.roll_up(database, NOON + timedelta(hours=1)) == 1
    assert [day.uses for day in usage.days(database, MARCH_1)] == whole
    assert usage.roll_up(database, NOON + timedelta(days=2)) == 0, "nothing has ended since"
    with database.read() as session:
        rows = session.exec(select(UseDay)).all()
    assert sum(row.uses for row in rows) == 8
    (march_7,) = [row for row in rows if row.day.day == 7]
    assert march_7.until == datetime(2026, 3, 8, tzinfo=UTC)
    assert march_7.histogram == {"53": 1, "78": 1}, "10 s is in [2^(53/16), 2^(54/16)), 30 s in [2^(78/16), 2^(79/16))"
    assert march_7.busy_seconds == 50.0, "the failed use took 10 s too"


def test_totals_and_the_latest(database: Database) -> None:
    assert usage.latest(database, ["T2V-A14B"]) == {}
    assert usage.days(database, MARCH_1) == []
    some_uses(database)
    totals = usage.totals(usage.days(database, MARCH_1))
    month = totals["T2V-A14B"]
    assert (month.uses, month.successes, month.seconds, month.busy_seconds) == (5, 4, 52.0, 62.0)
    assert sum(month.histogram.values()) == 4
    assert totals["T2V-A14B"].average_seconds == 13.0
    assert usage.Totals(1, 0, 0.0).average_seconds is None
    latest = usage.latest(database, ["T2V-A14B", "TI2V-5B", "I2V-A14B"])
    assert set(latest) == {"T2V-A14B", "TI2V-5B"}
    assert (latest["T2V-A14B"].uses, latest["T2V-A14B"].success_rate) == (5, 0.8)
    assert latest["T2V-A14B"].last_used == NOON - timedelta(minutes=1)
    work = 64 * 64 * 9 * 2 / 1e6
    assert sorted(latest["T2V-A14B"].seconds_per_work) == [seconds / work for seconds in (4.0, 6.0, 9.0, 29.0)]
