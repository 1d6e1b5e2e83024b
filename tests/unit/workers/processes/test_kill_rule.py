"""Which children a worker's main process may kill: a table of rows with the rule's results."""

from dataclasses import replace

import pytest

from shared.jobs.reading.running_attempts import Held
from shared.states import JobState
from workers.processes.kill_rule import Answering, Judgement, Limits, judge

LIMITS = Limits(cancel_grace=30.0, finishing=120.0)
NEW = Answering("gpu-0@n", 42)
RUNNING = Held(JobState.RUNNING, 3, 1, "gpu-0@n", 42, lapsed=False, cancel_seconds=None)
HOLDING = replace(NEW, attempt=3, failures=1)


def passes(row: Held | None, *, known: Answering = HOLDING, every: float = 2.0, count: int = 3) -> Judgement:
    """Judge the same row several times, two seconds apart. Return the last judgement."""
    judgement = Judgement(known, None)
    for number in range(count):
        judgement = judge(judgement.answering, row, number * every, LIMITS)
        if judgement.kill is not None:
            return judgement
    return judgement


def test_a_running_attempt_is_left_alone_and_remembered() -> None:
    assert passes(RUNNING, known=NEW, count=1000) == Judgement(HOLDING, None)


def test_an_attempt_without_its_lease_is_killed_at_once() -> None:
    assert passes(replace(RUNNING, lapsed=True), known=NEW, count=1).kill == "its lease has expired"


@pytest.mark.parametrize(("asked", "killed"), [(0.0, False), (29.9, False), (30.1, True)])
def test_a_cancel_has_its_grace(asked: float, killed: bool) -> None:
    assert (passes(replace(RUNNING, cancel_seconds=asked)).kill is not None) == killed


@pytest.mark.parametrize(
    "row",
    [
        replace(RUNNING, status=JobState.QUEUED, failures=2, worker=None, pid=None),
        replace(RUNNING, status=JobState.RUNNING, attempt=4, worker="gpu-1@n", pid=7),
        replace(RUNNING, status=JobState.RUNNING, attempt=4, pid=43),
        replace(RUNNING, status=JobState.SUCCEEDED, attempt=4, worker="gpu-1@n", pid=7),
        replace(RUNNING, status=JobState.FAILED, failures=2),
        replace(RUNNING, status=JobState.CANCELLED, failures=2),
    ],
    ids=["put back", "elsewhere", "another child", "won by another", "given up", "cancelled by the dispatcher"],
)
def test_an_attempt_whose_job_was_taken_from_it_is_killed_at_the_second_pass(row: Held) -> None:
    assert passes(row, count=1).kill is None
    assert passes(row, count=2).kill == "its job was taken from it"


@pytest.mark.parametrize(
    "row",
    [
        replace(RUNNING, status=JobState.SUCCEEDED),
        replace(RUNNING, status=JobState.FAILED),
        replace(RUNNING, status=JobState.CANCELLED),
        replace(RUNNING, status=JobState.QUEUED, worker=None, pid=None),
        replace(RUNNING, status=JobState.PAUSED, worker=None, pid=None),
        None,
    ],
    ids=["succeeded", "failed", "cancelled", "given back", "paused", "purged"],
)
def test_what_follows_an_end_that_it_wrote_itself_has_a_limit_of_its_own(row: Held | None) -> None:
    assert passes(row, count=60).kill is None, "two minutes"
    late = passes(row, count=70).kill
    assert late is not None
    assert "after its job's end" in late


def test_a_request_that_has_not_claimed_yet_is_not_taken_for_a_stray() -> None:
    waiting = Held(JobState.QUEUED, 0, 0, None, None, lapsed=False, cancel_seconds=None)
    assert passes(waiting, known=NEW, count=50).kill is None
    ended_elsewhere = Held(JobState.CANCELLED, 0, 0, None, None, lapsed=False, cancel_seconds=None)
    assert passes(ended_elsewhere, known=NEW, count=10).kill is None


def test_the_limit_restarts_for_a_job_that_runs_again_in_the_same_child() -> None:
    finishing = passes(replace(RUNNING, status=JobState.QUEUED, worker=None, pid=None), count=50).answering
    again = judge(finishing, replace(RUNNING, attempt=4), 100.0, LIMITS).answering
    assert (again.attempt, again.idle_since) == (4, None)


FINISHING = replace(RUNNING, finishing=True)


def test_a_child_that_has_handed_its_attempt_over_is_not_judged_by_it() -> None:
    left = passes(FINISHING)
    assert (left.kill, left.answering.attempt) == (None, None)
    assert passes(replace(FINISHING, lapsed=True, cancel_seconds=99.0)).kill is None
    lost = replace(RUNNING, status=JobState.QUEUED, failures=2, worker=None, pid=None)
    assert passes(lost, known=left.answering).kill is None


def test_the_process_that_finishes_an_attempt_is_judged_like_a_child() -> None:
    first = Answering("gpu-0@n", None, attempt=3, failures=1)
    assert passes(FINISHING, known=first, count=100).kill is None
    assert passes(replace(FINISHING, lapsed=True), known=first).kill == "its lease has expired"
    assert passes(replace(FINISHING, cancel_seconds=31.0), known=first).kill is not None
    taken = replace(FINISHING, attempt=4, worker="gpu-1@n", finishing=False)
    assert passes(taken, known=first).kill == "its job was taken from it"
    ended = replace(RUNNING, status=JobState.SUCCEEDED)
    assert passes(ended, known=first).kill is None
    assert passes(ended, known=first, count=100).kill is not None, "the folder is still there"


def test_a_request_waits_for_the_job_that_its_process_has_begun_before() -> None:
    waiting = replace(RUNNING, status=JobState.QUEUED, attempt=0, worker=None, pid=None)
    judgement = Judgement(NEW, None)
    for number in range(1000):
        judgement = judge(judgement.answering, waiting, number * 2.0, LIMITS, waits_for_another=True)
        assert judgement.kill is None
    assert judge(judgement.answering, waiting, 2100.0, LIMITS).kill is None, "its own time has only begun"
    assert judge(judgement.answering, waiting, 2200.0, LIMITS).kill is not None
