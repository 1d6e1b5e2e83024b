"""The supervisor with real processes: it restarts what dies, and a stop leaves no process."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.places import ROOT
from wanworks.errors import AlreadyRunning
from wanworks.supervise.child import session_members, spawn, started_ticks
from wanworks.supervise.embedded_redis import answers, embedded_redis
from wanworks.supervise.locks import hold_device, hold_home

# A supervisor in a process of its own, so that the test can kill it. Tells every change as a line of JSON.
DRIVER = """
import json, sys
from pathlib import Path
from wanworks.supervise.supervisor import Policy, Program, Supervisor

wanted = json.loads(sys.argv[1])
folder = Path(wanted["folder"])
programs = [
    Program(
        name, (sys.executable, "-c", code), env={}, cwd=folder, log=folder / f"{name}.log", stop_turn=turn,
        after_ready=name == "later",
    )
    for name, code, turn in wanted["programs"]
]

def publish(processes):
    print(json.dumps({p.name: [p.state, p.pid, p.restarts] for p in processes}), flush=True)

policy = Policy(**{**wanted["policy"], "stop_limits": tuple(wanted["stop_limits"])})
log = lambda line: print(line, file=sys.stderr, flush=True)
supervisor = Supervisor(programs, publish=publish, log=log, policy=policy)
supervisor.run(lambda: (folder / "ready").exists() or not wanted["waits"], lambda: None)
"""

SLEEP = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
WITH_GRANDCHILD = (
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "time.sleep(600)"
)


class Driver:
    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self.errors = errors
        self.latest: dict[str, Any] = {}
        assert process.stdout is not None
        self._output = process.stdout.fileno()
        self._text = ""

    def until(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 15) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([self._output], [], [], 0.1)[0]:
                self._text += os.read(self._output, 65536).decode()
            *lines, self._text = self._text.split("\n")
            for line in lines:
                self.latest = json.loads(line)
                if condition(self.latest):
                    return self.latest
        raise AssertionError(f"not within {seconds} s; last: {self.latest}; said: {self.errors.read_text()}")


@contextmanager
def supervised(
    folder: Path,
    *programs: tuple[str, str, int],
    stop_limits: tuple[float, ...] = (1.0, 1.0, 1.0),
    waits: bool = False,  # until there is a file named ready
    **policy: float,
) -> Iterator[Driver]:
    wanted = {
        "folder": str(folder), "programs": programs, "policy": policy, "stop_limits": stop_limits, "waits": waits,
    }  # fmt: skip
    errors = folder / "supervisor.err"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, json.dumps(wanted)], stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    try:
        yield Driver(process, errors)
    finally:
        process.kill()
        process.communicate()


def all_are(state: str) -> Callable[[dict[str, Any]], bool]:
    return lambda processes: all(entry[0] == state for entry in processes.values())


def gone(pids: list[int], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(started_ticks(pid) for pid in pids):
            return True
        time.sleep(0.01)
    return False


def test_what_is_killed_comes_back_and_counts_as_restarted(tmp_path):
    with supervised(tmp_path, ("a", SLEEP, 0), ("b", SLEEP, 0), settle=0.1) as driver:
        before = driver.until(all_are("running"))
        os.kill(before["a"][1], signal.SIGKILL)
        after = driver.until(lambda processes: processes["a"][0] == "running" and processes["a"][2] == 1)

    assert after["a"][1] != before["a"][1]
    assert after["b"] == before["b"]
    assert "a was killed by SIGKILL; next start in 0.2 s" in driver.errors.read_text()


def test_five_quick_deaths_are_a_crash_loop_that_a_long_life_ends(tmp_path):
    marker = tmp_path / "well"
    code = f"import os, sys, time; os.path.exists({str(marker)!r}) or sys.exit(3); time.sleep(600)"
    with supervised(tmp_path, ("a", code, 0), first_wait=0.01, loop_wait=0.5, window=2.0, settle=0.1) as driver:
        looping = driver.until(lambda processes: processes["a"][0] == "crash_loop")
        assert looping["a"][1:] == [None, 4]
        marker.touch()
        trying = driver.until(lambda processes: processes["a"][1] is not None)
        assert trying["a"][0] == "crash_loop"
        driver.until(all_are("running"))

    assert "a ended with code 3" in driver.errors.read_text()
    assert "a has recovered" in driver.errors.read_text()


def test_what_may_wait_starts_once_the_others_are_ready(tmp_path):
    with supervised(tmp_path, ("a", SLEEP, 0), ("later", SLEEP, 0), waits=True, settle=0.1, ready_limit=600) as driver:
        before = driver.until(lambda processes: processes["a"][0] == "running")
        assert before["later"] == ["stopped", None, 0]
        (tmp_path / "ready").touch()
        driver.until(all_are("running"))


def test_what_may_wait_starts_late_where_nothing_becomes_ready(tmp_path):
    with supervised(tmp_path, ("a", SLEEP, 0), ("later", SLEEP, 0), waits=True, settle=0.1, ready_limit=0.5) as driver:
        driver.until(all_are("running"))
        os.kill(driver.latest["later"][1], signal.SIGKILL)
        driver.until(lambda processes: processes["later"][0] == "running" and processes["later"][2] == 1)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_goes_turn_by_turn_and_leaves_nothing_even_of_the_deaf(tmp_path, stop):
    with supervised(
        tmp_path, ("deaf", DEAF, 0), ("family", WITH_GRANDCHILD, 1), ("last", SLEEP, 2), settle=0.1
    ) as driver:
        running = driver.until(all_are("running"))
        sessions = [entry[1] for entry in running.values()]
        wait_for(lambda: "deaf" in (tmp_path / "deaf.log").read_text())
        wait_for(lambda: len(session_members(running["family"][1])) == 2)
        begun = time.monotonic()
        driver.process.send_signal(stop)
        driver.process.send_signal(stop)  # an impatient second one changes nothing
        assert driver.process.wait(timeout=10) == 0
        assert 1.0 <= time.monotonic() - begun < 4.0
        assert not any(session_members(session) for session in sessions)

    assert "deaf did not stop in time and was killed" in driver.errors.read_text()
    assert "family did not stop" not in driver.errors.read_text()


def test_kill_9_of_the_supervisor_takes_its_children_along(tmp_path):
    with supervised(tmp_path, ("a", SLEEP, 0), ("b", DEAF, 0), settle=0.1) as driver:
        running = driver.until(all_are("running"))
        driver.process.kill()
        assert gone([entry[1] for entry in running.values()])


def test_a_dead_process_leaves_no_grandchildren_to_its_successor(tmp_path):
    with supervised(tmp_path, ("family", WITH_GRANDCHILD, 0), settle=0.1) as driver:
        first = driver.until(all_are("running"))["family"][1]
        wait_for(lambda: len(session_members(first)) == 2)
        os.kill(first, signal.SIGKILL)
        driver.until(lambda processes: processes["family"][2] == 1 and processes["family"][1] is not None)
        assert session_members(first) == []


def test_a_long_log_is_set_aside_when_its_process_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("wanworks.supervise.child.LOG_LIMIT_BYTES", 100)
    log = tmp_path / "logs" / "a.log"
    for _ in range(3):
        spawn([sys.executable, "-c", "print('x' * 80)"], env={}, cwd=tmp_path, log=log).wait()

    assert (len(log.read_text()), len((tmp_path / "logs" / "a.log.1").read_text())) == (81, 162)


def test_a_child_starts_with_default_signal_handling(tmp_path):
    held = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        child = spawn(["/bin/cat", "/proc/self/status"], env={}, cwd=tmp_path, log=tmp_path / "status.log")
        assert child.wait(timeout=10) == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    status = dict(line.split(":\t", 1) for line in (tmp_path / "status.log").read_text().splitlines() if ":\t" in line)
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigIgn"], 16) & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)) == 0
    assert int(status["Pid"]) == child.pid


def test_what_cannot_be_started_is_an_error_and_no_process(tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        spawn([str(tmp_path / "no-such-program")], env={}, cwd=tmp_path)
    unreadable = tmp_path / "program"
    unreadable.write_bytes(b"\x7fELF and nothing more")
    unreadable.chmod(0o755)
    assert spawn([str(unreadable)], env={}, cwd=tmp_path, log=tmp_path / "log").wait(timeout=10) == 127
    assert "cannot be executed" in (tmp_path / "log").read_text()


def test_no_code_of_ours_runs_between_fork_and_exec():
    """Beside threads it can hang for ever on a lock that one of them holds."""
    folders = ("api", "scheduler", "shared", "wanworks", "workers", "tests")
    word = "preexec" + "_fn"
    assert [file for folder in folders for file in (ROOT / folder).rglob("*.py") if word in file.read_text()] == []


def test_a_child_dies_with_a_parent_that_died_while_it_was_starting(tmp_path):
    """The launcher is held by SIGSTOP before it runs; by the time it goes on, its parent is another."""
    code = (
        "import os, signal, sys; from pathlib import Path; from wanworks.supervise.child import spawn\n"
        "child = spawn(['/bin/sleep', '600'], env={}, cwd=Path('/'), log=Path(sys.argv[1]))\n"
        "os.kill(child.pid, signal.SIGSTOP); print(child.pid, flush=True); os._exit(0)"
    )
    parent = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "log")], capture_output=True, text=True, timeout=20
    )
    pid = int(parent.stdout)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    assert gone([pid])


def test_a_home_is_held_once_and_let_go_with_its_holder(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from wanworks.supervise.locks import hold_home\n"
            "hold_home(Path(sys.argv[1]), 'up'); print('held', flush=True); time.sleep(600)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(AlreadyRunning, match=f"'up' is already running on the home {tmp_path}"):
            hold_home(tmp_path, "up")
    finally:
        holder.kill()
        holder.communicate()
    os.close(hold_home(tmp_path, "up"))


def test_a_device_is_held_once_on_the_host():
    key = f"GPU-of-a-test-{os.getpid()}"
    held = hold_device(key, "cuda:0")
    try:
        with pytest.raises(AlreadyRunning, match="cuda:0 already has a worker on this host"):
            hold_device(key, "cuda:0")
    finally:
        os.close(held)


def test_embedded_redis_requires_its_password_and_keeps_data_port_and_password_over_kill_9(tmp_path):
    redis = embedded_redis(tmp_path)
    with started(redis.argv, redis.prepare, redis.url) as server:
        assert ask(redis.url, "SET", "key", "value", password=False).startswith("-NOAUTH")
        assert ask(redis.url, "SET", "key", "value") == "+OK"
        server.kill()
        server.wait()
    again = embedded_redis(tmp_path)
    assert again.url == redis.url
    with started(again.argv, again.prepare, again.url):
        assert ask_bulk(again.url, "GET", "key") == "value"
    assert (tmp_path / "redis-password").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "redis" / "redis.conf").stat().st_mode & 0o777 == 0o600
    password = (tmp_path / "redis-password").read_text().strip()
    assert password not in " ".join(again.argv)


def test_embedded_redis_starts_again_after_its_folder_was_deleted(tmp_path):
    redis = embedded_redis(tmp_path)
    with started(redis.argv, redis.prepare, redis.url) as server:
        server.kill()
        server.wait()
    for path in sorted((tmp_path / "redis").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "redis").rmdir()
    with started(redis.argv, redis.prepare, redis.url):
        assert ask_bulk(redis.url, "GET", "key") == ""


@contextmanager
def started(argv: tuple[str, ...], prepare: Callable[[], None], url: str) -> Iterator[subprocess.Popen[bytes]]:
    prepare()
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(url))
        yield server
    finally:
        server.kill()
        server.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def ask(url: str, *words: str, password: bool = True) -> str:
    return _reply(url, words, password)[0]


def ask_bulk(url: str, *words: str) -> str:
    return "\n".join(_reply(url, words, True)[1:])


def _reply(url: str, words: tuple[str, ...], password: bool) -> list[str]:
    secret, _, address = url.removeprefix("redis://:").partition("@")
    host, _, port = address.partition("/")[0].partition(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        file = connection.makefile("rwb")
        if password:
            file.write(f"AUTH {secret}\r\n".encode())
            file.flush()
            assert file.readline() == b"+OK\r\n"
        file.write((" ".join(words) + "\r\nQUIT\r\n").encode())
        file.flush()
        return file.read().decode().removesuffix("+OK\r\n").split("\r\n")[:-1]
