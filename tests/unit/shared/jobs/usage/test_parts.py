"""What a generation is expected to take follows from its work and its volume. Pure code."""

import random
from dataclasses import replace
from itertools import product

import pytest

from shared.jobs.usage.parts import LIKE, Expectation, History, Parts

A, B, C = 0.05, 0.3, 2.0  # seconds for each unit of work and of volume, and of the rest


def ended(work: float, volume: float, **more: float) -> Parts:
    return replace(Parts(work, volume, C, A * work, B * volume, 0.0), **more)


def expected(parts: list[Parts], volume: float) -> Expectation:
    found = History(parts).expected(volume)
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(20))
def test_varied_sizes_and_steps_are_expected_within_a_tenth(seed: int) -> None:
    rng = random.Random(seed)
    sizes = [rng.uniform(0.5, 80.0) for _ in range(6)]
    jobs = [(volume * rng.choice((2, 4, 8, 20, 40)), volume) for volume in rng.choices(sizes, k=30)]
    parts = [ended(work, volume, encoding=C + 0.05 * volume) for work, volume in jobs]
    for volume, steps in product((0.5, *sizes, 90.0), (2, 40)):
        truth = A * volume * steps + (B + 0.05) * volume + C
        assert expected(parts, volume).seconds(volume * steps, volume) == pytest.approx(truth, rel=0.1)


def test_decoding_does_not_depend_on_the_steps() -> None:
    few_steps = expected([ended(40 * 10.0, 10.0)] * 5, 10.0).seconds(4 * 10.0, 10.0)
    assert few_steps == pytest.approx(A * 40 + B * 10 + C)


def test_generations_of_nearly_the_same_size_are_preferred() -> None:
    large = [ended(2000.0, 75.0, denoising=2 * A * 2000.0)] * 3  # attention
    small = [ended(4.0, 1.0)] * 100
    assert expected([*small, *large], 75.0).per_work == 2 * A
    assert expected([*small, *large], 40.0).samples == 3, "within a factor of two"
    assert expected([*small, *large], 1.2).samples == 20
    assert expected([*small, *large[1:]], 75.0).per_work == A, "two are not enough"
    exact, like = [ended(400.0, 10.0, denoising=1.0)] * 3, [ended(400.0, 14.0, denoising=9.0)] * 9
    assert expected([*like, *exact], 10.0).per_work == 1.0 / 400
    assert expected([*like, *exact], 12.0).per_work == 9.0 / 400
    comparing = History([*like, *exact], LIKE).expected(10.0)
    assert comparing is not None
    assert comparing.samples == 12


def test_the_latest_count_and_outliers_do_not() -> None:
    parts = [ended(40.0, 10.0, denoising=1.0)] * 20 + [ended(40.0, 10.0, denoising=9.0)] * 50
    assert expected(parts, 10.0).per_work == 1.0 / 40
    stray = [ended(40.0, 10.0)] * 5 + [ended(40.0, 10.0, denoising=99.0, decoding=99.0, encoding=99.0)] * 2
    assert expected(stray, 10.0).seconds(40.0, 10.0) == pytest.approx(A * 40 + B * 10 + C)


def test_a_prompt_that_was_kept_or_not_makes_no_slope() -> None:
    parts = [ended(40.0, 10.0, encoding=0.0 if place % 3 else 2.0) for place in range(9)]
    found = expected(parts, 10.0)
    assert (found.fixed, found.per_volume) == (0.0, B)


def test_finishing_counts_for_the_device_only_where_it_waits() -> None:
    waits = expected([ended(40.0, 10.0, finishing=5.0)] * 3, 10.0)
    assert waits.seconds(40.0, 10.0) == waits.device_seconds(40.0, 10.0) == A * 40 + B * 10 + C + 5
    beside = expected([replace(ended(40.0, 10.0, finishing=5.0), beside=True)] * 3, 10.0)
    assert beside.seconds(40.0, 10.0) == A * 40 + B * 10 + C + 5
    assert beside.device_seconds(40.0, 10.0) == A * 40 + B * 10 + C


def test_sums_of_several_are_linear() -> None:
    found = expected([ended(40.0, 10.0)] * 3, 10.0)
    assert found.device_seconds(3 * 40.0, 3 * 10.0, 3) == pytest.approx(3 * found.device_seconds(40.0, 10.0))


def test_a_tier_and_a_gang_change_what_they_change() -> None:
    one = ended(40.0, 10.0, finishing=5.0)
    fast = one.in_tier(0.5)
    assert (fast.encoding, fast.denoising, fast.decoding, fast.finishing) == (1.0, 1.0, 1.5, 5.0)
    gang = one.on_devices(2)
    assert (gang.encoding, gang.denoising, gang.decoding, gang.finishing) == (2.0, 1.0, 3.0, 5.0)


def test_without_a_volume_the_time_is_proportional_to_the_work() -> None:
    found = expected([ended(40.0, 10.0)] * 3, 0.0)
    assert found.seconds(80.0, 0.0) == found.device_seconds(80.0, 0.0) == 2 * (A * 40 + B * 10 + C)
    assert History().expected(1.0) is None
