"""The information routes on performance, comparison and recommendation: every field against prepared state."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from shared import clock
from shared.database.engine import Database
from shared.jobs import attempts
from shared.jobs.attempts import Failure
from shared.jobs.usage import by_day
from tests.conftest import both_databases
from tests.integration.api.models.information import get, measured, sampled
from tests.support.jobs import CLAIMANT, accepted, claimed
from tests.support.models import library
from tests.support.uses import used

# --- performance


@both_databases
@pytest.mark.parametrize("rolled_up", [False, True])
def test_performance_in_every_field(client: TestClient, database: Database, rolled_up: bool) -> None:
    measured(database)
    if rolled_up:
        by_day.roll_up(database, clock.now())
    for utilization, memory, power in ((90.0, 30_000.0, 400.0), (70.0, 60_000.0, 300.0)):
        sampled(database, utilization_percent=utilization, memory_used_mb=memory, power_watts=power)
    body = get(client, "performance/T2V-A14B")
    assert body == {
        "model_id": "T2V-A14B",
        "benchmark_date": body["benchmark_date"],
        "generation_time_avg_seconds": round((10 + 11 + 14 + 20) / 4, 3),
        "generation_time_p95_seconds": 20.0,
        "throughput_videos_per_hour": round(3600 * 4 / (10 + 11 + 14 + 20 + 5), 3),
        "memory_efficiency_score": 0.25,
        "gpu_utilization_avg_percent": 80.0,
        "power_consumption_watts": 350.0,
        "quality_score": round((0.9 + 0.8 + 0.7) / 3, 4),
        "stability_score": body["stability_score"],
        "performance_score": body["performance_score"],
        "memory_average_mb": 45_000.0,
        "memory_peak_mb": 60_000.0,
        "hardware_profile": "H200, L4",
        "optimization_level": "full, int8-stream",
        "basis": dict.fromkeys(body["basis"], "measured"),
        "samples": 4,
        "device_samples": 2,
    }
    newest = clock.now().timestamp() - 1800
    assert abs(_seconds(body["benchmark_date"]) - newest) < 60, "when the newest success ended, not the failure"
    times = sorted([9.0, 10.0, 13.0, 19.0, 999.0])  # the latest 20 uses reach back 40 days here
    assert body["stability_score"] == round(5 / 6 * times[2] / times[4], 4)


@both_databases
def test_run_three_and_fail_one(client: TestClient, database: Database) -> None:
    """Use the functions that workers call, and compare the result with the arithmetic."""
    library.node(database, CLAIMANT.node)
    rows = []
    for place in range(4):
        job = claimed(database, accepted(database).id)
        if place < 3:
            result: dict[str, Any] = {
                "timings": {"denoising": 1.0 + place},
                "quality": {"score": 0.5},
                "profile": "full",
            }
            result["device_name"] = "CPU"
            rows.append(attempts.succeed(database, job.id, job.attempt, result))
        else:
            attempts.fail(database, job.id, job.attempt, Failure("out_of_memory", "no room", retryable=False))
    seconds = [(row.finished_at - row.started_at).total_seconds() for row in rows if row.finished_at and row.started_at]
    waits = [(row.finished_at - row.created_at).total_seconds() for row in rows if row.finished_at]
    health = get(client, "health/T2V-A14B")
    assert (health["success_rate_24h"], health["error_count_24h"], health["samples"]) == (0.75, 1, 4)
    assert health["average_response_time_ms"] == pytest.approx(1000 * sum(waits) / 3, abs=0.2)
    found = get(client, "performance/T2V-A14B")
    assert found["generation_time_avg_seconds"] == pytest.approx(sum(seconds) / 3, abs=0.001)
    assert found["generation_time_p95_seconds"] == pytest.approx(max(seconds), abs=0.001)
    assert found["benchmark_date"] == clock.iso(rows[-1].finished_at)
    assert (found["hardware_profile"], found["optimization_level"]) == ("CPU", "full")
    assert found["quality_score"] == 0.5
    assert found["stability_score"] == round(0.75 * 2.0 / 3.0, 4)
    assert found["performance_score"] == round(0.75 * 1.0 / 2.0, 4)
    assert get(client, "health/T2V-A14B")["performance_score"] == found["performance_score"]


# --- comparison


def test_a_comparison_in_every_field(client: TestClient, database: Database) -> None:
    for seconds in (10.0, 12.0):
        used(database, seconds=seconds, quality=0.9)
    for seconds in (5.0, 6.0):
        used(database, "TI2V-5B", seconds=seconds, quality=0.8)
    used(database, "TI2V-5B", outcome="failed", seconds=1.0)
    sampled(database, memory_used_mb=60_000.0)
    sampled(database, "here/1", model_id="TI2V-5B", memory_used_mb=35_000.0)
    body = get(client, "compare/T2V-A14B/TI2V-5B")
    per_hour_a, per_hour_b = round(7200 / 22, 3), round(7200 / 12, 3)
    assert body == {
        "model_a": "T2V-A14B",
        "model_b": "TI2V-5B",
        "comparison_date": body["comparison_date"],
        "performance_difference_percent": round(100 * (per_hour_b - per_hour_a) / per_hour_a, 2),
        "quality_difference_score": -0.1,
        "memory_usage_difference_mb": -25_000.0,
        "speed_difference_percent": round(100 * (10.0 / 4.5 - 1), 2),
        "recommendation": "Choose TI2V-5B for speed, T2V-A14B for technical quality; "
        "judged by few jobs so far (T2V-A14B: 2, TI2V-5B: 2)",
        "use_cases": body["use_cases"],
        "trade_offs": body["trade_offs"],
        "basis": dict.fromkeys(body["basis"], "measured"),
        "samples": {"T2V-A14B": 2, "TI2V-5B": 2},
    }
    assert set(body["use_cases"]) == {"T2V-A14B", "TI2V-5B"}
    assert "TI2V-5B takes 25.0 GB less memory at its peak than T2V-A14B" in body["trade_offs"]
    assert get(client, "compare/T2V-A14B/T2V-A14B")["speed_difference_percent"] == 0.0


# --- recommendation


def test_a_recommendation_in_every_field(client: TestClient, database: Database) -> None:
    library.node(database)
    library.replica(database, "I2V-A14B")
    for seconds in (10.0, 12.0):
        used(database, "I2V-A14B", seconds=seconds, quality=0.9)
    body = get(client, "recommend", use_case="Animate product photos", memory_constraint_gb="12.5")
    assert body["recommended_model"] == "I2V-A14B"
    assert body["alternative_models"] == ["TI2V-5B", "T2V-A14B"]
    assert body["hardware_requirements"]["min_vram_gb"] == 1.0
    assert body["expected_performance"] == {
        "generation_time_seconds": 11.0,
        "quality_score": 0.9,
        "throughput_videos_per_hour": round(7200 / 22, 3),
        "memory_efficiency": None,
        "basis": {
            "generation_time_seconds": "measured", "quality_score": "measured",
            "throughput_videos_per_hour": "measured", "memory_efficiency": "none",
        },
        "samples": 2,
    }  # fmt: skip
    assert list(body["scores"]) == ["I2V-A14B", "TI2V-5B", "T2V-A14B"]
    first = body["scores"]["I2V-A14B"]
    assert first == {"score": first["score"], "input": 1.0, "quality": 1.0, "speed": 1.0, "readiness": 1.0}
    assert 0 < body["confidence_score"] < 1
    assert "It is ready" in body["reasoning"]
    assert "It needs an input image" in body["limitations"]
    assert body["basis"] == {"quality": "catalogue", "speed": "catalogue"}


def test_no_fitting_model_is_a_valid_answer(client: TestClient) -> None:
    body = get(client, "recommend", use_case="anything", memory_constraint_gb="0.5")
    assert (body["recommended_model"], body["confidence_score"], body["hardware_requirements"]) == (None, None, None)
    assert (body["alternative_models"], body["limitations"], body["scores"]) == ([], [], {})
    assert len(body["reasoning"]) == 3
    assert set(body["expected_performance"]["basis"].values()) == {"none"}


def _seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()
