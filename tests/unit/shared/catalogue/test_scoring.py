"""The worked examples of docs/scores.md."""

import pytest

from shared.catalogue import scoring


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
        (9, 10, [0.8, 1.0, 1.0], 0.72),
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


@pytest.mark.parametrize(
    ("sharpness", "frozen_share", "flicker", "score"),
    [
        (0.05, 0.0, 0.0, 1.0),
        (0.008, 0.0, 0.0, 0.5316),
        (0.008, 0.25, 0.055, 0.1993),
        (0.05, 1.0, 0.0, 0.0),
        (0.001, 0.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.0),
        (2.0, 0.0, 0.01, 1.0),
        (2.0, 0.0, 0.1, 0.0),
        (0.05, None, None, 1.0),
    ],
)
def test_quality(sharpness: float, frozen_share: float | None, flicker: float | None, score: float) -> None:
    assert scoring.quality_score(sharpness, frozen_share, flicker) == score


@pytest.mark.parametrize(
    ("serving", "held", "looked", "score"),
    [(0, 0, False, None), (0, 0, True, 0.0), (1, 1, True, 1.0), (1, 2, True, 0.5), (0, 1, True, 0.0)],
)
def test_availability(serving: int, held: int, looked: bool, score: float | None) -> None:
    assert scoring.availability_score(serving, held, looked) == score


def test_health_is_the_product_of_what_is_known() -> None:
    assert scoring.health_score(0.5, 0.8, 0.75) == 0.3
    assert scoring.health_score(1.0, None, 0.75) == 0.75
    assert scoring.health_score(1.0, None, None) == 1.0
    assert scoring.health_score(None, 1.0, 1.0) is None


@pytest.mark.parametrize(
    ("successes", "uses", "rates", "score"),
    [
        (0, 0, [], None),
        (0, 3, [], 0.0),
        (3, 3, [], None),
        (3, 3, [2.0, 2.0, 2.0], 1.0),
        (3, 4, [0.8, 1.0, 1.6], 0.4688),
        (20, 20, [1.0] * 19 + [100.0], 1.0),  # the 19th of 20 is the p95: one straggler is none
    ],
)
def test_stability(successes: int, uses: int, rates: list[float], score: float | None) -> None:
    assert scoring.stability_score(successes, uses, rates) == score


def test_memory_efficiency_is_the_share_that_stays_free() -> None:
    assert scoring.memory_efficiency_score(60_000, 80_000) == 0.25
    assert scoring.memory_efficiency_score(None, 80_000) is None
    assert scoring.memory_efficiency_score(60_000, None) is None


def test_videos_an_hour_of_one_device() -> None:
    assert scoring.videos_per_hour(3, 40.0) == 270.0, "3 videos in 40 s of a device, 10 s of them for a failed one"
    assert scoring.videos_per_hour(0, 40.0) is None
    assert scoring.videos_per_hour(0, 0.0) is None


def test_means_and_differences_of_what_is_known() -> None:
    assert scoring.mean_score([None, 0.5, 1.0]) == 0.75
    assert scoring.mean_score([None]) is None
    assert scoring.work_per_second([0.5, 0.25, 0.125]) == 4.0
    assert scoring.work_per_second([]) is None
    assert scoring.difference_percent(15.0, 10.0) == 50.0
    assert scoring.difference_percent(5.0, 10.0) == -50.0
    assert [scoring.difference_percent(None, 1.0), scoring.difference_percent(1.0, None)] == [None, None]
    assert scoring.difference_percent(1.0, 0.0) is None
