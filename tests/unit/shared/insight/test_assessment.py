"""What figures mean: statuses, and comparisons with texts from the figures."""

from dataclasses import replace

import pytest

from shared.catalogue import models
from shared.insight import assessment
from shared.insight.assessment import Performance, Status
from shared.insight.health import HealthStatus

T2V, I2V, TI2V = models.load("default").entries[:3]


@pytest.mark.parametrize(
    ("health", "rate", "status"),
    [
        (HealthStatus.HEALTHY, None, Status.HEALTHY),
        (HealthStatus.HEALTHY, 0.9, Status.HEALTHY),
        (HealthStatus.DEGRADED, 0.9, Status.DEGRADED),
        (HealthStatus.DEGRADED, 0.5, Status.DEGRADED),
        (HealthStatus.DEGRADED, 0.49, Status.CRITICAL),
        (HealthStatus.CORRUPTED, None, Status.CRITICAL),
        (HealthStatus.MISSING, 0.1, Status.MISSING),
        (HealthStatus.UNKNOWN, None, Status.UNKNOWN),
    ],
)
def test_a_models_status(health: HealthStatus, rate: float | None, status: Status) -> None:
    assert assessment.status(health, rate) == status


@pytest.mark.parametrize(
    ("statuses", "devices", "alerts", "whole"),
    [
        ([], 1, 0, "unknown"),
        (["unknown", "unknown"], 1, 0, "unknown"),
        (["missing", "unknown"], 1, 0, "missing"),
        (["healthy", "missing"], 1, 0, "healthy"),
        (["healthy"], 0, 0, "degraded"),
        (["healthy"], 1, 1, "degraded"),
        (["healthy", "critical"], 1, 0, "degraded"),
        (["degraded"], 1, 0, "degraded"),
        (["critical", "missing"], 1, 0, "critical"),
    ],
)
def test_the_status_of_the_whole(statuses: list[str], devices: int, alerts: int, whole: str) -> None:
    found = assessment.system_status(map(Status, statuses), devices=devices, critical_alerts=alerts)
    assert found == whole


def test_a_device_is_no_more_than_busy() -> None:
    assert [assessment.load_percent(each) for each in (None, 0.0, 40.04, 380.0)] == [None, 0.0, 40.0, 100.0]


A = Performance(
    "T2V-A14B", videos_per_hour=10.0, quality_score=0.9, memory_peak_mb=60_000.0, memory_total_mb=80_000.0,
    work_per_second=4.0, successes=9,
)  # fmt: skip
B = Performance(
    "TI2V-5B", videos_per_hour=25.0, quality_score=0.85, memory_peak_mb=30_000.0, memory_total_mb=80_000.0,
    work_per_second=6.0, successes=3,
)  # fmt: skip


def test_differences_are_of_b_relative_to_a() -> None:
    found = assessment.compare(A, B, T2V, TI2V)
    assert found.performance_difference_percent == 150.0
    assert found.speed_difference_percent == 50.0
    assert found.quality_difference_score == -0.05
    assert found.memory_usage_difference_mb == -30_000.0
    assert found.recommendation == "Choose TI2V-5B for speed, T2V-A14B for technical quality"
    assert found.trade_offs == (
        "For the same size, frames and steps T2V-A14B takes 1.5 times as long as TI2V-5B",
        "TI2V-5B's technical quality score is 0.05 below T2V-A14B's",
        "TI2V-5B takes 30.0 GB less memory at its peak than T2V-A14B",
        "TI2V-5B needs a device of at least 6 GB, T2V-A14B one of 10 GB",
        "T2V-A14B takes text only; TI2V-5B takes text, with or without an image",
        "T2V-A14B makes up to 81 frames (5.1 s), TI2V-5B 121 (5.0 s)",
    )
    assert found.use_cases == {
        "T2V-A14B": "Videos from text alone, up to 5.1 s at 16 fps, on devices from 10 GB (16 recommended)",
        "TI2V-5B": "Videos from text, or from an image and text, up to 5.0 s at 24 fps, on devices from 6 GB "
        "(10 recommended)",
    }
    back = assessment.compare(B, A, TI2V, T2V)
    assert (back.performance_difference_percent, back.speed_difference_percent) == (-60.0, -33.33)
    assert back.recommendation == found.recommendation


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        (None, "TI2V-5B is faster"),
        (0.91, "TI2V-5B is faster at the same technical quality"),
        (0.95, "TI2V-5B is faster, and its technical quality is higher"),
    ],
)
def test_the_recommendation_follows_the_figures(quality: float | None, said: str) -> None:
    assert assessment.compare(A, replace(B, quality_score=quality), T2V, TI2V).recommendation == said


def test_a_recommendation_by_few_jobs_says_how_many() -> None:
    found = assessment.compare(A, replace(B, successes=1), T2V, TI2V).recommendation
    assert found == (
        "Choose TI2V-5B for speed, T2V-A14B for technical quality; judged by few jobs so far (T2V-A14B: 9, TI2V-5B: 1)"
    )


def test_what_was_not_measured_is_no_difference() -> None:
    found = assessment.compare(Performance("T2V-A14B"), B, T2V, TI2V)
    assert found.performance_difference_percent is None
    assert found.speed_difference_percent is None
    assert found.quality_difference_score is None
    assert found.memory_usage_difference_mb is None
    assert found.recommendation.startswith("Their speeds are not measured yet; by the catalogue TI2V-5B is the smaller")
    alike = assessment.compare(Performance("T2V-A14B"), Performance("I2V-A14B"), T2V, I2V)
    assert alike.recommendation.endswith("T2V-A14B takes text only; I2V-A14B needs an image")
    assert alike.trade_offs == ("T2V-A14B takes text only; I2V-A14B needs an image",)
    same = assessment.compare(A, A, T2V, T2V)
    assert (same.speed_difference_percent, same.recommendation, same.trade_offs) == (0.0, "Both are the same model", ())
    close = assessment.compare(A, replace(A, model_id="I2V-A14B", work_per_second=4.1), T2V, I2V)
    assert close.recommendation.startswith("Both are about equally fast")
