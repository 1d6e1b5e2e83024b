"""A job that has left its device is finished by another process, which may die, be refused or come too late."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlmodel import select
from starlette.testclient import TestClient

from shared import clock
from shared.catalogue.job_types import GENERATION
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import DeviceFault, Job, Use
from shared.errors import FaultKind, Fenced
from shared.jobs import attempts, dispatch, finishing, records
from shared.jobs.device_faults import Fault
from shared.jobs.reading import queues, running_attempts
from shared.jobs.usage import gpu_time
from shared.messaging.celery import celery_app
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings
from shared.states import JobState, Phase
from shared.storage.store import open_store
from tests.conftest import RedisServer
from tests.support import working
from tests.support.jobs import DEMO, UNCOUNTED, accepted
from tests.support.models import library
from tests.support.stack import wait_for
from workers.attempts.handover import Handovers
from workers.attempts.runner import Runner
from workers.generation.finishing import outputs
from workers.generation.finishing.handler import TRIES
from workers.generation.job import GenerationHandler
from workers.processes import finisher as finisher_process
from workers.processes import finisher_watch, main_process, process
from workers.processes.finisher import Finisher
from workers.processes.finisher_watch import FinisherWatch
from workers.processes.kill_rule import Limits

DECODES = Callable[..., Job]


@pytest.fixture
def known(settings: Settings, database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    known = settings.model_copy(update={"redis_url": settings.redis_url, "min_free_disk_mb": 0, "catalogue": "demo"})
    open_store(known, lambda: nodes.agreed(database, "store"), create=True)
    monkeypatch.setenv("WANWORKS_DEVICE", "cpu:0")
    for name, value in (
        ("settings", known), ("database", database), ("claimant", working.HERE), ("meters", UNCOUNTED),
        ("worker_name", working.HERE.worker), ("handovers", Handovers(known.home, 0)),
    ):  # fmt: skip
        monkeypatch.setattr(process, name, lambda value=value: value)
    return known


@pytest.fixture
def decoded(known: Settings, database: Database) -> DECODES:
    """Decode a job as a worker's child does, and hand it over."""
    store = open_store(known, lambda: nodes.agreed(database, "store"), create=False)
    progress = Progress(RestingRedis(known.redis))
    handler = GenerationHandler(known, database, DEMO, store, progress, working.HERE, "a CPU", Handovers(known.home, 0))
    runner = Runner(known, database, working.HERE, {GENERATION: handler}, UNCOUNTED)

    def decode(*, finishes: bool = False, **values: Any) -> Job:
        job = accepted(database, mock=True, **values)
        dispatch.mark_dispatched(database, [(job.id, working.HERE.device_key)])
        assert runner.run(GENERATION, job.id) == finishes
        return records.get(database, job.id)

    return decode


@pytest.fixture
def finisher(known: Settings) -> Finisher:
    return Finisher(Handovers(known.home, 0))


def faults(database: Database) -> list[DeviceFault]:
    with database.read() as session:
        return list(session.exec(select(DeviceFault)))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_a_decoded_job_leaves_its_device_and_ends_once(
    known: Settings, database: Database, decoded: DECODES, finisher: Finisher
) -> None:
    job = decoded()
    assert (job.status, job.phase, job.pid) == (JobState.RUNNING, Phase.FINISHING, working.HERE.pid)
    assert job.released_at is not None
    assert Handovers(known.home, 0).has(job.id, 1)
    assert dispatch.read_queue(database).busy == (), "placement sees an idle device"
    assert queues.on_devices(database) == {}
    assert queues.finishing_on_devices(database) == {working.HERE.device_key}
    second = working.claim(database, accepted(database).id)
    assert queues.on_devices(database)[working.HERE.device_key].id == second.id
    assert finisher.run_pass()
    ended = records.get(database, job.id)
    assert ended.status == JobState.SUCCEEDED
    assert ended.result is not None
    assert {"decoding", "muxing"} <= set(ended.result["timings"])
    assert sorted(one["name"] for one in ended.result["artifacts"]) == files(known.store_dir / "artifacts")
    assert not Handovers(known.home, 0).waiting()
    assert not finisher.run_pass()
    assert records.get(database, second.id).status == JobState.RUNNING
    with database.read() as session:
        (use,) = session.exec(select(Use)).all()
    assert use.device_seconds is not None
    assert use.seconds is not None
    assert 0 < use.device_seconds <= use.seconds


def test_the_bytes_are_those_that_the_child_would_have_made(
    known: Settings, database: Database, decoded: DECODES, finisher: Finisher
) -> None:
    beside = decoded(request={"seed": 7})
    finisher.run_pass()
    store = open_store(known, lambda: nodes.agreed(database, "store"), create=False)
    alone = GenerationHandler(known, database, DEMO, store, Progress(RestingRedis(None)), working.HERE, "a CPU")
    job = accepted(database, mock=True, request={"seed": 7})
    dispatch.mark_dispatched(database, [(job.id, working.HERE.device_key)])
    assert Runner(known, database, working.HERE, {GENERATION: alone}, UNCOUNTED).run(GENERATION, job.id)
    made = [records.get(database, one).result for one in (beside.id, job.id)]
    assert made[0] is not None
    assert made[1] is not None
    assert made[0]["artifacts"] == made[1]["artifacts"]
    assert made[0]["quality"] == made[1]["quality"]


def test_one_job_at_most_is_behind(
    known: Settings, database: Database, decoded: DECODES, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device waits for the job before, but not forever: then its own process finishes the job."""
    first = decoded()
    with monkeypatch.context() as patch:
        patch.setitem(known.__dict__, "finishing_limit_seconds", 0.05)
        second = decoded(finishes=True)
    assert (second.status, second.released_at) == (JobState.SUCCEEDED, None)
    assert [job.id for job in queues.running(database)] == [first.id]


def test_without_room_on_the_disk_the_child_finishes_the_job(
    known: Settings, database: Database, decoded: DECODES, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(known.home)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    job = decoded(finishes=True)
    assert (job.status, job.released_at) == (JobState.SUCCEEDED, None)
    assert list(Handovers(known.home, 0).all()) == []


def test_a_cancel_ends_a_job_that_is_being_finished_and_leaves_no_file(
    known: Settings, database: Database, decoded: DECODES, finisher: Finisher
) -> None:
    job = decoded()
    records.request_cancel(database, job.id)
    Progress(RestingRedis(known.redis)).ask_to_cancel(job.id)
    assert finisher.run_pass()
    assert records.get(database, job.id).status == JobState.CANCELLED
    assert files(known.store_dir / "artifacts") == []
    assert list(Handovers(known.home, 0).all()) == []


def test_a_full_disk_while_finishing_fails_the_job(
    known: Settings, database: Database, decoded: DECODES, finisher: Finisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = decoded()

    def full(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "sync_file", full)
    assert finisher.run_pass()
    error = records.get(database, job.id).error
    assert error is not None
    assert (error["code"], error["retryable"]) == ("disk_full", True)
    assert files(known.store_dir / "artifacts") == []
    assert faults(database) == []


def test_an_attempt_that_was_presumed_dead_changes_nothing(
    known: Settings, database: Database, decoded: DECODES, finisher: Finisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease expires while its video is encoded; the job starts again elsewhere, and the late end is refused."""
    job = decoded()
    write = outputs.write

    def late(*args: Any) -> Any:
        lost = Fault(FaultKind.PROCESS_DEATH, "went silent")
        assert attempts.crashed(database, job.id, 1, "It went silent", 0.0, fault=lost) is not None
        return write(*args)

    monkeypatch.setattr(outputs, "write", late)
    assert finisher.run_pass()
    again = records.get(database, job.id)
    assert (again.status, again.failures, again.released_at) == (JobState.QUEUED, 1, None)
    assert faults(database) == [], "the device was not at fault"
    assert list(Handovers(known.home, 0).all()) == []
    assert files(known.store_dir / "artifacts") == []
    with pytest.raises(Fenced):
        finishing.release_device(database, job.id, 1, 60)


def test_after_three_deaths_the_job_fails_without_blame_for_the_device(
    known: Settings, database: Database, decoded: DECODES, finisher: Finisher
) -> None:
    job = decoded()
    (handover,) = Handovers(known.home, 0).waiting()
    for _ in range(TRIES):
        handover.count_try()
    assert finisher.run_pass()
    failed = records.get(database, job.id)
    assert failed.error is not None
    assert (failed.error["code"], failed.error["retryable"]) == ("cannot_finish", True)
    assert failed.failures == 0
    assert faults(database) == []


def test_folders_without_a_running_attempt_are_removed(
    known: Settings, database: Database, decoded: DECODES, finisher: Finisher
) -> None:
    job = decoded()
    kept, partial = Handovers(known.home, 0), Handovers(known.home, 1).begin("no-such-job", 1)
    finisher.sweep()
    assert kept.has(job.id, 1)
    assert not partial.folder.exists()
    attempts.give_back(database, job.id, 1)
    assert not finisher.run_pass()
    assert list(kept.all()) == []


def test_frames_that_a_restart_of_the_host_may_have_damaged_are_not_used(
    known: Settings, database: Database, decoded: DECODES, finisher: Finisher
) -> None:
    job = decoded()
    (handover,) = Handovers(known.home, 0).waiting()
    text = (handover.folder / "facts.json").read_text()
    (handover.folder / "facts.json").write_text(text.replace('"boot": "', '"boot": "0'))
    assert not finisher.run_pass()
    assert not handover.folder.exists()
    assert not main_process._is_kept(running_attempts.running_on(database, working.HERE.worker)[0])
    assert records.get(database, job.id).status == JobState.RUNNING, "its worker returns it"


def test_the_death_of_the_child_or_of_the_worker_leaves_the_job_to_be_finished(
    known: Settings, database: Database, decoded: DECODES, finisher: Finisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = decoded()
    next_one = working.claim(database, accepted(database).id)
    monkeypatch.setattr(process, "role", lambda: "gpu")
    main_process.recover("The worker process died", working.HERE.pid)
    assert records.get(database, next_one.id).status == JobState.QUEUED
    main_process.recover("The worker died")
    assert records.get(database, job.id).phase == Phase.FINISHING
    assert finisher.run_pass()
    assert records.get(database, job.id).status == JobState.SUCCEEDED


def test_a_drained_node_waits_for_the_job_that_is_finished(
    client: TestClient, database: Database, decoded: DECODES, finisher: Finisher
) -> None:
    library.node(database)
    library.device(database)
    job = decoded()
    nodes.drain(database, working.HERE.node)

    def states() -> tuple[str, str, str | None]:
        found = client.get("/api/v1/workers").json()
        device, node = found["devices"][0], found["nodes"][0]
        assert device["job"] is None
        return device["state"], node["state"], device["finishing_job"]

    assert states() == ("draining", "draining", job.id)
    assert 'wanworks_device_finishing{device="0",node="here",uuid="GPU-here-0"} 1.0' in client.get("/metrics").text
    finisher.run_pass()
    assert states() == ("drained", "drained", None)


def test_the_time_of_finishing_is_not_the_owners_device_time(
    known: Settings, database: Database, decoded: DECODES
) -> None:
    job = decoded(owner="key")
    with database.write() as session:
        row = session.get(Job, job.id)
        assert row is not None
        row.mock = False
        session.add(row)
        assert row.started_at is not None
        assert row.released_at is not None
        held = (row.released_at - row.started_at).total_seconds()
        since = row.started_at
    assert gpu_time.gpu_seconds(database, "key", since, clock.now()) == pytest.approx(held, abs=1e-6)


class Watched:
    """A process in the finisher's place, as its watch starts it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[subprocess.Popen[bytes]] = []
        real = subprocess.Popen

        def popen(argv: list[str], **options: Any) -> "subprocess.Popen[bytes]":
            assert argv == [sys.executable, "-m", "workers.processes.finisher"]
            child = real([sys.executable, "-c", "import signal; signal.pause()"], **options)
            self.started.append(child)
            return child

        monkeypatch.setattr(finisher_watch.subprocess, "Popen", popen)


@pytest.fixture
def watched(known: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FinisherWatch, Watched]]:
    monkeypatch.setattr(process, "reporter", lambda: None)
    monkeypatch.setattr(finisher_watch, "_FIRST_START_SECONDS", 0.0)
    children = Watched(monkeypatch)
    watch = FinisherWatch()
    yield watch, children
    watch.stop(0.0)
    for child in children.started:
        assert child.wait(5) is not None


def test_the_process_is_started_again_and_killed_when_it_is_stuck(
    watched: tuple[FinisherWatch, Watched], database: Database, decoded: DECODES, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, children = watched
    watch.watch()
    watch.watch()
    assert len(children.started) == 1
    children.started[0].kill()
    children.started[0].wait()
    wait_for(lambda: (watch.watch(), len(children.started) == 2)[1], 5, "for another process")
    job = decoded()
    monkeypatch.setattr(watch, "_limits", Limits(cancel_grace=0.0, finishing=60.0))
    records.request_cancel(database, job.id)
    watch._judge()
    assert children.started[1].poll() is None, "it has just been started"
    monkeypatch.setattr(watch, "_lease_seconds", 0.0)
    wait_for(lambda: (watch._judge(), children.started[1].poll() is not None)[1], 5, "for its end")


def test_the_process_starts_with_the_first_handover_or_a_while_after_its_worker(
    watched: tuple[FinisherWatch, Watched], known: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, children = watched
    monkeypatch.setattr(finisher_watch, "_FIRST_START_SECONDS", 600.0)
    watch = FinisherWatch()
    watch.watch()
    assert children.started == []
    Handovers(known.home, 0).begin("01890000-0000-7000-8000-000000000000", 1)
    watch.watch()
    assert len(children.started) == 1
    watch.stop(0.0)


def test_the_leases_are_renewed_while_the_process_starts_again(
    watched: tuple[FinisherWatch, Watched], database: Database, decoded: DECODES
) -> None:
    watch, children = watched
    job = decoded()
    with database.write() as session:
        row = session.get(Job, job.id)
        assert row is not None
        row.lease_until = 1.0
        session.add(row)
    assert running_attempts.lapsed(database) == [(job.id, 1)]
    watch.watch()
    assert len(children.started) == 1
    assert running_attempts.lapsed(database) == []


STAGES = {
    "encoding": "workers.generation.finishing.outputs:_encode",
    "playing": "workers.generation.finishing.playback:play",
    "storing": "workers.generation.finishing.ending:_result",
    "ending": "shared.jobs.attempts:succeed",
}


@pytest.mark.parametrize(
    "stage", ["playing", *(pytest.param(one, marks=pytest.mark.slow) for one in ("encoding", "storing", "ending"))]
)
def test_a_killed_process_repeats_from_the_frames(
    stage: str, known: Settings, database: Database, decoded: DECODES, finisher: Finisher, tmp_path: Path
) -> None:
    """A real process is killed while it is in that stage; the next one begins again from the file of frames."""
    job = decoded()
    module, _, name = STAGES[stage].partition(":")
    program = (
        "import importlib, os, signal, sys\n"
        f"sys.argv = ['finisher']; module = importlib.import_module('{module}')\n"
        f"setattr(module, '{name}', lambda *args: os.kill(os.getpid(), signal.SIGKILL))\n"
        "from workers.processes import finisher; finisher.main()\n"
    )
    environment = {
        **os.environ, "WANWORKS_HOME": str(known.home), "WANWORKS_CATALOGUE": "demo", "WANWORKS_DEVICE": "cpu:0",
        "WANWORKS_NODE": working.HERE.node, "WANWORKS_REDIS_URL": known.redis or "", "WANWORKS_MIN_FREE_DISK_MB": "0",
    }  # fmt: skip
    child = subprocess.run([sys.executable, "-c", program], env=environment, timeout=60, capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert records.get(database, job.id).phase == Phase.FINISHING
    assert finisher.run_pass()
    ended = records.get(database, job.id)
    assert (ended.status, ended.attempt, ended.failures) == (JobState.SUCCEEDED, 1, 0)
    assert ended.result is not None
    assert sorted(one["name"] for one in ended.result["artifacts"]) == files(known.store_dir / "artifacts")


def test_celerys_listeners_hear_of_the_end_and_a_missing_redis_costs_a_moment(
    known: Settings, database: Database, decoded: DECODES, finisher: Finisher, redis_server: RedisServer
) -> None:
    job = decoded()
    seen: list[dict[str, Any]] = []
    app = celery_app(known, "test")
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"task-succeeded": seen.append})
        with receiver.consumer_context() as (used, _, _):
            drain(used)  # subscribes
            finisher.run_pass()
            wait_for(lambda: (drain(used), seen)[1], 10, "for the event")
    assert (seen[0]["uuid"], seen[0]["hostname"]) == (job.id, working.HERE.worker)
    redis_server.kill()
    away = known.model_copy(update={"redis_url": SecretStr(redis_server.url)})
    began = time.monotonic()
    finisher_process.TaskEvents(celery_app(away, "test"), "gpu-0@here").ended(job, JobState.SUCCEEDED)
    assert time.monotonic() - began < 8


def drain(connection: Any) -> None:
    with suppress(TimeoutError):
        connection.drain_events(timeout=0.1)
