"""No row, no unknown type, no lost data and no failed pass stops the dispatcher."""

import logging
import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col
from starlette.testclient import TestClient

from scheduler.dispatcher import Dispatcher
from shared import clock
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import DatabaseUnavailable
from shared.jobs import dispatch, records
from shared.messaging.progress import RestingRedis, connect
from shared.settings import Settings
from shared.states import JobState
from shared.telemetry import loop_reports
from tests.conftest import both_databases
from tests.integration.scheduler.queued_jobs import WATCHED_AT, Sent, claimant, many
from tests.support.jobs import accepted, claimed

pytestmark = both_databases


@pytest.mark.parametrize("which", ["runs without its lease", "waits for what is not there"])
def test_a_row_that_cannot_be_understood_stops_no_other(
    database: Database, sent: Sent, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    (odd,) = many(database, 1, max_failures=1)
    values: dict[str, Any] = {"params": {}}  # its use cannot be counted, so its end cannot be written
    if which.startswith("runs"):
        claimed(database, odd, claimant(0))
        values |= {"lease_until": 1.0}
    else:
        values |= {"min_ram_mb": 10**9, "memory_needs": "", "unplaceable_since": 1.0}
        nodes.note(database, WATCHED_AT, str(clock.now().timestamp()))
    with database.write() as session:
        session.connection().execute(update(Job).where(col(Job.id) == odd).values(**values))
    known = many(database, 2)
    for _ in range(3):
        sent.dispatcher.run_pass()
    assert {job_id for job_id, _ in sent.jobs} >= {known[0]}
    assert [record.message for record in caplog.records if record.exc_info] == [f"job {odd} is left out of this pass"]


def test_messages_are_sent_again_after_redis_lost_its_data_while_the_database_was_away(
    database: Database, sent: Sent, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job_id,) = many(database, 1)
    sent.dispatcher.leadership.check_epoch()
    sent.dispatcher.run_pass()
    assert sent.jobs == [(job_id, "n/0")]
    connect(str(settings.redis), timeout=5).flushall()
    with monkeypatch.context() as patched:
        for write in ("recall", "note"):
            patched.setattr(dispatch if write == "recall" else nodes, write, _away)
        with pytest.raises(DatabaseUnavailable):
            sent.dispatcher.leadership.check_epoch()
    assert dispatch.read_queue(database).waiting[0].dispatched_to == "n/0"
    sent.dispatcher.leadership.check_epoch()
    assert dispatch.read_queue(database).waiting[0].dispatched_to is None
    assert nodes.noted(database, "redis_lost_at") is not None
    dispatch.mark_dispatched(database, [(job_id, "n/0")])
    sent.dispatcher.leadership.check_epoch()
    assert dispatch.read_queue(database).waiting[0].dispatched_to == "n/0", "once"


def _away(*_: object) -> None:
    raise DatabaseUnavailable()


def of_unknown_type(database: Database, status: JobState) -> str:
    """A job as a newer version has accepted, or runs, it."""
    job = accepted(database)
    with database.write() as session:
        values: dict[str, Any] = {"type": "upscale", "params": {"factor": 2}, "status": status}
        if status == JobState.RUNNING:
            values |= {"device_key": "n/0", "node": "n", "worker": "gpu-0@n", "attempt": 1, "lease_until": 4e9}
            values |= {"claimed_at": clock.now().timestamp(), "started_at": clock.now()}
        session.connection().execute(update(Job).where(col(Job.id) == job.id).values(**values))
    return job.id


@pytest.mark.parametrize("status", [JobState.QUEUED, JobState.RUNNING])
def test_a_job_of_a_type_that_this_version_does_not_know_stops_nothing(
    database: Database, sent: Sent, client: TestClient, status: JobState, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = of_unknown_type(database, status)
    known = many(database, 2)
    with caplog.at_level(logging.ERROR):
        sent.dispatcher.run_pass()
    assert [job_id for job_id, _ in sent.jobs] == (known if status == JobState.QUEUED else [known[0], known[1]])
    assert {key for _, key in sent.jobs[:1]} == ({"n/0"} if status == JobState.QUEUED else {"n/1"})
    assert records.get(database, unknown).status == status
    for path in (
        f"/api/v1/jobs/{unknown}",
        "/api/v1/jobs",
        "/api/v1/queues",
        "/metrics",
        "/api/v1/workers",
        "/v1/videos",
    ):
        assert client.get(path).status_code == 200, path
    shown = client.get(f"/api/v1/jobs/{unknown}").json()
    assert (shown["type"], shown["params"]) == ("upscale", {"factor": 2})
    cancelled = client.post(f"/api/v1/jobs/{unknown}/cancel")
    assert cancelled.status_code == 202


def test_a_job_of_an_unknown_type_cannot_be_retried_here_and_the_answer_says_why(
    database: Database, client: TestClient
) -> None:
    unknown = of_unknown_type(database, JobState.QUEUED)
    records.request_cancel(database, unknown)
    answer = client.post(f"/api/v1/jobs/{unknown}/retry")
    assert answer.status_code == 409
    assert "type upscale" in answer.json()["detail"]
    assert client.delete(f"/api/v1/jobs/{unknown}").status_code == 204


def test_one_pass_that_fails_does_not_end_the_dispatcher(
    database: Database, sent: Sent, caplog: pytest.LogCaptureFixture
) -> None:
    (job_id,) = many(database, 1)
    failures = iter([KeyError("odd"), ValueError("odd")])
    run_pass = sent.dispatcher.run_pass

    def failing(*, recover: bool) -> int:
        error = next(failures, None)
        if error is not None:
            raise error
        try:
            return run_pass(recover=recover)
        finally:
            sent.dispatcher.stopping.set()

    sent.dispatcher.run_pass = failing  # type: ignore[method-assign]
    sent.dispatcher.leadership.wait = lambda *_: None  # type: ignore[method-assign]
    sent.dispatcher.run()
    assert [sent_id for sent_id, _ in sent.jobs] == [job_id]
    assert sum("this pass failed" in record.message for record in caplog.records) == 2


@pytest.mark.parametrize("seconds", [0.5, 7.0])
def test_a_wake_is_heeded_at_once_however_rarely_the_dispatcher_looks_by_itself(
    database: Database, settings: Settings, seconds: float
) -> None:
    import time

    from shared.messaging import celery

    slow = Dispatcher(settings.model_copy(update={"dispatch_seconds": seconds}), database, lambda *_: None)
    assert slow.leadership.leads()
    waited: list[float] = []

    def wait() -> None:
        began = time.monotonic()
        slow.leadership.wait(slow.stopping)
        waited.append(time.monotonic() - began)

    thread = threading.Thread(target=wait)
    thread.start()
    if seconds > 1:
        thread.join(6.5)  # longer than the leader's lock, and than one answer of Redis may take
        assert thread.is_alive()
        assert not Dispatcher(settings, database, lambda *_: None).leadership.leads(), "the first still leads"
        assert loop_reports.dispatcher_heard(loop_reports.seen(database)), "alive, with no pass to make"
    celery.wake(RestingRedis(settings.redis, timeout=5))
    thread.join(3)
    assert not thread.is_alive()
    assert waited[0] < seconds + 0.3
    assert timedelta(seconds=waited[0]) > timedelta(0)
