"""The uses of a day, kept in memory: what is new is read once, what comes late is not missed, what is old leaves."""

from datetime import UTC, datetime, timedelta

import pytest

from shared.database.engine import Database
from shared.jobs.usage import latest_uses
from shared.management.recent_uses import Period, RecentUses
from tests.conftest import both_databases
from tests.support.uses import used

NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


def of_a_day(recent: RecentUses, database: Database, now: datetime = NOON) -> dict[str, tuple[int, int]]:
    found = recent.periods(now, latest_uses.newest(database))
    return {model_id: (period.uses, period.successes) for model_id, period in found.items()}


@both_databases
def test_rows_are_counted_once_in_whatever_order_they_come(database: Database) -> None:
    recent = RecentUses(database)
    assert of_a_day(recent, database) == {}
    used(database, finished_at=NOON - timedelta(hours=23))
    used(database, "TI2V-5B", finished_at=NOON - timedelta(hours=1), outcome="failed")
    used(database, finished_at=NOON - timedelta(hours=25))
    assert of_a_day(recent, database) == {"T2V-A14B": (1, 1), "TI2V-5B": (1, 0)}
    assert of_a_day(recent, database) == {"T2V-A14B": (1, 1), "TI2V-5B": (1, 0)}
    used(database, finished_at=NOON - timedelta(hours=2), seconds=30.0)
    used(database, finished_at=NOON - timedelta(minutes=1), seconds=20.0)
    assert of_a_day(recent, database) == {"T2V-A14B": (3, 3), "TI2V-5B": (1, 0)}
    assert recent.since(NOON - timedelta(hours=1)) == Period(2, 1, 20.0, 0.0)
    later = NOON + timedelta(hours=2)
    assert of_a_day(recent, database, later) == {"T2V-A14B": (2, 2), "TI2V-5B": (1, 0)}
    assert of_a_day(recent, database, NOON + timedelta(hours=23, seconds=1)) == {"T2V-A14B": (1, 1)}
    assert of_a_day(recent, database, NOON + timedelta(hours=25)) == {}


def test_a_use_that_was_committed_out_of_turn_is_not_missed(database: Database) -> None:
    """On PostgreSQL a lower number may appear after a higher one was seen."""
    recent = RecentUses(database)
    used(database, id=9, finished_at=NOON)
    assert of_a_day(recent, database) == {"T2V-A14B": (1, 1)}
    used(database, id=8, finished_at=NOON - timedelta(seconds=1))
    used(database, id=10, finished_at=NOON)
    assert of_a_day(recent, database) == {"T2V-A14B": (3, 3)}


def test_sums_stay_right_while_uses_come_and_go(database: Database) -> None:
    recent = RecentUses(database)
    for hour in range(48):
        used(database, finished_at=NOON + timedelta(hours=hour), seconds=0.1 + hour)
        recent.periods(NOON + timedelta(hours=hour), latest_uses.newest(database))
    (found,) = recent.periods(NOON + timedelta(hours=47, minutes=30), latest_uses.newest(database)).values()
    assert (found.uses, found.success_rate, found.failures) == (24, 1.0, 0)
    assert found.seconds == pytest.approx(sum(0.1 + hour for hour in range(24, 48)), abs=1e-9)
    with database.write() as session:
        session.connection().exec_driver_sql("delete from uses")
    assert recent.periods(NOON, latest_uses.newest(database)) == {}
