"""What the queue promises: nobody starves, the urgent come first, positions are true, and only hopeless jobs fail."""

import logging
import threading
from collections.abc import Callable
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
from shared.jobs import attempts, dispatch, download_control, queue_positions, records
from shared.jobs.attempts import Claimant
from shared.jobs.dispatch import Waiting
from shared.messaging.progress import RestingRedis, connect
from shared.settings import Settings
from shared.states import JobState, Priority
from shared.telemetry import loop_reports
from tests.conftest import both_databases
from tests.support import library
from tests.support.jobs import DEMO, accepted, claimed, hold, new_job

pytestmark = both_databases

HOUR = 3600.0


def aged(database: Database, seconds: float, *job_ids: str, column: str = "queued_at") -> None:
    """Moves a moment of those jobs into the past."""
    with database.write() as session:
        session.connection().execute(
            update(Job).where(col(Job.id).in_(job_ids)).values({column: getattr(Job, column) - seconds})
        )


def many(database: Database, count: int, **values: Any) -> list[str]:
    made = records.accept(database, [new_job(**values) for _ in range(count)])
    return [one.job.id for one in made if isinstance(one, records.Accepted)]


class Sent:
    """What a dispatcher has sent, in order."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.jobs: list[tuple[str, str]] = []
        self.dispatcher = Dispatcher(settings, database, self._send)

    def _send(self, job: Waiting, device_key: str, reads: int) -> None:
        self.jobs.append((job.job_id, device_key))


def claimant(index: int) -> Claimant:
    return Claimant("n", f"gpu-{index}@n", f"cpu-{index}", f"n/{index}", pid=100 + index)


@pytest.fixture
def sent(settings: Settings, database: Database) -> Sent:
    """Two devices on a node that holds every model."""
    for index in range(2):
        library.device(database, on="n", index=index, kind="cpu")
    hold(database, *DEMO.model_ids)
    return Sent(settings, database)


def claim(database: Database, index: int) -> Job:
    """Act as the device's worker that answers its dispatch message."""
    (job_id,) = [job.job_id for job in dispatch.read_queue(database).waiting if job.dispatched_to == f"n/{index}"]
    job = attempts.claim(database, job_id, claimant(index), 60)
    assert job is not None
    return job


def test_a_low_job_that_has_waited_half_a_day_is_not_hidden_by_fresh_ones(database: Database, sent: Sent) -> None:
    (old,) = many(database, 1, priority=Priority.LOW)
    aged(database, 12 * HOUR, old)
    many(database, 220)
    sent.dispatcher.run_pass()
    assert sent.jobs[0][0] == old


def test_jobs_that_no_device_can_carry_hide_none_that_one_can(database: Database, sent: Sent) -> None:
    """The same model in another type, first in line and many: they need more memory than there is."""
    huge = records.accept(database, [new_job(request={"quantization": "int8"}) for _ in range(220)])
    with database.write() as session:
        ids = [one.job.id for one in huge if isinstance(one, records.Accepted)]
        session.connection().execute(update(Job).where(col(Job.id).in_(ids)).values(min_ram_mb=10**9))
    (small,) = many(database, 1)
    assert sent.dispatcher.run_pass() == 1
    assert sent.jobs == [(small, "n/0")]


def test_jobs_in_their_back_off_hide_none_that_may_start(database: Database, sent: Sent) -> None:
    waiting = many(database, 220)
    aged(database, -HOUR, *waiting, column="not_before")
    with database.write() as session:
        session.connection().execute(update(Job).values(not_before=Job.queued_at + HOUR))
    (ready,) = many(database, 1)
    assert sent.dispatcher.run_pass() == 1
    assert sent.jobs == [(ready, "n/0")]


def test_jobs_of_a_silent_node_hide_none_of_a_live_one(database: Database, settings: Settings) -> None:
    from shared.catalogue.job_types import INTEGRITY_CHECK, IntegrityCheckParams

    nodes.node_beat(database, "live", None, None)

    def checks(node: str, count: int) -> list[str]:
        new = [
            records.NewJob(INTEGRITY_CHECK, IntegrityCheckParams(model_id="T2V-A14B", node=node), Priority.NORMAL)
            for _ in range(count)
        ]
        return [one.job.id for one in records.accept(database, new) if isinstance(one, records.Accepted)]

    checks("gone", 220)
    (here,) = checks("live", 1)
    sent = Sent(settings, database)
    sent.dispatcher.run_pass()
    assert sent.jobs == [(here, "live/io")]


def test_an_urgent_job_starts_before_what_was_sent_ahead_and_its_position_says_so(
    database: Database, sent: Sent, client: TestClient
) -> None:
    low = many(database, 5, priority=Priority.LOW)
    sent.dispatcher.run_pass()
    running = [claim(database, index) for index in range(2)]
    assert sent.dispatcher.run_pass() == 2, "one ahead of each device"
    (urgent,) = many(database, 1, priority=Priority.CRITICAL)
    sent.dispatcher.published_order._published_at = float("-inf")
    assert sent.dispatcher.run_pass() == 1
    assert position(client, urgent) == 0
    lies_at = int(str(records.get(database, urgent).dispatched_to).rpartition("/")[2])
    (ended,) = [job for job in running if job.device_key == f"n/{lies_at}"]
    attempts.succeed(database, ended.id, 1, {})
    assert claim(database, lies_at).id == urgent
    still = [job_id for job_id in low if records.get(database, job_id).status == JobState.QUEUED]
    assert len([job_id for job_id in still if records.get(database, job_id).dispatched_to is None]) == 2, (
        "one was recalled"
    )


def position(client: TestClient, job_id: str) -> int:
    job = client.get(f"/api/v1/jobs/{job_id}").json()
    return -1 if job["queue_position"] is None else int(job["queue_position"])


def test_a_recalled_job_is_not_claimed_by_the_device_that_still_has_its_message(database: Database, sent: Sent) -> None:
    many(database, 3, priority=Priority.LOW)
    sent.dispatcher.run_pass()
    for index in range(2):
        claim(database, index)
    sent.dispatcher.run_pass()
    waiting = dispatch.read_queue(database).waiting
    lying = {job.dispatched_to: job.job_id for job in waiting if job.dispatched_to is not None}
    ((key, stale),) = lying.items()
    (urgent,) = many(database, 1, priority=Priority.CRITICAL)
    (other,) = many(database, 1, priority=Priority.CRITICAL)
    sent.dispatcher.run_pass()
    index = int(str(key).rpartition("/")[2])
    assert attempts.claim(database, stale, claimant(index), 60) is None
    assert {claim(database, 0).id, claim(database, 1).id} == {urgent, other}


def test_an_urgent_download_takes_the_place_of_one_that_was_sent_ahead(database: Database, settings: Settings) -> None:
    library.node(database)
    sent = Sent(settings.model_copy(update={"download_slots": 1}), database)
    low = library.download(database, "T2V-A14B", priority=Priority.LOW)
    sent.dispatcher.run_pass()
    urgent = library.download(database, "TI2V-5B", priority=Priority.CRITICAL)
    sent.dispatcher.run_pass()
    assert [job_id for job_id, _ in sent.jobs] == [low.id, urgent.id]
    io = Claimant("here", "io@here", None, "here/io")
    assert attempts.claim(database, low.id, io, 60, at_most=1) is None, "its message still lies there"
    assert attempts.claim(database, urgent.id, io, 60, at_most=1) is not None


def test_positions_are_those_in_which_jobs_really_start(database: Database, sent: Sent, client: TestClient) -> None:
    ranks = (Priority.LOW, Priority.NORMAL, Priority.CRITICAL, Priority.HIGH)
    ids = [many(database, 1, priority=ranks[number % 4])[0] for number in range(12)]
    aged(database, HOUR, ids[0])  # a low one that has waited its way to the front

    def tell() -> None:
        sent.dispatcher.published_order._published_at = float("-inf")
        sent.dispatcher.run_pass()

    tell()
    tell()
    listed = client.get("/api/v1/jobs?status=queued").json()["data"]
    assert {job["queue_position_approximate"] for job in listed} == {False}
    told = [job["id"] for job in sorted(listed, key=lambda job: job["queue_position"])]
    assert [job["queue_position"] for job in sorted(listed, key=lambda job: job["queue_position"])] == list(range(12))
    started: list[str] = []
    while len(started) < 12:
        for index in range(2):
            if any(job.dispatched_to == f"n/{index}" for job in dispatch.read_queue(database).waiting):
                job = claim(database, index)
                started.append(job.id)
                attempts.succeed(database, job.id, 1, {})
        tell()
    assert started == told


def test_a_position_counts_only_those_that_still_wait(database: Database, sent: Sent, client: TestClient) -> None:
    ids = many(database, 5)
    sent.dispatcher.published_order._published_at = float("-inf")
    sent.dispatcher.run_pass()
    assert position(client, ids[4]) == 4
    records.request_cancel(database, ids[3])
    records.request_cancel(database, ids[2])
    assert position(client, ids[4]) == 2, "without waiting for the next pass"


def test_a_position_without_a_published_order_says_that_it_is_approximate(
    database: Database, client: TestClient, settings: Settings
) -> None:
    first, second = many(database, 2)
    job = client.get(f"/api/v1/jobs/{second}").json()
    assert (job["queue_position"], job["queue_position_approximate"]) == (1, True)
    queue_positions.publish(RestingRedis(settings.redis, timeout=5), [second, first])
    job = client.get(f"/api/v1/jobs/{second}").json()
    assert (job["queue_position"], job["queue_position_approximate"]) == (0, False)
    records.request_cancel(database, second)
    job = client.get(f"/api/v1/jobs/{second}").json()
    assert (job["queue_position"], job["queue_position_approximate"]) == (None, None)


def impatient(settings: Settings, database: Database, hours: float = 24.0) -> Sent:
    return Sent(settings.model_copy(update={"unplaced_limit_hours": hours}), database)


def states(database: Database, job_ids: list[str]) -> set[str]:
    return {records.get(database, job_id).status for job_id in job_ids}


def test_a_weekends_batch_survives_an_upgrade_on_monday(database: Database, sent: Sent, settings: Settings) -> None:
    batch = many(database, 30)
    aged(database, 60 * HOUR, *batch)
    for index in range(2):
        nodes.deregister_device(database, f"n/{index}", 1)
    for _ in range(3):
        sent.dispatcher.run_pass()
    assert states(database, batch) == {JobState.QUEUED}
    library.device(database, on="n", index=0, kind="cpu")
    assert sent.dispatcher.run_pass() == 1
    assert {records.get(database, job_id).unplaceable_since for job_id in batch} == {None}, "the time is forgotten"


def test_what_nothing_could_run_for_the_whole_limit_fails_with_its_reason(database: Database, sent: Sent) -> None:
    batch = many(database, 30)
    for index in range(2):
        nodes.deregister_device(database, f"n/{index}", 1)
    sent.dispatcher.run_pass()
    aged(database, 23 * HOUR, *batch, column="unplaceable_since")
    sent.dispatcher.run_pass()
    assert states(database, batch) == {JobState.QUEUED}
    later = many(database, 1)
    sent.dispatcher.run_pass()
    aged(database, 1.1 * HOUR, *batch, *later, column="unplaceable_since")
    sent.dispatcher.run_pass()
    assert states(database, batch) == {JobState.FAILED}
    assert states(database, later) == {JobState.QUEUED}, "its time began later, and did not begin theirs anew"
    assert {(records.get(database, job_id).error or {})["code"] for job_id in batch} == {"no_device"}


def test_a_node_that_comes_back_in_between_starts_the_time_anew(database: Database, settings: Settings) -> None:
    library.node(database)
    job = library.download(database)
    sent = impatient(settings, database)
    nodes.deregister_node(database, "here")
    sent.dispatcher.run_pass()
    aged(database, 23 * HOUR, job.id, column="unplaceable_since")
    library.node(database)
    sent.dispatcher.run_pass()
    nodes.deregister_node(database, "here")
    sent.dispatcher.run_pass()
    aged(database, 2 * HOUR, job.id, column="unplaceable_since")
    sent.dispatcher.run_pass()
    assert records.get(database, job.id).status == JobState.QUEUED
    aged(database, 23 * HOUR, job.id, column="unplaceable_since")
    sent.dispatcher.run_pass()
    after = records.get(database, job.id)
    assert (after.status, (after.error or {})["code"]) == (JobState.FAILED, "node_lost")


def test_a_model_that_is_on_its_way_is_waited_for(database: Database, settings: Settings) -> None:
    library.node(database)
    library.device(database, kind="cpu")
    (waiting,) = many(database, 1)
    fetching = library.start(database, library.download(database))
    sent = impatient(settings, database, hours=1e-9)
    for _ in range(3):
        sent.dispatcher.run_pass()
    assert records.get(database, waiting).status == JobState.QUEUED
    download_control.pause(database, fetching.id)
    attempts.paused(database, fetching.id, 1, download_control.BY_OWNER, attempts.Fetched())
    sent.dispatcher.run_pass()
    assert records.get(database, waiting).status == JobState.QUEUED
    records.request_cancel(database, fetching.id)
    for _ in range(2):
        sent.dispatcher.run_pass()
    after = records.get(database, waiting)
    assert (after.status, (after.error or {})["code"]) == (JobState.FAILED, "model_unavailable")


WATCHED_AT = "unplaceable_watched_at"


@pytest.mark.parametrize("watched", ["for an hour, noted", "not noted before it ended", "by itself, before an outage"])
def test_time_in_which_no_dispatcher_looked_does_not_count_as_unplaceable(
    database: Database, sent: Sent, settings: Settings, watched: str
) -> None:
    """The whole installation is off over a weekend; its dispatcher comes up before its devices."""
    batch = many(database, 3)
    for index in range(2):
        nodes.deregister_device(database, f"n/{index}", 1)
    sent.dispatcher.run_pass()
    aged(database, 62 * HOUR, *batch, column="unplaceable_since")
    later = sent.dispatcher if watched.startswith("by itself") else Sent(settings, database).dispatcher
    later._unplaceable._watched_at = max(0.0, later._unplaceable._watched_at - 61 * HOUR)
    if watched.endswith(", noted"):
        nodes.note(database, WATCHED_AT, str(clock.now().timestamp() - 61 * HOUR))
    later.run_pass()
    assert states(database, batch) == {JobState.QUEUED}
    waited = clock.now().timestamp() - float(records.get(database, batch[0]).unplaceable_since or 0)
    assert waited == pytest.approx(0 if watched.startswith("not noted") else HOUR, abs=60)
    aged(database, 24 * HOUR, *batch, column="unplaceable_since")
    later.run_pass()
    assert states(database, batch) == {JobState.FAILED}, "what was watched counts"


def test_time_in_which_another_dispatcher_looked_counts_as_unplaceable(
    database: Database, sent: Sent, settings: Settings
) -> None:
    batch = many(database, 3)
    for index in range(2):
        nodes.deregister_device(database, f"n/{index}", 1)
    for _ in range(2):
        sent.dispatcher.run_pass()
    aged(database, 25 * HOUR, *batch, column="unplaceable_since")
    Sent(settings, database).dispatcher.run_pass()
    assert states(database, batch) == {JobState.FAILED}


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
        values |= {"min_ram_mb": 10**9, "unplaceable_since": 1.0}
        nodes.note(database, WATCHED_AT, str(clock.now().timestamp()))
    with database.write() as session:
        session.connection().execute(update(Job).where(col(Job.id) == odd).values(**values))
    known = many(database, 2)
    for _ in range(3):
        sent.dispatcher.run_pass()
    assert {job_id for job_id, _ in sent.jobs} >= {known[0]}
    assert [record.message for record in caplog.records if record.exc_info] == [f"job {odd} is left out of this pass"]


def test_bells_are_rung_again_after_redis_has_lost_its_data_also_where_the_database_was_away_then(
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
    quick: Callable[[threading.Event], None] = lambda stopping: None  # noqa: E731
    sent.dispatcher.leadership.wait = quick  # type: ignore[method-assign]
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
