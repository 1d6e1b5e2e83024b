"""Uses rolled up by day, read back exactly, whatever was rolled up so far."""

import math
import random
from datetime import UTC, datetime, timedelta

from sqlmodel import select

from shared.database.engine import Database
from shared.database.tables import Use, UseDay
from shared.jobs.usage import by_day, latest_uses
from tests.conftest import both_databases
from tests.support.uses import used

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
    before = by_day.days(database, MARCH_1)
    assert by_day.roll_up(database, NOON) == 3
    assert by_day.days(database, MARCH_1) == before
    assert [(day.model_id, day.day.day, day.uses, day.successes, day.seconds) for day in before] == [
        ("T2V-A14B", 7, 3, 2, 40.0), ("TI2V-5B", 9, 1, 1, 10.0), ("T2V-A14B", 10, 2, 2, 12.0),
    ]  # fmt: skip
    assert {hour: count for hour, count in enumerate(before[0].hours) if count} == {11: 1, 12: 2}


def test_rolling_up_again_changes_nothing_and_the_current_day_grows(database: Database) -> None:
    some_uses(database)
    by_day.roll_up(database, NOON)
    assert by_day.roll_up(database, NOON) == 0
    used(database, finished_at=NOON + timedelta(minutes=30))
    used(database, finished_at=NOON - timedelta(minutes=3))  # committed late, by a clock that is behind
    whole = [day.uses for day in by_day.days(database, MARCH_1)]
    assert whole == [3, 1, 4]
    assert by_day.roll_up(database, NOON + timedelta(hours=1)) == 1
    assert [day.uses for day in by_day.days(database, MARCH_1)] == whole
    assert by_day.roll_up(database, NOON + timedelta(days=2)) == 0, "nothing has ended since"
    with database.read() as session:
        rows = session.exec(select(UseDay)).all()
    assert sum(row.uses for row in rows) == 8
    (march_7,) = [row for row in rows if row.day.day == 7]
    assert march_7.until == datetime(2026, 3, 8, tzinfo=UTC)
    assert march_7.histogram == {"53": 1, "78": 1}, "10 s is in [2^(53/16), 2^(54/16)), 30 s in [2^(78/16), 2^(79/16))"
    assert march_7.busy_seconds == 50.0, "the failed use took 10 s too"


def test_totals_and_the_latest(database: Database) -> None:
    assert latest_uses.latest(database, ["T2V-A14B"]) == {}
    assert by_day.days(database, MARCH_1) == []
    some_uses(database)
    totals = by_day.totals(by_day.days(database, MARCH_1))
    month = totals["T2V-A14B"]
    assert (month.uses, month.successes, month.seconds, month.busy_seconds) == (5, 4, 52.0, 62.0)
    assert sum(month.histogram.values()) == 4
    assert totals["T2V-A14B"].average_seconds == 13.0
    assert by_day.Totals(1, 0, 0.0).average_seconds is None
    latest = latest_uses.latest(database, ["T2V-A14B", "TI2V-5B", "I2V-A14B"])
    assert set(latest) == {"T2V-A14B", "TI2V-5B"}
    assert (latest["T2V-A14B"].uses, latest["T2V-A14B"].success_rate) == (5, 0.8)
    assert latest["T2V-A14B"].last_used == NOON - timedelta(minutes=1)
    work = 64 * 64 * 9 * 2 / 1e6
    assert sorted(latest["T2V-A14B"].seconds_per_work) == [seconds / work for seconds in (4.0, 6.0, 9.0, 29.0)]


def successes_of(database: Database, seconds: list[float]) -> None:
    for place, each in enumerate(seconds):
        used(database, finished_at=NOON - timedelta(days=1, seconds=place), seconds=each, timings={})


def p95(database: Database) -> float | None:
    totals = by_day.totals(by_day.days(database, MARCH_1))
    return by_day.p95_seconds(database, "T2V-A14B", MARCH_1, totals.get("T2V-A14B", by_day.Totals()))


def test_the_95th_percentile_is_exact_by_nearest_rank(database: Database) -> None:
    assert p95(database) is None
    successes_of(database, [3.0])
    assert p95(database) == 3.0
    used(database, finished_at=NOON - timedelta(days=1), outcome="failed", seconds=900.0)
    used(database, finished_at=NOON - timedelta(days=1), mock=True, seconds=900.0)
    used(database, finished_at=NOON - timedelta(days=40), seconds=900.0)
    successes_of(database, [float(each) for each in range(4, 23)])
    assert p95(database) == 21.0, "the 19th of 20"
    successes_of(database, [100.0])
    assert p95(database) == 22.0, "the 20th of 21"


def test_the_95th_percentile_of_many_comes_from_the_histogram_within_its_bound(database: Database) -> None:
    random.seed(7)
    seconds = [random.lognormvariate(3.5, 0.6) for _ in range(1001)]
    with database.write() as session:
        for place, each in enumerate(seconds):
            end = NOON - timedelta(days=1, seconds=place)
            session.add(
                Use(
                    job_id=f"{place}", model_id="T2V-A14B", model_cache_key="T2V-A14B:none", outcome="succeeded",
                    created_at=end, finished_at=end, seconds=each, width=64, height=64, frames=9, steps=2, timings={},
                )
            )  # fmt: skip
    exact = sorted(seconds)[math.ceil(0.95 * 1001) - 1]
    for _ in range(2):
        found = p95(database)
        assert found is not None
        assert found != exact
        assert 2 ** (-1 / 16) < found / exact < 2 ** (1 / 16)
        by_day.roll_up(database, NOON)


def test_the_latest_successes_and_what_they_ran_on(database: Database) -> None:
    assert latest_uses.successes(database, [], MARCH_1) == {}
    successes_of(database, [1.0])
    used(
        database, finished_at=NOON, quality=0.5, device_name="H200", profile="full", timings={},
    )  # fmt: skip
    used(database, finished_at=NOON - timedelta(hours=1), quality=0.7, device_name="L4", profile="int8-stream")
    used(database, finished_at=NOON - timedelta(hours=2), quality=0.9, device_name="H200", profile="full")
    used(database, finished_at=NOON + timedelta(hours=1), outcome="failed")
    used(database, finished_at=NOON - timedelta(days=40), quality=0.1)
    found = latest_uses.successes(database, ["T2V-A14B", "TI2V-5B"], MARCH_1)
    assert found == {
        "T2V-A14B": latest_uses.Successes(NOON, (0.5, 0.7, 0.9), ("H200", "L4"), ("full", "int8-stream")),
    }  # fmt: skip


def test_ended_uses_are_read_by_time_or_by_number(database: Database) -> None:
    used(database, finished_at=NOON - timedelta(hours=25))
    used(database, finished_at=NOON, created_at=NOON - timedelta(seconds=30), seconds=20.0)
    used(database, finished_at=NOON - timedelta(hours=1), outcome="failed")
    used(database, finished_at=NOON, outcome="cancelled")
    used(database, finished_at=NOON, mock=True)
    first, second = latest_uses.ended(database, NOON - timedelta(hours=24))
    assert (first.succeeded, second.succeeded) == (False, True)
    assert (second.seconds, second.response_seconds) == (20.0, 30.0)
    assert latest_uses.ended(database, NOON - timedelta(hours=24), after=second.id) == [first]
    assert latest_uses.ended(database, NOON - timedelta(hours=24), after=latest_uses.newest(database)) == []
