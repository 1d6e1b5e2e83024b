"""Insight on the running system: real tiny jobs, and figures that follow from them by arithmetic."""

import math
import statistics
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import Stack, wait_for


@pytest.fixture(scope="module")
def stack(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Of its own: the figures count every job."""
    stack = Stack(tmp_path_factory.mktemp("insight") / "home", demo_models)
    stack.start()
    yield stack
    stack.stop()


def ask(stack: Stack, path: str) -> Any:
    answer = stack.request("GET", f"/api/v1/{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.slow
def test_three_videos_and_a_failure(stack: Stack) -> None:
    before = ask(stack, "wan-models/performance/TI2V-5B")
    assert set(before["basis"].values()) == {"none"}
    assert ask(stack, "wan-models/health/TI2V-5B")["success_rate_24h"] is None
    (stack.home / "loras").mkdir(exist_ok=True)
    (stack.home / "loras" / "torn.safetensors").write_bytes(b"not a tensor")
    ids = [stack.submit(model_id="TI2V-5B", frames=17, steps=2 + place) for place in range(3)]
    ids.append(stack.submit(model_id="TI2V-5B", loras=[{"name": "torn"}]))
    made = stack.wait_all(ids)
    assert [job["status"] for job in made] == ["succeeded"] * 3 + ["failed"]
    good = made[:3]
    seconds = [moment(job["finished_at"]) - moment(job["started_at"]) for job in made]
    responses = [moment(job["finished_at"]) - moment(job["created_at"]) for job in good]

    health = ask(stack, "wan-models/health/TI2V-5B")
    assert (health["health_status"], health["success_rate_24h"], health["error_count_24h"]) == ("healthy", 0.75, 1)
    assert (health["samples"], health["availability_score"]) == (4, 1.0)
    assert abs(health["average_response_time_ms"] - 1000 * statistics.mean(responses)) < 5

    found = ask(stack, "wan-models/performance/TI2V-5B")
    assert found["samples"] == 3
    assert abs(found["generation_time_avg_seconds"] - statistics.mean(seconds[:3])) < 0.005
    assert abs(found["generation_time_p95_seconds"] - sorted(seconds[:3])[math.ceil(0.95 * 3) - 1]) < 0.005
    assert abs(found["throughput_videos_per_hour"] - 3600 * 3 / sum(seconds)) < 0.05 * 3600 * 3 / sum(seconds)
    assert found["benchmark_date"] == max(job["finished_at"] for job in good)
    assert found["hardware_profile"]
    assert found["optimization_level"] == good[0]["result"]["profile"]
    assert 0 <= found["quality_score"] <= 1
    timings = [(job["params"]["steps"], job["result"]["timings"]) for job in good]
    step = statistics.median(times["denoising"] / steps for steps, times in timings)
    rest = sum(statistics.median(times[phase] for _, times in timings) for phase in ("encoding", "decoding", "muxing"))
    whole = [sum(times.values()) - times.get("loading", 0.0) for _, times in timings]
    relative = [seconds / (step * steps + rest) for seconds, (steps, _) in zip(whole, timings, strict=True)]
    # A job whose device waits for its file is expected by the median of decoding and encoding it together.
    assert abs(found["performance_score"] - 0.75 * min(relative) / statistics.median(relative)) < 0.02
    assert abs(found["stability_score"] - 0.75 * statistics.median(relative) / max(relative)) < 0.02

    metrics = ask(stack, "dashboard/metrics")
    (line,) = [each for each in ask(stack, "dashboard/models") if each["model_id"] == "TI2V-5B"]
    assert line["generations_24h"] == 4
    assert metrics["total_generations_24h"] == sum(each["generations_24h"] for each in ask(stack, "dashboard/models"))
    assert abs(line["average_generation_time"] - found["generation_time_avg_seconds"]) < 0.001


@pytest.mark.slow
def test_the_devices_are_sampled_and_each_minute_is_kept(stack: Stack) -> None:
    def sampled() -> Any:
        body = ask(stack, "dashboard/metrics")
        return body if body["memory_usage_percent"] is not None else None

    body = wait_for(sampled, 60, "for a sample of a device")
    assert 0 < body["memory_usage_percent"] <= 100
    assert 0 <= body["system_load_percent"] <= 100
    history = wait_for(lambda: ask(stack, "dashboard/metrics/history?hours=1"), 90, "for a snapshot")
    assert set(history[0]) == set(body) - {"basis", "samples"}
    assert history[-1]["total_models"] == 5
