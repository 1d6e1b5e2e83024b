"""Expected starts and ends: simple cases exactly, a mixed trace within bounds. Pure code, no clock."""

from collections.abc import Sequence
from typing import Any

import pytest

from shared.forecast.simulation import Expected, Place, Situation, Took, simulate
from shared.forecast.slots import Estimates
from shared.jobs.dispatch import Waiting
from tests.support import estimated_trace
from tests.support.simulation import device, job

RUN, LOAD = 10.0, 5.0


def took(one: Waiting) -> Took:
    return Took(RUN * one.work, LOAD, known=one.model_id != "new", load_known=one.model_id != "never loaded")


def play(
    ready: Sequence[Waiting], devices: int = 1, free_at: Sequence[float] = (), loaded: str = "a:none", **values: Any
) -> dict[str, Expected]:
    warm = frozenset({loaded})
    places = [
        Place(device(index, ("a", "b", "new", "never loaded")), free_at[index] if free_at else 0.0, warm)
        for index in range(devices)
    ]
    estimates = Estimates(lambda _: LOAD, lambda _, work, __: RUN * work)
    given: dict[str, Any] = {"later": (), "busy": (), **values}
    return simulate(Situation(0.0, places, ready, took=took, estimates=estimates, **given))


def starts(found: dict[str, Expected]) -> dict[str, float | None]:
    return {job_id: one.start for job_id, one in found.items()}


def test_jobs_follow_each_other_on_the_device_that_is_free_first() -> None:
    jobs = [job(name, "a", place * 0.1) for place, name in enumerate("xyz")]
    found = play(jobs, 2, free_at=(4.0, 7.0))
    assert starts(found) == {"x": 4.0, "y": 7.0, "z": 14.0}
    assert found["z"].end == 24.0


def test_loading_takes_time_and_loaded_models_go_first() -> None:
    found = play([job("x", "b", 0.0), job("y", "a", 0.1)])
    assert starts(found) in ({"x": 0.0, "y": 15.0}, {"y": 0.0, "x": 10.0})
    assert found["x"].end == (found["x"].start or 0.0) + RUN + LOAD


def test_the_more_urgent_job_goes_first() -> None:
    assert starts(play([job("x", "a", 0.0), job("y", "a", 1.0, priority=0)])) == {"y": 0.0, "x": 10.0}


def test_waiting_raises_the_rank() -> None:
    old, new = job("old", "a", -3000.0, priority=3), job("new", "a", -1.0, priority=1)
    assert starts(play([new, old])) == {"old": 0.0, "new": 10.0}


def test_later_jobs_start_at_their_time() -> None:
    found = play([job("x", "a", 0.0)], later=[(100.0, job("y", "a", 0.0)), (3.0, job("z", "a", 0.0))])
    assert starts(found) == {"x": 0.0, "z": 10.0, "y": 100.0}


def test_what_was_never_measured_makes_its_end_and_what_follows_unknown() -> None:
    found = play([job("x", "new", 0.0), job("y", "a", 1.0, priority=3)])
    assert found["x"] == Expected(0.0, None, "generation")
    assert found["y"] == Expected(None, None, "generation")


def test_a_time_of_loading_is_needed_only_where_the_model_is_not_loaded() -> None:
    jobs = [job("x", "never loaded", 0.0), job("y", "a", 1.0, priority=3)]
    found = play(jobs, loaded="never loaded:none")
    assert found["x"] == Expected(0.0, RUN)
    assert found["y"] == Expected(RUN, 2 * RUN + LOAD)
    found = play(jobs)
    assert found["x"] == Expected(0.0, None, "loading")
    assert found["y"] == Expected(None, None, "loading")


def test_a_gang_takes_all_its_devices_at_once() -> None:
    found = play([job("x", "a", 0.0, devices=2), job("y", "a", 1.0)], 2, free_at=(3.0, 6.0))
    assert found["x"] == Expected(6.0, 16.0)
    assert found["y"].start == 16.0
    assert play([job("x", "a", 0.0, devices=3)], 2) == {}


def test_a_limited_owner_waits_for_its_own_jobs() -> None:
    jobs = [job(name, "a", place * 0.1, owner="k") for place, name in enumerate("xyz")]
    assert starts(play([*jobs, job("o", "a", 1.0)], 3, limits={"k": 1})) == {"x": 0.0, "o": 0.0, "y": 10.0, "z": 20.0}


def test_a_window_that_closes_meanwhile_holds_the_rest() -> None:
    jobs = [job(name, "a", place * 0.1, priority=3) for place, name in enumerate("xyz")]
    found = play(jobs, closed_until=lambda _, at: 86_400.0 if 15.0 <= at < 86_400.0 else None)
    assert starts(found) == {"x": 0.0, "y": 10.0, "z": 86_400.0}


def test_a_dispatched_job_starts_where_it_was_sent_unless_another_device_is_free_before() -> None:
    sent = job("x", "a", 1.0, dispatched_to="n/1", dispatched_at=1.0)
    older = job("y", "a", 0.0)
    assert starts(play([sent, older], 2, free_at=(50.0, 5.0))) == {"x": 5.0, "y": 15.0}
    assert starts(play([sent, older], 2, free_at=(5.0, 10.0))) == {"x": 10.0, "y": 5.0}
    assert starts(play([sent, older], 2, free_at=(5.0, 50.0))) == {"x": 15.0, "y": 5.0}, "it is moved"
    other = job("z", "a", 2.0)
    assert starts(play([sent, other], 2, free_at=(5.0, 50.0))) == {"x": 5.0, "z": 15.0}, "they are exchanged"


def test_a_more_urgent_job_takes_the_place_of_a_dispatched_one_if_it_gains_clearly() -> None:
    low = job("low", "a", 0.0, priority=3, dispatched_to="n/0", dispatched_at=1.0)
    high = job("high", "a", 1.0, priority=1)
    assert starts(play([low, high], 2, free_at=(5.0, 50.0))) == {"high": 5.0, "low": 15.0}
    assert starts(play([low, high], 2, free_at=(0.0, 50.0))) == {"low": 0.0, "high": 10.0}, "it is about to start"
    high = high._replace(dispatched_to="n/1", dispatched_at=1.0)
    assert starts(play([low, high], 2, free_at=(5.0, 50.0))) == {"high": 5.0, "low": 15.0}
    assert starts(play([low, high], 2, free_at=(5.0, 8.0))) == {"low": 5.0, "high": 8.0}, "not for 3 s"


@pytest.mark.parametrize("seed", range(2))
def test_estimates_of_a_mixed_trace_are_near_the_truth(seed: int) -> None:
    arriving = estimated_trace.trace(seed, count=150, load=0.7)
    found = estimated_trace.error(arriving)
    assert found.jobs > 100
    assert found.median_of_wait < 0.5, "urgent jobs that arrive later put off all jobs behind them"
    assert found.p90_seconds < 0.6 * found.p90_wait
    found = estimated_trace.error([one._replace(queued_at=0.0) for one in arriving])
    assert found.median_of_wait < 0.15, "nothing arrives later"
    assert found.p90_seconds < 0.6 * found.median_wait


def test_expected_durations_of_a_mixed_trace_are_near_the_truth() -> None:
    jobs = estimated_trace.trace(0, count=150)
    errors = estimated_trace.errors_of_durations(jobs)
    assert errors[len(errors) // 2] < 0.05
    assert errors[-1] < 0.15, "of single runs, which vary by 10 %"
    by_work = estimated_trace.errors_of_durations(jobs, estimated_trace.by_work)
    assert by_work[len(by_work) // 2] > 0.3


def test_what_is_done_beside_the_next_job_delays_its_own_end_alone() -> None:
    def leaving(one: Waiting) -> Took:
        return Took(RUN, LOAD, True, beside_seconds=3.0)

    found = simulate(
        Situation(
            0.0, [Place(device(0, ("a",)), 0.0, frozenset({"a:none"}))], [job("x", "a", 0.0), job("y", "a", 1.0)],
            (), (), leaving, Estimates(lambda _: LOAD, lambda *_: RUN),
        )
    )  # fmt: skip
    assert found == {"x": Expected(0.0, RUN + 3.0), "y": Expected(RUN, 2 * RUN + 3.0)}


def test_many_jobs_with_start_times_are_all_played() -> None:
    jobs = [job(str(place), "a", place * 0.001) for place in range(1000)]
    later = [(place * 7.0, job(f"l{place}", "b", 0.0)) for place in range(500)]
    assert len(play(jobs, 50, later=later)) == 1500
