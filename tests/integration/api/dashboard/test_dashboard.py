"""The dashboard's data: every field against prepared state, the history, and consistency with other routes."""

import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import chain
from typing import Any

import pytest
from starlette.testclient import TestClient

from scheduler import ticks
from shared import clock
from shared.cluster import alerts
from shared.cluster.alerts import Cause, Changes
from shared.database.engine import Database
from shared.database.tables import Snapshot
from shared.insight import snapshots
from shared.management import library
from shared.management.library import UseFigures, stored_progress
from shared.management.summary import Overviews
from shared.settings import Settings
from tests.conftest import both_databases
from tests.integration.api.models.information import get as model_info
from tests.integration.api.models.information import measured, sampled
from tests.support.jobs import DEMO, accepted, claimed
from tests.support.models import library as furnish
from tests.support.uses import used

BASE = "/api/v1/dashboard"
FAULT = {"path": "x", "type": "truncated"}
COUNTS = {
    "total_models", "healthy_models", "active_models", "total_generations_24h", "alerts_count",
    "recommendations_count", "queued_jobs", "running_jobs", "succeeded_1h", "failed_1h",
}  # fmt: skip


def get(client: TestClient, path: str) -> Any:
    answer = client.get(f"{BASE}/{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def overviews(settings: Settings, database: Database) -> Overviews:
    """Return the overviews as the process of a tick has them."""
    figures = UseFigures(DEMO, database)
    return Overviews(settings, database, lambda: library.read(settings, DEMO, database, stored_progress, figures))


def prepare(database: Database) -> None:
    furnish.node(database, total_gb=1000, free_gb=400)
    furnish.replica(database)
    furnish.replica(database, "TI2V-5B", state="corrupted", faults=[FAULT])
    furnish.device(database, "T2V-A14B")
    furnish.device(database, index=1)
    measured(database)
    used(database, "TI2V-5B", days_ago=0.5, outcome="failed")
    used(database, "old-one", days_ago=0.5)
    sampled(database)
    sampled(database, "here/1", model_id=None, utilization_percent=20.0, memory_used_mb=4_000.0)
    cause = Cause("rule", "subject", "warning", "title", "message", "action", action_required=False)
    alerts.apply(database, Changes(opened=(cause,)), clock.now(), deliver=False)


@both_databases
def test_metrics_in_every_field(client: TestClient, database: Database) -> None:
    prepare(database)
    accepted(database)
    accepted(database, start_after=time.time() + 3600)
    body = get(client, "metrics")
    score = model_info(client, "performance/T2V-A14B")["performance_score"]
    assert body == {
        "timestamp": body["timestamp"],
        "total_models": 5,
        "healthy_models": 1,
        "active_models": 1,
        "total_generations_24h": 6,
        "average_quality_score": 0.8,
        "average_performance_score": round(score / 2, 4),
        "system_load_percent": 50.0,
        "memory_usage_percent": 15.0,
        "alerts_count": 1,
        "recommendations_count": body["recommendations_count"],
        "queued_jobs": 2,
        "running_jobs": 0,
        "oldest_queued_seconds": body["oldest_queued_seconds"],
        "succeeded_1h": 3,
        "failed_1h": 1,
        "average_generation_seconds": round(35 / 3, 3),
        "disk_used_percent": 60.0,
        "disk_free_gb": 400.0,
        "basis": dict.fromkeys(set(body) - {"timestamp", "basis", "samples"}, "measured"),
        "samples": 6,
    }
    assert 0 <= body["oldest_queued_seconds"] < 30
    shown = client.get("/api/v1/models/health").json()["recommendations"]
    assert body["recommendations_count"] == len(shown) > 1


def test_without_data_values_are_null_and_counts_are_zero(client: TestClient) -> None:
    body = get(client, "metrics")
    figures = {name: body[name] for name in body["basis"]}
    assert {name for name, value in figures.items() if value is None} == set(figures) - COUNTS
    assert {body["basis"][name] for name in set(figures) - COUNTS} == {"none"}
    assert {name: figures[name] for name in COUNTS} == {**dict.fromkeys(COUNTS, 0), "total_models": 5}
    assert get(client, "metrics/history") == []


def test_a_running_model_is_active_and_cpu_devices_share_their_memory(client: TestClient, database: Database) -> None:
    job = accepted(database)
    claimed(database, job.id)
    for index in range(2):
        furnish.device(database, index=index, kind="cpu")
        sampled(database, f"here/{index}", kind="cpu", memory_used_mb=4_000.0, memory_total_mb=16_000.0)
    body = get(client, "metrics")
    assert (body["active_models"], body["running_jobs"]) == (1, 1)
    assert body["memory_usage_percent"] == 50.0


@both_databases
def test_the_summary_of_each_model(client: TestClient, database: Database) -> None:
    prepare(database)
    first, second, third = get(client, "models")[:3]
    health, performance = (model_info(client, f"{part}/T2V-A14B") for part in ("health", "performance"))
    detailed = client.get("/api/v1/models/status/detailed").json()["models"]["T2V-A14B"]
    assert first == {
        "model_id": "T2V-A14B",
        "model_type": "T2V-A14B",
        "status": "healthy",
        "availability_status": "available",
        "health_score": round(5 / 6, 4),
        "performance_score": performance["performance_score"],
        "last_used": detailed["last_used"],
        "generations_24h": 4,
        "average_generation_time": 13.75,
        "memory_usage_mb": 20_000.0,
        "gpu_utilization_percent": 80.0,
        "issues_count": 0,
        "basis": dict.fromkeys(first["basis"], "measured"),
        "samples": 4,
    }
    assert first["last_used"] is not None
    assert (health["memory_usage_mb"], health["gpu_utilization_percent"]) == (20_000.0, 80.0)
    assert (second["model_id"], second["status"], second["last_used"]) == ("I2V-A14B", "unknown", None)
    assert (second["health_score"], second["generations_24h"]) == (None, 0)
    assert (third["model_id"], third["status"], third["issues_count"]) == ("TI2V-5B", "critical", 2)
    assert third["health_score"] == 0.0


# --- one story


def states(database: Database) -> Iterator[str]:
    """Build up state step by step, and yield the name of each step."""

    def missing() -> None:
        furnish.node(database)
        furnish.replica(database, state="missing", bytes=0, revision=None)

    def healthy() -> None:
        furnish.replica(database)
        furnish.device(database, "T2V-A14B")
        used(database)

    def corrupted() -> None:
        furnish.replica(database, "TI2V-5B", state="corrupted", faults=[FAULT])

    def degraded() -> None:
        furnish.node(database, "there")
        furnish.replica(database, "I2V-A14B")
        furnish.replica(database, "I2V-A14B", on="there", state="corrupted", faults=[FAULT])

    def failing() -> None:
        for _ in range(3):
            used(database, outcome="failed")

    def downloading() -> None:
        furnish.start(database, furnish.download(database, "TI2V-5B"))

    for step in (missing, healthy, corrupted, degraded, failing, downloading):
        step()
        yield step.__name__


@both_databases
def test_all_routes_agree(client: TestClient, database: Database) -> None:
    seen = set()
    for state in chain(["nothing"], states(database)):
        models = client.get("/api/v1/models/health").json()
        status = client.get("/api/v1/models/status/detailed").json()
        insight, overview, lines = model_info(client, "dashboard"), get(client, "overview"), get(client, "models")
        metrics = get(client, "metrics")
        for line in lines:
            model_id = line["model_id"]
            theirs, ours = models["model_health"][model_id], model_info(client, f"health/{model_id}")
            detailed = status["models"][model_id]
            same = {"corrupted": "critical"}.get(theirs["health_status"], theirs["health_status"])
            failing = theirs["success_rate"] is not None and theirs["success_rate"] < 0.5
            expected = "critical" if same == "degraded" and failing else same
            assert ours["health_status"] == line["status"] == expected, (state, model_id)
            seen.add(expected)
            assert ours["issues"] == theirs["issues"], (state, model_id)
            assert line["issues_count"] == len(theirs["issues"])
            assert ours["integrity_score"] == theirs["integrity_score"] == detailed["integrity_score"]
            assert ours["last_check"] == theirs["last_check"] == detailed["last_health_check"]
            assert ours["performance_score"] == line["performance_score"] == detailed["performance_score"]
            assert line["availability_status"] == detailed["availability_status"]
            assert line["average_generation_time"] == detailed["average_generation_time"]
            of_model = [one["message"] for one in models["recommendations"] if one["model_id"] == model_id]
            assert sorted(ours["recommendations"]) == sorted(of_model)
            for body in (insight, overview):
                assert body["models"][model_id]["health"] == ours, (state, model_id)
        system = models["system_health"]
        for body in (insight, overview):
            assert body["recommendations"] == models["recommendations"]
            assert body["system_overview"]["healthy_models"] == system["models_healthy"] == metrics["healthy_models"]
            assert body["system_overview"]["system_status"] == model_info(client, "status")["status"]
            assert body["system_overview"]["total_models"] == metrics["total_models"] == 5
        assert overview["system_health"]["overall_status"] == overview["system_overview"]["system_status"]
        score, percentage = system["overall_health_score"], overview["system_health"]["health_percentage"]
        assert percentage == (None if score is None else round(100 * score, 2))
        assert metrics["recommendations_count"] == len(models["recommendations"])
        assert metrics["disk_used_percent"] == system["storage_usage_percent"]
        available = [name for name, each in status["models"].items() if each["is_available"]]
        assert model_info(client, "status")["available_models"] == available
    assert seen == {"unknown", "missing", "healthy", "critical", "degraded"}


# --- over time


def test_a_tick_stores_what_the_route_returns(client: TestClient, database: Database, settings: Settings) -> None:
    prepare(database)
    old = _snapshot(clock.now() - timedelta(days=91))
    snapshots.record(database, old)
    assert ticks.take_snapshot(database, overviews(settings, database), clock.now()) == "taken; 1 removed"
    (kept,) = get(client, "metrics/history")
    now = get(client, "metrics")
    assert kept == {name: value for name, value in now.items() if name not in ("basis", "samples")} | {
        "timestamp": kept["timestamp"]
    }
    assert abs(clock.now().timestamp() - _seconds(kept["timestamp"])) < 60


def test_a_history_follows_new_snapshots(client: TestClient, database: Database) -> None:
    now = clock.now()
    for hours in (30, 2, 1):
        snapshots.record(database, _snapshot(now - timedelta(hours=hours), queued_jobs=hours))
    assert [one["queued_jobs"] for one in get(client, "metrics/history")] == [2, 1]
    assert [one["queued_jobs"] for one in get(client, "metrics/history?hours=31")] == [30, 2, 1]
    snapshots.record(database, _snapshot(now, queued_jobs=7))
    assert [one["queued_jobs"] for one in get(client, "metrics/history")] == [2, 1, 7]
    assert [one["timestamp"] for one in get(client, "metrics/history?hours=1")] == [clock.iso(now)]


@both_databases
def test_a_history_is_down_sampled(database: Database) -> None:
    until = clock.now().replace(microsecond=0)
    since = until - timedelta(hours=10)
    stored = [
        _snapshot(
            since + timedelta(minutes=place, seconds=30), queued_jobs=place, healthy_models=place % 3,
            system_load_percent=float(place) if place % 2 else None, disk_free_gb=None,
        )
        for place in range(600)
    ]  # fmt: skip
    for one in stored:
        snapshots.record(database, one)
    whole = snapshots.history(database, since, until, points=600)
    assert [one.model_dump() for one in whole] == [one.model_dump() for one in stored]
    parts = snapshots.history(database, since, until, points=60)
    assert len(parts) == 60
    first = parts[0]
    assert first.at == stored[9].at, "the newest time of the part"
    assert (first.queued_jobs, first.healthy_models) == (9, 0)
    assert first.system_load_percent == (1 + 3 + 5 + 7 + 9) / 5
    assert first.disk_free_gb is None
    assert len(snapshots.history(database, since, until, points=7)) == 7
    assert len(snapshots.history(database, since - timedelta(days=80), until)) <= 500
    assert snapshots.history(database, until, until + timedelta(hours=1)) == []


# --- what is refused


@pytest.mark.parametrize("hours", ["0", "-1", "2161", "1e9", "1000000000", "x", "", "1.5", "NaN", "1&hours=2"])
def test_invalid_hours_are_refused(client: TestClient, hours: str) -> None:
    answer = client.get(f"{BASE}/metrics/history?hours={hours}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["query", "hours"]


@pytest.mark.parametrize("path", ["overview", "metrics", "metrics/history", "models"])
def test_an_unknown_parameter_is_reported(client: TestClient, path: str) -> None:
    answer = client.get(f"{BASE}/{path}?verbose=1")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["query", "verbose"]


def _snapshot(at: Any, **more: Any) -> Snapshot:
    values = dict.fromkeys(COUNTS, 0)
    nulls = dict.fromkeys(
        ("average_quality_score", "average_performance_score", "memory_usage_percent", "oldest_queued_seconds",
         "average_generation_seconds", "disk_used_percent", "system_load_percent", "disk_free_gb")
    )  # fmt: skip
    return Snapshot(**{"at": at, **values, **nulls, **more})


def _seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()
