"""A worker's main process: what it kills, what it returns to the queue, and what it does not touch."""

import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from billiard.exceptions import Terminated, WorkerLostError
from celery.exceptions import Ignore
from pydantic import SecretStr

from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Tick
from shared.errors import DatabaseUnavailable
from shared.jobs import attempts, dispatch, records
from shared.jobs.attempt_spans import attempt_span
from shared.messaging import celery
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings
from shared.states import JobState, Phase
from shared.telemetry.loops import LoopReporter
from tests.support.jobs import CLAIMANT, UNCOUNTED, accepted, claimed, hold
from tests.support.models import library
from tests.support.places import ROOT
from tests.support.stack import wait_for
from workers.attempts.heartbeat import Heartbeat
from workers.processes import main_loop, main_process, process
from workers.processes.kill_rule import Limits
from workers.processes.main_process import Guard, JobRequest


@pytest.fixture
def guard(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> Guard:
    """Of the worker that the tests' claims name, in this process; it has no children."""
    for name, value in {
        "settings": settings.model_copy(update={"overlap_finishing": False}),
        "database": database,
        "meters": UNCOUNTED,
        "reporter": LoopReporter(database, CLAIMANT.worker, CLAIMANT.node),
        "claimant": CLAIMANT,
        "role": "gpu",
        "worker_name": CLAIMANT.worker,
    }.items():
        monkeypatch.setattr(process, name, lambda value=value: value)
    library.device(database, on="n", kind="cpu", pid=os.getpid())
    return Guard(main_process._deregister_device)


def test_an_attempt_that_no_child_carries_is_given_back_without_blame(guard: Guard, database: Database) -> None:
    """As after an unconfirmed claim: the rows show the job as running, but no process runs it."""
    job = claimed(database, accepted(database).id)
    guard._watch()
    guard._watch()
    assert records.get(database, job.id).status == JobState.RUNNING, "its child may be just beginning"
    guard._watch()
    after = records.get(database, job.id)
    assert (after.status, after.failures) == (JobState.QUEUED, 0)


def test_a_stopped_worker_claims_nothing_more(guard: Guard, database: Database) -> None:
    """Its child is fenced out of the returned job, and asks for the next one before it is killed."""
    running, following = (accepted(database).id for _ in range(2))
    claimed(database, running)
    dispatch.mark_dispatched(database, [(following, CLAIMANT.device_key)])
    guard.stop()
    assert attempts.claim(database, following, CLAIMANT, 60.0) is None
    for job_id in (running, following):
        assert (records.get(database, job_id).status, records.get(database, job_id).failures) == (JobState.QUEUED, 0)


def test_a_stopped_io_worker_claims_nothing_more(guard: Guard, database: Database) -> None:
    key, node = f"{CLAIMANT.node}/io", CLAIMANT.node
    of_node = replace(CLAIMANT, device=None, device_key=key, worker="io@n")
    job_id = accepted(database).id
    nodes.node_beat(database, node, None, None, celery.PROTOCOL)
    hold(database, "T2V-A14B")
    dispatch.mark_dispatched(database, [(job_id, key)])
    nodes.deregister_node(database, node)
    assert attempts.claim(database, job_id, of_node, 60.0) is None
    nodes.node_beat(database, node, None, None, celery.PROTOCOL)
    assert attempts.claim(database, job_id, of_node, 60.0) is not None


def test_a_job_that_begins_in_a_child_which_is_being_ended_as_idle_counts_no_failure(
    guard: Guard, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery sends it after the guard has seen that nothing runs."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        released = nodes.released
        job_id = accepted(database).id

        def begin(*args: str) -> None:
            released(*args)  # type: ignore[arg-type]
            claimed(database, job_id, replace(CLAIMANT, pid=child.pid))

        monkeypatch.setattr(nodes, "released", begin)
        monkeypatch.setattr(main_process, "active_children", lambda: [child])
        nodes.ask_to_release(database, [CLAIMANT.device_key])
        guard._watch()
        assert child.wait(5) == -9
        main_process.recover("The worker process died", child.pid)
        after = records.get(database, job_id)
        assert (after.status, after.failures) == (JobState.QUEUED, 0)
    finally:
        child.kill()
        child.wait()


def test_an_attempt_that_a_child_carries_is_left_alone(
    guard: Guard, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = claimed(database, accepted(database).id)
    monkeypatch.setattr(main_process, "_job_requests", lambda: [(job.id, CLAIMANT.pid)])
    for _ in range(6):
        guard._watch()
    assert records.get(database, job.id).status == JobState.RUNNING


@pytest.mark.parametrize("renews", [True, False])
def test_an_attempt_without_a_request_is_left_alone_as_long_as_a_child_renews_its_lease(
    guard: Guard, database: Database, monkeypatch: pytest.MonkeyPatch, renews: bool
) -> None:
    """It was begun before its message, which may come late or never."""
    child = SimpleNamespace(pid=CLAIMANT.pid)
    monkeypatch.setattr(main_process, "active_children", lambda: [child])
    settings = process.settings()
    job = claimed(database, accepted(database).id)
    left = settings.lease_seconds - (1.0 if renews else 2.0) * settings.heartbeat_seconds
    for _ in range(6):
        attempts.renew(database, job.id, 1, left)
        guard._watch()
    after = records.get(database, job.id)
    assert after.status == (JobState.RUNNING if renews else JobState.QUEUED)
    assert main_process._is_idle() != renews


def test_the_death_of_a_child_that_ran_a_job_without_a_request_counts(guard: Guard, database: Database) -> None:
    job = claimed(database, accepted(database).id, replace(CLAIMANT, pid=7))
    attempts.renew(database, job.id, 1, process.settings().lease_seconds + 1.0)
    for _ in range(3):
        guard._watch()
    after = records.get(database, job.id)
    assert (after.status, after.failures) == (JobState.QUEUED, 1)


@pytest.mark.parametrize("error", [Ignore(), WorkerLostError("killed"), Terminated(9)])
def test_the_end_of_a_task_takes_no_other_job_from_its_child_unless_the_child_died(
    guard: Guard, database: Database, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    first, following = (claimed(database, accepted(database).id) for _ in range(2))

    class Ended(JobRequest):
        id, worker_pid = first.id, CLAIMANT.pid

        def __init__(self) -> None: ...

    monkeypatch.setattr(main_process.Request, "on_failure", lambda *_args, **_options: None)
    Ended().on_failure(SimpleNamespace(exception=error))
    failures = [records.get(database, job.id).failures for job in (first, following)]
    assert failures == [1, 0 if isinstance(error, Ignore) else 1]


def test_a_cancelled_attempt_that_no_child_carries_ends_cancelled(guard: Guard, database: Database) -> None:
    job = claimed(database, accepted(database).id)
    records.request_cancel(database, job.id)
    for _ in range(3):
        guard._watch()
    assert records.get(database, job.id).status == JobState.CANCELLED


def test_only_requests_that_carry_a_job_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick has no job, and may take longer than anything that follows a job's end."""

    class Assignment(JobRequest):
        id, worker_pid = "job", 7

        def __init__(self) -> None: ...

    class Waiting(Assignment):
        worker_pid = None  # it lies in the pool's queue

    tick = SimpleNamespace(id="tick", worker_pid=8)
    monkeypatch.setattr(main_process.worker_state, "active_requests", [Assignment(), Waiting(), tick])
    assert main_process._job_requests() == [("job", 7)]


def test_a_child_that_dies_costs_no_other_child_its_job(guard: Guard, database: Database) -> None:
    """An io worker has several children."""
    held = {}
    for pid in (7, 8):
        held[pid] = claimed(database, accepted(database).id, replace(CLAIMANT, pid=pid)).id
    main_process.recover("The worker process died", 7)
    assert (records.get(database, held[7]).status, records.get(database, held[7]).failures) == (JobState.QUEUED, 1)
    assert (records.get(database, held[8]).status, records.get(database, held[8]).failures) == (JobState.RUNNING, 0)


@pytest.mark.parametrize("ends", [True, False])
def test_a_child_is_killed_where_its_job_was_taken_from_it_and_not_after_an_end_of_its_own(
    guard: Guard, database: Database, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        here = attempts.Claimant("n", CLAIMANT.worker, "cpu-0", CLAIMANT.device_key, pid=child.pid)
        job = claimed(database, accepted(database).id, here)
        monkeypatch.setattr(main_process, "_job_requests", lambda: [(job.id, child.pid)])
        guard._watch()
        if ends:
            attempts.succeed(database, job.id, 1, {})
        else:
            attempts.crashed(database, job.id, 1, "its lease ran out", 0.0)
        for _ in range(5):
            guard._watch()
        assert (child.poll() is None) == ends or child.wait(5) == -9
        assert (child.poll() is None) == ends
    finally:
        child.kill()
        child.wait()


def test_the_time_after_an_end_counts_only_while_the_main_loop_runs(
    guard: Guard, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child has ended its job and keeps its model; the main process waits for Redis and does not know."""
    killed: list[int] = []
    monkeypatch.setattr(guard, "_kill", lambda job_id, pid, reason: killed.append(pid))
    monkeypatch.setattr(guard, "_limits", Limits(cancel_grace=30.0, finishing=0.02))
    monkeypatch.setattr(main_loop, "turns", lambda: False)
    job = claimed(database, accepted(database).id)
    monkeypatch.setattr(main_process, "_job_requests", lambda: [(job.id, CLAIMANT.pid)])
    guard._watch()
    attempts.succeed(database, job.id, 1, {})
    for _ in range(3):
        guard._watch()
        time.sleep(0.03)
    assert killed == []
    monkeypatch.setattr(main_loop, "turns", lambda: True)
    guard._watch()
    time.sleep(0.03)
    guard._watch()
    assert killed != [], "heard of again, and still not done"


def test_no_job_is_returned_while_the_main_loop_does_not_run(
    guard: Guard, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_loop, "turns", lambda: False)
    job = claimed(database, accepted(database).id)
    for _ in range(5):
        guard._watch()
    assert records.get(database, job.id).status == JobState.RUNNING
    monkeypatch.setattr(main_loop, "turns", lambda: True)
    for _ in range(3):
        guard._watch()
    assert records.get(database, job.id).status == JobState.QUEUED


def test_a_stalled_main_loop_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[Callable[[], None]] = []

    class Hub:
        def call_repeatedly(self, seconds: float, call: Callable[[], None]) -> None:
            timers.append(call)

    now = [100.0]
    monkeypatch.setattr(main_loop, "_turned_at", None)
    monkeypatch.setattr(main_loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert main_loop.turns(), "nobody has watched it"
    main_loop.watch(Hub())
    for seconds, turns in ((2.0, True), (2.0, False)):
        now[0] += seconds
        assert main_loop.turns() == turns
    timers[0]()
    assert main_loop.turns()


def test_the_guards_loops_continue_after_any_exception(
    guard: Guard, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    passes = threading.Semaphore(0)

    def odd(*_: object) -> dict[str, object]:
        passes.release()
        raise KeyError("odd")

    monkeypatch.setattr(main_process, "_PASS_SECONDS", 0.01)
    monkeypatch.setattr(main_process.running_attempts, "held", odd)
    again = Guard(main_process._deregister_device)
    with caplog.at_level(logging.ERROR):
        again.start()
        for _ in range(3):
            assert passes.acquire(timeout=10)
        again.stop()
    assert [record.message for record in caplog.records] == ["loop guard: KeyError: 'odd'; the loop continues"]
    (device,) = [seen for seen in nodes.devices(database) if seen.device.key == CLAIMANT.device_key]
    assert not device.alive(30.0), "deregistered, and no heartbeat came after that"


def test_no_heartbeat_follows_the_deregistration(
    guard: Guard, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is being sent when the worker is stopped."""
    sending, go_on, beat = threading.Event(), threading.Event(), nodes.device_beat

    def slow(*args: object) -> bool:
        sending.set()
        assert go_on.wait(10)
        return beat(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(nodes, "device_beat", slow)
    guard.start()
    assert sending.wait(10)
    stopping = threading.Thread(target=guard.stop)
    stopping.start()
    stopping.join(0.2)
    go_on.set()
    stopping.join(10)
    for loop in guard._loops:
        loop.join(10)
    (device,) = [seen for seen in nodes.devices(database) if seen.device.key == CLAIMANT.device_key]
    assert device.deregistered


def test_a_phase_that_hangs_is_reported_once(
    settings: Settings, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    hasty = settings.model_copy(update={"step_limit_seconds": 0.01, "heartbeat_seconds": 0.001})
    job = claimed(database, accepted(database).id)
    with attempt_span(job) as span:
        heartbeat = Heartbeat(hasty, database, Progress(RestingRedis(None)), job, span, UNCOUNTED)
        with caplog.at_level(logging.ERROR):
            for phase in (Phase.DENOISING, Phase.DECODING):
                heartbeat.moved(phase, 10.0)
                time.sleep(0.02)
                for _ in range(20):
                    heartbeat._listen()
                    heartbeat._renew(time.monotonic())
    assert records.get(database, job.id).lease_until == job.lease_until, "it loses its job like one that died"
    said = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(said) == 2
    assert all("has exceeded its limit of 0.01 s" in line for line in said)


def test_the_limits_of_a_larger_job_are_longer(settings: Settings, database: Database) -> None:
    hasty = settings.model_copy(update={"step_limit_seconds": 1.0, "loading_limit_seconds": 1.0})
    job = claimed(database, accepted(database).id)
    with attempt_span(job) as span:
        heartbeat = Heartbeat(hasty, database, Progress(RestingRedis(None)), job, span, UNCOUNTED)
        heartbeat.expect_work(5.0)
        for phase, limit in ((Phase.DENOISING, 5.0), (Phase.DECODING, 5.0), (Phase.LOADING, 1.0)):
            heartbeat.moved(phase, 10.0)
            assert not heartbeat._is_overdue(time.monotonic() + limit - 0.5)
            assert heartbeat._is_overdue(time.monotonic() + limit + 0.5)


def test_a_lease_that_cannot_be_renewed_is_reported_once_while_the_database_stays_away(
    settings: Settings, database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise DatabaseUnavailable()

    job = claimed(database, accepted(database).id)
    hasty = settings.model_copy(update={"heartbeat_seconds": 0.001})
    monkeypatch.setattr(attempts, "renew", away)
    with attempt_span(job) as span, caplog.at_level(logging.WARNING):
        heartbeat = Heartbeat(hasty, database, Progress(RestingRedis(None)), job, span, UNCOUNTED)
        for _ in range(20):
            heartbeat._renew(time.monotonic())
    assert sum("could not be renewed" in record.message for record in caplog.records) == 1


@pytest.fixture
def io_worker(settings: Settings, tmp_path: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """A real io worker, and its log."""
    said = {
        f"WANWORKS_{name.upper()}": str(value.get_secret_value() if isinstance(value, SecretStr) else value)
        for name, value in settings.model_dump(exclude_none=True).items()
    }
    log = tmp_path / "io.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.app", "io"],
            env={**os.environ, **said},
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    yield process, log
    process.terminate()
    process.wait(20)


@pytest.mark.slow
def test_a_tick_that_takes_longer_than_any_stray_is_left_to_its_end(
    settings: Settings, database: Database, io_worker: tuple["subprocess.Popen[bytes]", Path]
) -> None:
    """The task waits ten seconds for a locked database; no row names it, and it is not killed."""
    _, log = io_worker
    app = celery.celery_app(settings, "test")
    wait_for(lambda: app.control.ping(timeout=1.0), 60, "for the io worker")
    lock = sqlite3.connect(database.url.removeprefix("sqlite:///"), isolation_level=None, timeout=30)
    try:
        wait_for(lambda: nodes.nodes(database), 30, "for the node's first heartbeat")
        lock.execute("BEGIN IMMEDIATE")
        app.send_task("wanworks.tick.roll_up", args=("roll_up", 600.0), queue=celery.TICKS_QUEUE)
        held_until = time.monotonic() + 10
        wait_for(lambda: time.monotonic() > held_until, 11)
        lock.execute("ROLLBACK")

        def outcome() -> str | None:
            with database.read() as session:
                row = session.get(Tick, ("roll_up", int(time.time() // 600)))
                row = row or session.get(Tick, ("roll_up", int(time.time() // 600) - 1))
                return row.outcome if row is not None and row.outcome.endswith("rolled up") else None

        assert wait_for(outcome, 20, "for the tick's outcome")
    finally:
        lock.close()
    assert "killing process" not in log.read_text()
