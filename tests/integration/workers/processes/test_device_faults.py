"""A CUDA error in a real worker: its child ends, the job is given back, and the next job runs in a new process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlmodel import col, select

from scheduler.sender import celery_sender
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import DeviceFault
from shared.jobs import device_faults, dispatch, records
from shared.settings import Settings
from shared.states import JobState
from shared.storage.store import open_store
from tests.support.jobs import DEMO, accepted, hold
from tests.support.models.generating import snapshots
from tests.support.places import ROOT
from tests.support.stack import wait_for

KEY = "n/0"


@pytest.fixture
def orders(settings: Settings) -> Path:
    """Return the folder whose files order faults (`tests/soak/injection/sitecustomize.py`)."""
    folder = settings.home / "soak"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def worker(settings: Settings, database: Database, orders: Path, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A real worker of device n/0, with the demo models."""
    settings = settings.model_copy(
        update={
            "node": "n",
            "models_path": snapshots()["T2V-A14B"].parent.parent.parent,
            "catalogue": "demo",
            "retry_backoff_seconds": 0.0,
        }
    )
    open_store(settings, lambda: nodes.agreed(database, "store"), create=True)
    environment = {
        f"WANWORKS_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in settings.model_dump(exclude_none=True).items()
    }
    environment |= {
        "WANWORKS_DEVICE": "cpu:0",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(ROOT / "tests" / "soak" / "injection"),
    }
    with (tmp_path / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.app", "gpu"],
            env={**os.environ, **environment}, cwd=ROOT, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for(lambda: any(not seen.deregistered for seen in nodes.devices(database)), 60, "for the worker")
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def run(settings: Settings, database: Database) -> Callable[[str], None]:
    send = celery_sender(settings)

    def begin(job_id: str) -> None:
        hold(database, *DEMO.model_ids, node="n")
        dispatch.mark_dispatched(database, [(job_id, KEY)])
        waiting = next(job for job in dispatch.read_queue(database).waiting if job.job_id == job_id)
        send(waiting, KEY, 1)

    return begin


def faults(database: Database) -> list[DeviceFault]:
    with database.read() as session:
        return list(session.exec(select(DeviceFault).order_by(col(DeviceFault.id))))


@pytest.mark.slow
def test_the_job_after_a_cuda_error_runs_in_a_new_process(
    worker: "subprocess.Popen[bytes]", database: Database, orders: Path, run: Callable[[str], None]
) -> None:
    first, struck = accepted(database), accepted(database)
    run(first.id)
    wait_for(lambda: records.get(database, first.id).finished_at, 120, "for a job without a fault")
    assert records.get(database, first.id).status == JobState.SUCCEEDED
    wait_for(lambda: nodes.warm(database, KEY), 30, "for the loaded model to be recorded after the end")
    (orders / "cuda-denoising-1").touch()
    run(struck.id)
    (fault,) = wait_for(lambda: faults(database), 60, "for the fault")
    assert (fault.kind, fault.job_id, fault.device_key) == ("cuda_error", struck.id, KEY)
    assert fault.detail == "CUDA error: an illegal memory access was encountered"
    back = records.get(database, struck.id)
    assert (back.status, back.failures, back.attempt) == (JobState.QUEUED, 1, 1)
    assert fault.pid == records.get(database, first.id).pid, "the process of the job before"
    assert fault.pid is not None
    wait_for(lambda: not Path(f"/proc/{fault.pid}").exists(), 20, "for the process to end")
    assert nodes.warm(database, KEY) == []
    run(struck.id)
    wait_for(lambda: records.get(database, struck.id).finished_at, 120, "for the job to succeed")
    after = records.get(database, struck.id)
    assert (after.status, after.attempt, after.failures) == (JobState.SUCCEEDED, 2, 1)
    assert after.pid not in (None, fault.pid)
    assert worker.poll() is None, "the main process stays"
    assert device_faults.counts(database) == {}, "the success has reset them"
    assert len(faults(database)) == 1


@pytest.mark.slow
def test_a_killed_child_counts_and_an_out_of_memory_does_not(
    worker: "subprocess.Popen[bytes]", database: Database, orders: Path, run: Callable[[str], None]
) -> None:
    (orders / "oom-denoising-1").touch()
    short = accepted(database)
    run(short.id)
    wait_for(lambda: records.get(database, short.id).finished_at, 120, "for the job that lacked memory")
    assert faults(database) == []
    (orders / "pipeline-segv-1").touch()
    job = accepted(database)
    run(job.id)
    (fault,) = wait_for(lambda: faults(database), 60, "for the fault")
    assert (fault.kind, fault.job_id) == ("process_death", job.id)
    assert records.get(database, job.id).failures == 1
    worker.send_signal(signal.SIGTERM)
    worker.wait(30)
    assert len(faults(database)) == 1, "a stop is no fault"
