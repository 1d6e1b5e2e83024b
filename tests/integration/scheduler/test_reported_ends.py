"""What running jobs report of their own ends decides which device is free first."""

from dataclasses import replace

import pytest

from shared.database.engine import Database
from shared.forecast import reported
from shared.forecast.durations import MeasuredDurations
from shared.jobs import dispatch, records
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings
from shared.states import Priority
from tests.integration.scheduler.queued_jobs import Sent, claimant
from tests.support.jobs import accepted, claimed
from tests.support.stack import wait_for


@pytest.fixture
def progress(settings: Settings) -> Progress:
    return Progress(RestingRedis(settings.redis))


def report(progress: Progress, job_id: str, seconds: float | None, attempt: int = 1) -> None:
    progress.report(job_id, {"kind": "progress", "attempt": attempt, "eta_seconds": seconds})


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_jobs_go_to_the_device_whose_job_reports_the_first_end_and_change_places_when_that_changes(
    sent: Sent, database: Database, progress: Progress
) -> None:
    def make_pass() -> None:
        sent.dispatcher._reported_ends.read(dispatch.read_queue(database))
        sent.dispatcher.run_pass()

    on = [claimed(database, accepted(database).id, claimant(index)) for index in range(2)]
    report(progress, on[0].id, 40.0)
    report(progress, on[1].id, 20.0)
    urgent = accepted(database, priority=Priority.HIGH)
    make_pass()
    other = accepted(database, priority=Priority.NORMAL)
    make_pass()
    assert sent.jobs == [(urgent.id, "n/1"), (other.id, "n/0")]
    report(progress, on[0].id, 20.0)
    report(progress, on[1].id, 200.0)
    make_pass()
    assert sent.jobs[2:] == [(urgent.id, "n/0"), (other.id, "n/1")]
    assert records.get(database, urgent.id).dispatched_to == "n/0"
    make_pass()
    assert len(sent.jobs) == 4


def test_passes_read_the_reports_beside_their_work_and_forget_those_of_earlier_attempts(
    database: Database, progress: Progress
) -> None:
    job = claimed(database, accepted(database).id)
    report(progress, job.id, 100.0)
    ends = reported.ReportedEnds(progress, MeasuredDurations(database))
    queue = dispatch.read_queue(database)
    assert ends.of(queue) == {}, "no pass waits for them"
    found = wait_for(lambda: ends.of(queue), 10, "for the reports")
    assert 90 < found[job.id] - queue.now <= 100
    again = replace(queue, busy=tuple(one._replace(attempt=2) for one in queue.busy))
    assert ends.of(again) == {}


def test_only_reports_of_the_attempt_that_runs_count(database: Database, progress: Progress) -> None:
    job = claimed(database, accepted(database).id)
    for attempt, seconds, expected in ((2, 20.0, {}), (1, None, {}), (1, 20.0, {job.id: 20.0})):
        report(progress, job.id, seconds, attempt)
        found = reported.seconds_left(dispatch.read_queue(database).busy, progress)
        assert found.keys() == expected.keys()
        assert all(0 < found[job_id] <= left for job_id, left in expected.items())
    assert reported.seconds_left(dispatch.read_queue(database).busy, Progress(RestingRedis(None))) == {}
