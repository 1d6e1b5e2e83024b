"""The worked examples of docs/scores.md."""

import pytest

from shared import scoring


@pytest.mark.parametrize(
    ("verified", "expected", "score"), [(0, 0, None), (300, 300, 1.0), (225, 300, 0.75), (0, 300, 0.0), (400, 300, 1.0)]
)
def test_integrity(verified: int, expected: int, score: float | None) -> None:
    assert scoring.integrity_score(verified, expected) == score


@pytest.mark.parametrize(
    ("successes", "uses", "rates", "score"),
    [
        (0, 0, [], None),
        (0, 3, [], 0.0),
        (4, 4, [2.0, 2.0, 2.0, 2.0], 1.0),
        (9, 10, [2.0, 2.5, 2.5], 0.72),
        (1, 2, [3.0], 0.5),
        (2, 2, [], None),
    ],
)
def test_performance(successes: int, uses: int, rates: list[float], score: float | None) -> None:
    assert scoring.performance_score(successes, uses, rates) == score


@pytest.mark.parametrize(
    ("healthy", "degraded", "corrupted", "score"), [(0, 0, 0, None), (2, 0, 0, 1.0), (1, 1, 1, 0.5), (2, 1, 1, 0.625)]
)
def test_overall_health(healthy: int, degraded: int, corrupted: int, score: float | None) -> None:
    assert scoring.overall_health_score(healthy, degraded, corrupted) == score


def test_differences_and_rates() -> None:
    assert scoring.performance_difference(0.9, 0.8) == -0.1
    assert scoring.performance_difference(None, 0.8) is None
    assert scoring.performance_difference(0.8, None) is None
    assert scoring.success_rate(48, 50) == 0.96
    assert scoring.success_rate(0, 0) is None
