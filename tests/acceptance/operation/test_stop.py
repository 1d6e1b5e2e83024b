"""Ctrl-C on `wanworks up`, idle and busy: all of it ends within ten seconds, and nothing has to be killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.stack import Stack, wait_for

pytestmark = pytest.mark.slow

PROMISED_SECONDS = 10.0
LONG = {"resolution": "256x256", "frames": 17, "steps": 60}


class Started:
    """A stack whose complaints are kept."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        self._errors = folder / "up.err"
        with self._errors.open("w") as errors:
            # A shell that runs the tests in the background has them, and all that they start, ignore Ctrl-C.
            heeding = (
                "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
                "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
            )
            argv = [
                sys.executable,
                "-c",
                heeding,
                "-m",
                "wanworks.cli.main",
                "up",
                "--home",
                str(stack.home),
                "--devices",
                "cpu:2",
            ]
            argv += ["--catalogue", "demo", "--port", "0", "--flower-port", "0"]
            self.process = subprocess.Popen(
                argv, env=stack.environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        stack.process = self.process

    def ready(self) -> None:
        assert self.process.stdout is not None
        self.stack.url = self.process.stdout.readline().split()[1]

    def stop(self, *signals: signal.Signals) -> float:
        """Seconds until everything has ended; nothing was killed and nothing is left."""
        began = time.monotonic()
        for number in signals:
            self.process.send_signal(number)
        self.process.wait(timeout=40)
        seconds = time.monotonic() - began
        self.stack.process = None
        said = self._errors.read_text()
        assert "was killed" not in said, said + self.stack.logs()
        assert self.stack.processes() == []
        print(f"\nstopped in {seconds:.2f} s")
        assert seconds < PROMISED_SECONDS, self.stack.logs()
        return seconds


@pytest.fixture
def begin(demo_models: Path, tmp_path: Path) -> Callable[[], Started]:
    return lambda: Started(Stack(tmp_path / "home", demo_models), tmp_path)


@pytest.mark.parametrize("turn", range(10))
def test_idle(begin: Callable[[], Started], turn: int) -> None:
    started = begin()
    started.ready()
    started.stop(signal.SIGINT)


@pytest.mark.parametrize("turn", range(10))
def test_with_jobs_that_run_and_jobs_that_wait(begin: Callable[[], Started], turn: int) -> None:
    started = begin()
    started.ready()
    stack = started.stack
    ids = [stack.submit(**LONG, seed=place) for place in range(5)]
    wait_for(lambda: sum(stack.job(job_id)["status"] == "running" for job_id in ids) == 2, 90, "for two running jobs")
    started.stop(signal.SIGINT)
    assert stack.sql("select distinct status from jobs where type = 'generation'") == [("queued",)]
    assert stack.sql("select sum(failures) from jobs") == [(0,)], "a job that is given back has done nothing wrong"


def test_with_clients_that_listen(begin: Callable[[], Started]) -> None:
    """An event stream, a WebSocket and a slow download do not hold up the web process."""
    import httpx2
    from websockets.sync.client import connect

    started = begin()
    started.ready()
    stack = started.stack
    job_id = stack.submit(**LONG)
    stack.wait_status(job_id, ["running"])
    with (
        httpx2.stream("GET", f"{stack.url}/api/v1/jobs/{job_id}/events", timeout=30) as events,
        connect(stack.url.replace("http", "ws") + "/api/v1/dashboard/ws") as feed,
    ):
        next(iter(events.iter_lines()))
        feed.recv(timeout=10)
        started.stop(signal.SIGINT)


@pytest.mark.parametrize("after", [0.7, 1.5, 3.0, 5.0])
def test_during_the_start(begin: Callable[[], Started], after: float) -> None:
    """Wherever the start has come to by then."""
    started = begin()
    time.sleep(after)  # the moment itself is what is tried here
    started.stop(signal.SIGINT)


def test_an_impatient_second_and_third_one(begin: Callable[[], Started]) -> None:
    started = begin()
    started.ready()
    began = time.monotonic()
    started.process.send_signal(signal.SIGINT)
    while started.process.poll() is None and time.monotonic() - began < 40:
        started.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    started.stop()
    assert time.monotonic() - began < PROMISED_SECONDS
    assert started.process.returncode == 0


def test_no_thread_of_the_supervisor_lets_a_stop_through(begin: Callable[[], Started]) -> None:
    """The kernel gives a signal to any thread that does not block it; only the main thread waits for these."""
    started = begin()
    started.ready()
    masks = {
        task.name: int((task / "status").read_text().split("SigBlk:")[1].split()[0], 16)
        for task in Path(f"/proc/{started.process.pid}/task").iterdir()
    }
    assert len(masks) > 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        others = [mask for task, mask in masks.items() if int(task) != started.process.pid]
        assert all(mask & (1 << (number - 1)) for mask in others), (number, masks)
    started.stop(signal.SIGTERM)
