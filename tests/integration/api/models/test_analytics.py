"""Usage analytics: every field against stored usage."""

import re
import statistics
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from shared import clock
from shared.database.engine import Database
from shared.jobs.usage import by_day
from shared.settings import Settings
from tests.conftest import both_databases
from tests.support.jobs import DEMO
from tests.support.uses import store_uses, used

URL = "/api/v1/models/analytics"


def get(client: TestClient, query: str = "") -> dict[str, Any]:
    answer = client.get(URL + query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def utc_hour(days_ago: int, hour: int) -> datetime:
    """Return that hour of the day in UTC, `days_ago` days ago."""
    midnight = clock.now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight - timedelta(days=days_ago) + timedelta(hours=hour, minutes=10)


@both_databases
@pytest.mark.parametrize("rolled_up", [False, True])
def test_every_field(client: TestClient, database: Database, rolled_up: bool) -> None:
    for hour, count in ((14, 3), (15, 2), (9, 2), (3, 1)):
        for _ in range(count):
            used(database, finished_at=utc_hour(2, hour), seconds=40.0)
    used(database, finished_at=utc_hour(1, 14), seconds=60.0)
    used(database, finished_at=utc_hour(1, 14), outcome="failed")
    used(database, finished_at=utc_hour(1, 14), outcome="cancelled")
    used(database, finished_at=utc_hour(1, 14), mock=True)
    used(database, "TI2V-5B", finished_at=utc_hour(3, 8), seconds=10.0)
    used(database, "I2V-A14B", finished_at=utc_hour(45, 8))
    if rolled_up:
        assert by_day.roll_up(database, clock.now()) == 4
    body = get(client)
    assert body["time_period"] == {
        "start_date": clock.iso(utc_hour(29, 0) - timedelta(minutes=10)), "end_date": body["timestamp"], "days": 30,
    }  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])
    assert body["system_analytics"] == {
        "total_uses": 11,
        "average_uses_per_day": round(11 / 30, 4),
        "most_used_model": "T2V-A14B",
        "active_models": 2,
    }
    assert set(body["model_analytics"]) == set(DEMO.model_ids)
    assert body["model_analytics"]["T2V-A14B"] == {
        "model_id": "T2V-A14B",
        "total_uses": 10,
        "uses_per_day": 0.3333,
        "average_generation_time": round((8 * 40 + 60) / 9, 3),
        "success_rate": 0.9,
        "last_30_days_usage": [
            {"date": utc_hour(2, 0).date().isoformat(), "uses": 8, "avg_time": 40.0, "success_rate": 1.0},
            {"date": utc_hour(1, 0).date().isoformat(), "uses": 2, "avg_time": 60.0, "success_rate": 0.5},
        ],
        "peak_usage_hours": [14, 9, 15],
        "basis": {
            "total_uses": "measured",
            "uses_per_day": "measured",
            "average_generation_time": "measured",
            "success_rate": "measured",
            "peak_usage_hours": "measured",
        },
        "samples": 10,
    }
    unused = body["model_analytics"]["I2V-A14B"]
    assert (unused["total_uses"], unused["average_generation_time"], unused["success_rate"]) == (0, None, None)
    assert (unused["last_30_days_usage"], unused["peak_usage_hours"]) == ([], [])
    assert unused["basis"]["success_rate"] == "none"
    assert get(client, "?time_period_days=60")["model_analytics"]["I2V-A14B"]["total_uses"] == 1
    short = get(client, "?time_period_days=2")
    assert short["time_period"]["days"] == 2
    assert short["model_analytics"]["T2V-A14B"]["total_uses"] == 2
    assert short["system_analytics"]["average_uses_per_day"] == 1.0
    assert len(short["model_analytics"]["T2V-A14B"]["last_30_days_usage"]) == 2, "independent of the period"


def test_without_usage_there_is_no_most_used_model(client: TestClient) -> None:
    system = get(client)["system_analytics"]
    assert system == {"total_uses": 0, "average_uses_per_day": 0.0, "most_used_model": None, "active_models": 0}


def test_usage_counts_as_soon_as_a_job_has_ended(client: TestClient, database: Database) -> None:
    by_day.roll_up(database, clock.now())
    used(database)
    assert get(client, "?time_period_days=1")["system_analytics"]["total_uses"] == 1
    used(database)
    assert get(client, "?time_period_days=1")["system_analytics"]["total_uses"] == 2


def test_a_model_that_left_the_catalogue_is_included(client: TestClient, database: Database) -> None:
    used(database, "old-one")
    assert get(client)["model_analytics"]["old-one"]["total_uses"] == 1


@pytest.mark.parametrize("days", ["0", "-1", "1e9", "x", "3651", "", "1.5", "NaN", "30&time_period_days=31"])
def test_an_invalid_period_is_reported(client: TestClient, days: str) -> None:
    answer = client.get(f"{URL}?time_period_days={days}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["query", "time_period_days"]
    assert client.get(f"{URL}?days=1").json()["errors"][0]["loc"] == ["query", "days"]


@pytest.mark.slow  # a hundred thousand uses
def test_the_query_time_does_not_grow_with_usage(client: TestClient, database: Database, settings: Settings) -> None:
    def median() -> float:
        took = []
        for _ in range(40):
            began = time.perf_counter()
            get(client)
            took.append(time.perf_counter() - began)
        return statistics.median(took)

    path = str(settings.home / "wanworks.db")
    store_uses(path, 1000, DEMO.model_ids)
    by_day.roll_up(database, clock.now())
    few = median()
    with database.write() as session:
        for table in ("uses", "use_days"):
            session.connection().exec_driver_sql(f"delete from {table}")
    store_uses(path, 100_000, DEMO.model_ids)
    by_day.roll_up(database, clock.now())
    assert get(client)["system_analytics"]["total_uses"] > 96_000
    assert median() < 3 * few + 0.005, "the bench holds the real bound; a scan would take 100 times as long"
