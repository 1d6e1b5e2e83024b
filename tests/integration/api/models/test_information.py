"""The information routes: every field against prepared state."""

from datetime import timedelta

import pytest
from starlette.testclient import TestClient

from shared import clock
from shared.catalogue import models as catalogue
from shared.catalogue.models import DEFAULT
from shared.cluster import alerts
from shared.cluster.alerts import Cause, Changes
from shared.database.engine import Database
from tests.conftest import both_databases
from tests.integration.api.models.information import BASE, MODELS, get, measured, sampled
from tests.support.models import library
from tests.support.uses import used

# --- capabilities


def test_capabilities_come_from_the_catalogue(client: TestClient) -> None:
    for model_id, image in zip(MODELS, ("refused", "required", "optional"), strict=True):
        body = get(client, f"capabilities/{model_id}")
        assert (body["model_id"], body["model_type"], body["image"]) == (model_id, model_id, image)
        assert body["input_types"] == (["text"] if image == "refused" else ["text", "image"])
        assert body["img2img_support"] == (image != "refused")
        assert body["text2img_support"] == (image != "required")
        assert body["lora_support"] is True
        promised = ("controlnet_support", "inpainting_support", "batch_processing", "streaming_support")
        assert {name: body[name] for name in promised} == dict.fromkeys(promised, False)
        (entry,) = (entry for entry in DEFAULT if entry.model_id == model_id)
        assert {"854x480", "1024x576", "1280x720", "1920x1080"} <= set(body["supported_resolutions"])
        assert (body["min_frames"], body["max_frames"]) == (entry.min_frames, entry.max_frames)
        assert body["supported_fps"] == [8, 12, 16, 24]
        assert body["output_formats"] == ["mp4", "webm"]
        assert body["quantization_support"] == ["none", "fp16", "bf16", "int8", "fp8"]
        assert body["hardware_requirements"] == {
            "min_vram_gb": 1.0, "recommended_vram_gb": 1.0, "min_ram_gb": 1.6, "cuda_compute_capability": "7.0",
        }  # fmt: skip
        assert body["defaults"]["resolution"] == "256x256"
        assert (body["min_steps"], body["max_steps"], body["download_size_gb"]) == (2, 100, 0.004)
        assert set(body["basis"].values()) == {"catalogue"}
        assert body["samples"] == 0


def test_unchanged_capabilities_are_not_sent_again(client: TestClient) -> None:
    first = client.get(f"{BASE}/capabilities/TI2V-5B")
    again = client.get(f"{BASE}/capabilities/TI2V-5B", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(f"{BASE}/capabilities/T2V-A14B").headers["etag"] != first.headers["etag"]


# --- health


@both_databases
def test_health_in_every_field(client: TestClient, database: Database) -> None:
    library.node(database)
    library.node(database, "there")
    verified = clock.now()
    library.replica(
        database, verified_at=verified, verified_bytes=500, expected_bytes=500, checked_at=verified - timedelta(hours=1)
    )
    library.replica(database, on="there", state="corrupted", faults=[{"path": "x", "type": "truncated"}])
    for index in range(2):
        library.device(database, "T2V-A14B", index=index)
    library.device(database, index=2)
    library.device(database, index=3)
    measured(database)
    sampled(database, "here/0", ago=30, utilization_percent=1.0)
    sampled(database, "here/0")
    sampled(database, "here/1", utilization_percent=40.0, memory_used_mb=30_000.0, temperature_celsius=70.0)
    sampled(database, "here/2", utilization_percent=60.0, memory_used_mb=10_000.0, temperature_celsius=None)
    sampled(database, "here/3", model_id="TI2V-5B")
    sampled(database, "gone/0", temperature_celsius=99.0)
    body = get(client, "health/T2V-A14B")
    assert body == {
        "model_id": "T2V-A14B",
        "health_status": "degraded",
        "last_check": clock.iso(verified),
        "integrity_score": 1.0,
        "performance_score": body["performance_score"],
        "availability_score": 0.5,
        "health_score": round(0.5 * 1.0 * 5 / 6, 4),
        "error_count_24h": 1,
        "success_rate_24h": 0.75,
        "average_response_time_ms": round(1000 * (15 + 16 + 19) / 3, 1),
        "memory_usage_mb": 60_000.0,
        "gpu_utilization_percent": 60.0,
        "temperature_celsius": 70.0,
        "issues": ["x on node there: truncated"],
        "recommendations": ["Repair the broken files of T2V-A14B"],
        "devices": ["here/0", "here/1", "here/2"],
        "device_kinds": ["cuda"],
        "basis": dict.fromkeys(body["basis"], "measured"),
        "samples": 4,
    }
    assert set(body["basis"]) == {
        "integrity_score", "performance_score", "availability_score", "health_score", "error_count_24h",
        "success_rate_24h", "average_response_time_ms", "memory_usage_mb", "gpu_utilization_percent",
        "temperature_celsius",
    }  # fmt: skip
    fastest, median = 9.0, (10.0 + 13.0) / 2
    median = sorted([9.0, 10.0, 13.0, 19.0, 999.0])[2]
    assert body["performance_score"] == round(5 / 6 * fastest / median, 4)


@both_databases
def test_without_data_nothing_is_reported(client: TestClient, database: Database) -> None:
    body = get(client, "health/TI2V-5B")
    nulls = [name for name, basis in body["basis"].items() if basis == "none"]
    assert {name: body[name] for name in nulls} == dict.fromkeys(nulls)
    assert set(nulls) == set(body["basis"]) - {"error_count_24h"}
    assert (body["health_status"], body["last_check"], body["samples"]) == ("unknown", None, 0)
    assert (body["error_count_24h"], body["devices"], body["device_kinds"]) == (0, [], [])
    assert body["issues"] == ["No node has scanned for it yet"]
    body = get(client, "performance/TI2V-5B")
    assert set(body["basis"].values()) == {"none"}
    assert {name: body[name] for name in body["basis"]} == dict.fromkeys(body["basis"])
    assert (body["benchmark_date"], body["samples"], body["device_samples"]) == (None, 0, 0)
    body = get(client, "compare/T2V-A14B/TI2V-5B")
    assert set(body["basis"].values()) == {"none"}
    assert {name: body[name] for name in body["basis"]} == dict.fromkeys(body["basis"])
    assert body["samples"] == {"T2V-A14B": 0, "TI2V-5B": 0}
    body = get(client, "dashboard")
    assert body["system_overview"] == {
        "total_models": 5, "healthy_models": 0, "average_performance_score": None, "system_status": "unknown",
        "basis": {"average_performance_score": "none"}, "samples": 0,
    }  # fmt: skip


def test_every_status_of_a_model(client: TestClient, database: Database) -> None:
    def status() -> str:
        found: str = get(client, "health/T2V-A14B")["health_status"]
        return found

    assert status() == "unknown"
    library.node(database)
    library.replica(database, state="missing", bytes=0, revision=None)
    assert status() == "missing"
    assert get(client, "health/T2V-A14B")["availability_score"] == 0.0
    library.replica(database)
    assert status() == "healthy"
    library.replica(database, faults=[{"path": "x", "type": "truncated"}])
    assert status() == "degraded"
    library.replica(database, state="corrupted", faults=[{"path": "x", "type": "truncated"}])
    assert status() == "critical"
    library.replica(database, faults=[])
    used(database)
    for _ in range(2):
        used(database, outcome="failed")
    assert status() == "critical", "most of its latest generations failed"
    assert get(client, "health/T2V-A14B")["success_rate_24h"] == 0.3333


def test_a_cpu_device_is_reported_as_one(client: TestClient, database: Database) -> None:
    library.device(database, "T2V-A14B", kind="cpu")
    sampled(database, kind="cpu", utilization_percent=380.0, temperature_celsius=None, power_watts=None)
    body = get(client, "health/T2V-A14B")
    assert (body["gpu_utilization_percent"], body["device_kinds"]) == (100.0, ["cpu"])
    assert (body["temperature_celsius"], body["basis"]["temperature_celsius"]) == (None, "none")


def test_the_period_of_a_day_moves(client: TestClient, database: Database) -> None:
    used(database, days_ago=1 - 1 / 86_400 * 0.5)
    used(database, days_ago=0.5, outcome="failed")
    assert get(client, "health/T2V-A14B")["samples"] == 2
    deadline = clock.now() + timedelta(seconds=10)
    while get(client, "health/T2V-A14B")["samples"] == 2:
        assert clock.now() < deadline
    body = get(client, "health/T2V-A14B")
    assert (body["samples"], body["success_rate_24h"], body["average_response_time_ms"]) == (1, 0.0, None)


# --- the whole


def test_the_dashboard_in_every_field(client: TestClient, database: Database) -> None:
    library.node(database)
    library.device(database)
    library.replica(database)
    measured(database)
    cause = Cause(
        rule="disk_full", subject="here", severity="warning", title="The disk is nearly full", message="90 %",
        suggested_action="clean up", action_required=True,
    )  # fmt: skip
    alerts.apply(database, Changes(opened=(cause,)), clock.now(), deliver=False)
    body = get(client, "dashboard")
    assert list(body["models"]) == list(catalogue.load("demo").model_ids)
    for model_id in MODELS:
        assert body["models"][model_id] == {
            part: get(client, f"{part}/{model_id}") for part in ("capabilities", "health", "performance")
        }
    score = body["models"]["T2V-A14B"]["performance"]["performance_score"]
    assert body["system_overview"] == {
        "total_models": 5,
        "healthy_models": 1,
        "average_performance_score": score,
        "system_status": "healthy",
        "basis": {"average_performance_score": "measured"},
        "samples": 1,
    }
    (alert,) = body["alerts"]
    assert (alert["severity"], alert["title"], alert["acknowledged"]) == ("warning", "The disk is nearly full", False)
    assert [one["action"] for one in body["recommendations"]] == ["check_integrity"]
    status = get(client, "status")
    assert status == {
        "status": "healthy", "available_models": ["T2V-A14B"], "api_version": "0.1.0", "timestamp": status["timestamp"],
    }  # fmt: skip


# --- what is refused


@pytest.mark.parametrize(
    "path",
    ["capabilities/none-such", "health/none-such", "performance/..", "compare/none-such/TI2V-5B", "compare/T2V-A14B/x",
     "health/t2v-a14b", "performance/%00"],
)  # fmt: skip
def test_an_unknown_model_is_not_found(client: TestClient, path: str) -> None:
    answer = client.get(f"{BASE}/{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "path",
    ["capabilities/T2V-A14B", "health/T2V-A14B", "performance/T2V-A14B", "compare/T2V-A14B/TI2V-5B", "dashboard",
     "status", "recommend?use_case=x"],
)  # fmt: skip
def test_an_unknown_parameter_is_reported(client: TestClient, path: str) -> None:
    answer = client.get(f"{BASE}/{path}{'&' if '?' in path else '?'}verbose=1")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["query", "verbose"]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("", "use_case"),
        ("use_case=", "use_case"),
        ("use_case=%20", "use_case"),
        ("use_case=%00", "use_case"),
        ("use_case=" + "x" * 501, "use_case"),
        ("use_case=x&use_case=y", "use_case"),
        ("use_case=x&quality_priority=x", "quality_priority"),
        ("use_case=x&speed_priority=high", "speed_priority"),
        *(
            (f"use_case=x&memory_constraint_gb={value}", "memory_constraint_gb")
            for value in ("0", "0.0", "-1", "NaN", "inf", "x", "", "1e6", "1_0", "100001", "1e999")
        ),
    ],
)
def test_an_invalid_parameter_is_reported(client: TestClient, query: str, name: str) -> None:
    answer = client.get(f"{BASE}/recommend?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["query", name]
