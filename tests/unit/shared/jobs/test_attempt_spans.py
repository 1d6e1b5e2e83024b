"""The spans of an attempt: failures are marked, waits use one clock, and fenced attempts report nothing."""

import time
from collections.abc import Iterator

import pytest

from shared import clock
from shared.database.tables import Job
from shared.errors import StoreFull
from shared.jobs.attempt_spans import attempt_span, report_lost, report_returned
from shared.settings import Settings
from shared.states import JobState, Phase
from shared.telemetry import tracing
from tests.support.servers.collector import Collector

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECONDS = 1_000_000_000


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        tracing.set_up(Settings(node="here", otlp_endpoint=collector.url), "worker")
        yield collector
        tracing.close()


def claimed(**values: object) -> Job:
    """By a database whose clock is a day off."""
    now = time.time() + 86_400
    row = {
        "queued_at": now - 30,
        "dispatched_at": now - 2,
        "claimed_at": now,
        "attempt": 1,
        "node": "here",
        "device": "cpu-0",
    }
    job = Job(
        id="a-job", type="generation", status=JobState.RUNNING, priority=2, params={}, labels={}, created_at=clock.now()
    )
    for name, value in {**row, "model_id": "TI2V-5B", "traceparent": PARENT, **values}.items():
        setattr(job, name, value)
    return job


def test_the_wait_ends_where_the_attempt_begins_whatever_the_databases_clock_says(collector: Collector) -> None:
    job = claimed()
    with attempt_span(job) as span:
        span.enter(Phase.LOADING)
        job.status = JobState.SUCCEEDED
        job.result = {"warm": True, "profile": "full"}
        span.ended(job)
    (wait,) = collector.named("queue")
    (run,) = collector.named("attempt", job_id="a-job", warm=True, profile="full", outcome="succeeded")
    assert 29.9 < (wait.ended - wait.began) / SECONDS < 30.1
    assert 0 <= run.began - wait.ended < SECONDS
    ((assignment, at, _),) = wait.events
    assert assignment == "dispatched"
    assert 1.9 < (wait.ended - at) / SECONDS < 2.1
    assert {wait.parent, run.parent} == {PARENT.split("-")[2]}


def test_a_second_attempt_waited_since_it_might_be_claimed_again(collector: Collector) -> None:
    job = claimed(attempt=2)
    job.not_before = (job.claimed_at or 0.0) - 4
    with attempt_span(job):
        pass
    (wait,) = collector.named("queue", attempt=2)
    assert 3.9 < (wait.ended - wait.began) / SECONDS < 4.1


def test_the_phase_that_failed_says_so_with_the_attempt(collector: Collector) -> None:
    job = claimed()
    with attempt_span(job) as span:
        span.enter(Phase.ENCODING)
        span.enter(Phase.DENOISING, 0)
        span.enter(Phase.DENOISING, 1)
        job.status, job.error = JobState.FAILED, {"code": "out_of_memory", "message": "Too big", "retryable": False}
        span.ended(job)
    (run,) = collector.named("attempt", outcome="failed")
    (encoding,) = collector.named("encoding")
    (denoising,) = collector.named("denoising")
    assert (run.error, denoising.error, encoding.error) == ("out_of_memory", "out_of_memory", None)
    assert [name for name, _, _ in denoising.events] == ["step", "step", "exception"]
    assert denoising.parent == encoding.parent == run.id


def test_a_part_lies_in_its_phase_and_says_what_stopped_it(collector: Collector) -> None:
    with attempt_span(claimed()) as span:
        span.enter(Phase.MUXING)
        with pytest.raises(StoreFull), span.part("storing"):
            raise StoreFull()
    (muxing,) = collector.named("muxing")
    (storing,) = collector.named("storing")
    assert (storing.parent, storing.error, muxing.error) == (muxing.id, "disk_full", None)


def test_an_attempt_that_was_fenced_off_is_left_to_who_took_over(collector: Collector) -> None:
    job = claimed()
    with attempt_span(job) as span:
        span.enter(Phase.DENOISING)
    (denoising,) = collector.named("denoising")
    job.status = JobState.QUEUED
    report_lost(job, 1, "worker_lost", "Its lease ran out")
    (run,) = collector.named("attempt", outcome="queued")
    assert (run.id, run.error) == (denoising.parent, "worker_lost")
    assert run.began <= run.ended


def test_an_attempt_that_was_given_back_is_no_error(collector: Collector) -> None:
    job = claimed(status=JobState.QUEUED, traceparent=None)
    report_returned(job, 1)
    (run,) = collector.named("attempt", outcome="queued")
    assert (run.error, run.parent) == (None, "")
