"""The restart policy: the pure part of the supervisor."""

import pytest

from wanworks.supervise.supervisor import Policy, Verdict, judge

POLICY = Policy()


def test_waits_double_with_every_death_in_the_window():
    waits = [judge([99.0] * count, now=100.0, looping=False, policy=POLICY).wait for count in range(1, 5)]

    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6])


def test_fifth_death_within_a_minute_is_a_crash_loop_with_one_try_a_minute():
    deaths = [41.0, 50.0, 60.0, 70.0, 100.0]

    assert judge(deaths, now=100.0, looping=False, policy=POLICY) == Verdict(wait=60.0, crash_loop=True)


def test_deaths_that_are_older_than_the_window_are_forgiven():
    deaths = [10.0, 20.0, 30.0, 39.0, 100.0]

    assert judge(deaths, now=100.0, looping=False, policy=POLICY) == Verdict(wait=0.2, crash_loop=False)


def test_a_crash_loop_stays_one_while_no_try_lives_long_enough():
    assert judge([100.0], now=100.0, looping=True, policy=POLICY).crash_loop


def test_waits_have_a_ceiling():
    patient = Policy(deaths=100)

    assert judge([100.0] * 50, now=100.0, looping=False, policy=patient).wait == patient.longest_wait


def test_stopping_fits_in_ten_seconds():
    assert sum(POLICY.stop_limits) < 10
