"""A worker's main process, stopped as by the supervisor: it ends within its time limit in every case."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from scheduler.sender import celery_sender
from shared.cluster import nodes
from shared.database.engine import Database
from shared.jobs import dispatch, records
from shared.settings import Settings
from shared.states import JobState
from shared.storage.store import open_store
from shared.telemetry import loop_reports
from tests.conftest import RedisServer
from tests.support.jobs import accepted
from tests.support.places import ROOT
from tests.support.stack import children, wait_for
from workers.processes import shutdown
from workers.processes.shutdown import LIMIT_SECONDS

_GRANTED_SECONDS = 4.5  # by the supervisor

Start = Callable[[Settings, str], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(settings: Settings, role: str) -> "subprocess.Popen[bytes]":
        values = settings.model_dump(exclude_none=True).items()
        said = {
            f"WANWORKS_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in values
        }
        settings.store_dir.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **said, "WANWORKS_DEVICE": "cpu:0", "CUDA_VISIBLE_DEVICES": ""}
        with (tmp_path / "worker.log").open("ab") as log:
            argv = [sys.executable, "-m", "workers.app", role]
            started.append(subprocess.Popen(argv, env=environment, cwd=ROOT, stdout=log, stderr=log))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def heard(database: Database) -> bool:
    return any(not seen.deregistered for seen in nodes.devices(database))


def stopped(process: "subprocess.Popen[bytes]", number: signal.Signals = signal.SIGTERM) -> float:
    """How long the process takes to end, in seconds; all its children end with it."""
    born = children(process.pid)
    began = time.monotonic()
    process.send_signal(number)
    process.wait(timeout=30)
    seconds = time.monotonic() - began
    wait_for(lambda: not any(alive(pid) for pid in born), 5, "for the children")
    return seconds


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_ends_while_its_child_still_imports(
    start: Start, settings: Settings, database: Database, number: signal.Signals
) -> None:
    process = start(settings, "gpu")
    wait_for(lambda: heard(database), 60, "for the worker")
    assert stopped(process, number) < _GRANTED_SECONDS
    assert process.returncode == 0
    assert all(seen.deregistered for seen in nodes.devices(database))
    assert not loop_reports.seen(database), "its loops are not missed"


def test_an_error_keeps_nothing_else_from_being_done(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise RuntimeError("broken")

    done: list[str] = []
    shutdown._call_all([broken, lambda: done.append("beside")], 5.0)
    for call in (broken, lambda: done.append("after")):
        shutdown._call(call)
    assert done == ["beside", "after"]
    assert caplog.text.count("an error during the shutdown of this worker") == 2


def test_a_worker_ends_before_it_has_come_up(start: Start, settings: Settings, tmp_path: Path) -> None:
    process = start(settings, "gpu")
    assert stopped(process) < _GRANTED_SECONDS
    assert "Traceback" not in (tmp_path / "worker.log").read_text()


@pytest.mark.parametrize("role", ["gpu", "io"])
def test_a_worker_ends_beside_a_frozen_redis(
    start: Start, settings: Settings, database: Database, redis_server: RedisServer, role: str
) -> None:
    process = start(settings.model_copy(update={"redis_url": SecretStr(redis_server.url)}), role)
    wait_for(lambda: heard(database) or bool(nodes.nodes(database) and nodes.nodes(database)[0][1] < 60), 60)
    assert redis_server.process is not None
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        assert stopped(process) < _GRANTED_SECONDS
    finally:
        redis_server.process.send_signal(signal.SIGCONT)


def test_a_worker_ends_beside_a_database_that_is_locked(start: Start, settings: Settings, database: Database) -> None:
    """No job can be returned then; its lease expires."""
    process = start(settings, "gpu")
    wait_for(lambda: heard(database), 60, "for the worker")
    lock = sqlite3.connect(settings.database.removeprefix("sqlite:///"), isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    try:
        assert LIMIT_SECONDS - 1.5 < stopped(process) < _GRANTED_SECONDS
    finally:
        lock.close()
    assert heard(database)


@pytest.mark.slow
def test_a_child_that_has_ended_its_job_is_not_killed_while_redis_is_away(
    start: Start, settings: Settings, database: Database, redis_server: RedisServer
) -> None:
    """Celery waits for Redis and receives no end; the child is idle with its model loaded."""
    known = settings.model_copy(
        update={"redis_url": SecretStr(redis_server.url), "finishing_limit_seconds": 6.0, "catalogue": "demo"}
    )
    open_store(known, lambda: nodes.agreed(database, "store"), create=True)
    process = start(known, "gpu")
    wait_for(lambda: heard(database), 60, "for the worker")
    job = accepted(database, mock=True, request={"frames": 81, "resolution": "128x128", "steps": 20})
    key = nodes.devices(database)[0].device.key
    dispatch.mark_dispatched(database, [(job.id, key)])
    celery_sender(known)(dispatch.read_queue(database).waiting[0], key, 1)
    wait_for(lambda: records.get(database, job.id).status == JobState.RUNNING, 60, "for the claim", every=0.002)
    born = children(process.pid)
    redis_server.kill()
    wait_for(lambda: records.get(database, job.id).status == JobState.SUCCEEDED, 60, "for the end")
    until = time.monotonic() + 12
    wait_for(lambda: time.monotonic() > until or not all(alive(pid) for pid in born), 15)
    assert all(alive(pid) for pid in born)
