"""The whole system as a user starts it with `wanworks up`. Every wait has a deadline."""

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")

QUICK: dict[str, Any] = {"model_id": "T2V-A14B", "prompt": "a cat", "resolution": "64x64", "frames": 9, "steps": 2}
ENDS = ("succeeded", "failed", "cancelled")

# Short, so that a test sees in seconds what takes minutes in life.
FAST = {
    "WANWORKS_LEASE_SECONDS": "8",
    "WANWORKS_HEARTBEAT_SECONDS": "1",
    "WANWORKS_RETRY_BACKOFF_SECONDS": "0.2",
    "WANWORKS_DEVICE_SILENCE_SECONDS": "10",
    "WANWORKS_REDISPATCH_SECONDS": "4",
    "WANWORKS_MAX_FAILURES": "3",
    "WANWORKS_MIN_FREE_DISK_MB": "0",
    "WANWORKS_DOWNLOAD_SLOTS": "1",  # a process each, in every stack
    "WANWORKS_HUB_URL": "http://127.0.0.1:9",  # nobody there: most tests have their models already
}


def wait_for(what: Callable[[], T | None], seconds: float = 60.0, why: str = "", every: float = 0.05) -> T:
    """Poll until the result is true, and return it. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = what()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"still waiting after {seconds} s {why}"
        time.sleep(every)


class Stack:
    """One installation in one folder."""

    def __init__(self, home: Path, models: Path, devices: str = "cpu:1", **environment: str) -> None:
        self.home = home
        self.devices = devices
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WANWORKS_")},
            **FAST,
            "WANWORKS_MODELS_PATH": str(models),
            "WANWORKS_NODE": "here",
            **environment,
        }
        self.environment = {name: value for name, value in self.environment.items() if value}
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self.key: str | None = None  # an API key, where one was made

    def cli(self, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """`wanworks` on this home."""
        known = {**self.environment, "WANWORKS_HOME": str(self.home), **environment}
        argv = [sys.executable, "-m", "wanworks.cli.main", *words]
        return subprocess.run(argv, env=known, capture_output=True, text=True, timeout=120)

    def start(self, *options: str, seconds: float = 60.0) -> float:
        """Returns when the stack says that it is ready; how long that took, in seconds."""
        began = time.monotonic()
        argv = [sys.executable, "-m", "wanworks.cli.main", "up", "--home", str(self.home), "--devices", self.devices]
        argv += ["--catalogue", "demo", "--port", "0", "--flower-port", "0", *options]
        self.process = subprocess.Popen(argv, env=self.environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready "), (line, self.logs())
        self.url = line.split()[1]
        assert time.monotonic() - began < seconds
        return time.monotonic() - began

    def stop(self, seconds: float = 20.0) -> int:
        """SIGTERM, as a user's Ctrl-C; its exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(seconds)
        self.process = None
        return code

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def state(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.home / "run" / "state.json").read_text())
        return content

    def pid(self, name: str) -> int:
        """Of a process that the supervisor holds to be running."""

        def running() -> int | None:
            found = [item for item in self.state()["processes"] if item["name"] == name]
            return found[0]["pid"] if found and found[0]["state"] == "running" else None

        return wait_for(running, 30, name)

    def wait_running(self) -> None:
        """Waits for every process. Beat and Flower are started after the stack has said that it is ready."""
        for name in [item["name"] for item in self.state()["processes"]]:
            self.pid(name)

    def child(self, worker: str) -> int:
        """The pool child of a GPU worker: the process that holds the device."""

        def spawned() -> int | None:
            for pid in children(self.pid(worker)):
                if "billiard-fork" in command_line(pid):
                    return pid
            return None

        return wait_for(spawned, 30, worker)

    def kill_process(self, name: str) -> None:
        pid = self.child(name.removesuffix("-child")) if name.endswith("-child") else self.pid(name)
        os.kill(pid, signal.SIGKILL)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """As a patient client: a refused connection is tried again."""
        if self.key is not None:
            options["headers"] = {"Authorization": f"Bearer {self.key}", **(options.get("headers") or {})}
        return self._patiently(method, self.url + path, **options)

    def _patiently(self, method: str, url: str, **options: Any) -> httpx.Response:
        def answer() -> httpx.Response | None:
            try:
                return httpx.request(method, url, timeout=70, **options)
            except httpx.TransportError:
                return None

        return wait_for(answer, 40, f"{method} {url}")

    def flower(self, path: str, auth: tuple[str, str] | None = None) -> httpx.Response:
        """Flower's own answer, once it listens; `auth` in place of its user and password."""
        state = self.state()
        auth = auth or (state["flower_user"], (self.home / "flower-password").read_text().strip())
        return self._patiently("GET", state["flower_url"] + path, auth=auth)

    def submit(self, **fields: Any) -> str:
        body = {**QUICK, **fields}
        key = hashlib.sha256(os.urandom(16)).hexdigest()
        response = self.request("POST", "/api/v1/jobs/generation", json=body, headers={"Idempotency-Key": key})
        assert response.status_code in (200, 202), response.text
        job_id: str = response.json()["id"]
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        response = self.request("GET", f"/api/v1/jobs/{job_id}")
        assert response.status_code == 200, response.text
        content: dict[str, Any] = response.json()
        return content

    def wait_status(self, job_id: str, statuses: Sequence[str] = ENDS, seconds: float = 90.0) -> dict[str, Any]:
        return (
            wait_for(lambda: (job := self.job(job_id))["status"] in statuses and job, seconds, f"for {statuses}") or {}
        )

    def wait_all(self, job_ids: Iterable[str], seconds: float = 150.0) -> list[dict[str, Any]]:
        deadline = time.monotonic() + seconds
        return [self.wait_status(job_id, seconds=max(1.0, deadline - time.monotonic())) for job_id in job_ids]

    def sql(self, query: str, *values: Any) -> list[Any]:
        """Reads the SQLite database beside the running system."""
        connection = sqlite3.connect(f"file:{self.home / 'wanworks.db'}?mode=ro", uri=True, timeout=10)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()

    def assert_ended_once(self, jobs: Sequence[dict[str, Any]]) -> None:
        """Succeeded, one use each, and what is served is the winning attempt's, byte for byte."""
        for job in jobs:
            assert job["status"] == "succeeded", job["error"]
            uses = self.sql("select outcome from uses where job_id = ?", job["id"])
            assert uses == [("succeeded",)], job["id"]
            for artifact in job["result"]["artifacts"]:
                served = self.request("GET", artifact["url"])
                assert hashlib.sha256(served.content).hexdigest() == artifact["sha256"]
                winner = self.home / "store" / "artifacts" / job["id"] / str(job["attempt"]) / artifact["name"]
                assert winner.read_bytes() == served.content

    def logs(self) -> str:
        files = sorted((self.home / "logs").glob("*.log")) if (self.home / "logs").is_dir() else []
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-1500:]}" for file in files)

    def processes(self) -> list[int]:
        """Every process on this machine that belongs to this home, by its environment."""
        mark = f"WANWORKS_HOME={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found


def children(pid: int) -> list[int]:
    """The processes that any thread of this one has started."""
    found = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in listed.read_text().split()]
        except OSError:
            continue
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def environment_of(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
