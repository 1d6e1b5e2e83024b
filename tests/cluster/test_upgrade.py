"""An upgrade from an earlier release: its home carries on, and replacing its processes under load loses no job.

``WANWORKS_UPGRADE_FROM=FOLDER make test-cluster``, where FOLDER is a clone of the earlier release after `make setup`.
"""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import RedisServer, _sql, free_port
from tests.support.places import ROOT
from tests.support.stack import ENDS, FAST, wait_for

pytestmark = pytest.mark.cluster

OLD, NEW = Path(os.environ.get("WANWORKS_UPGRADE_FROM", "")), ROOT
KEPT = ("status", "result", "params", "created_at")
VIDEO = {"model_id": "T2V-A14B", "resolution": "64x64", "frames": 9, "steps": 2}


@pytest.fixture(autouse=True)
def _needs_an_earlier_release() -> None:
    if not os.environ.get("WANWORKS_UPGRADE_FROM"):
        pytest.skip("WANWORKS_UPGRADE_FROM names no clone of an earlier release")


class Up:
    """`wanworks up` of one of the two releases."""

    def __init__(self, tree: Path, home: Path, *options: str, **settings: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANWORKS_")}
        fast = {name: value for name, value in FAST.items() if name != "WANWORKS_REDISPATCH_SECONDS"}
        argv = [str(tree / ".venv" / "bin" / "wanworks"), "up", "--home", str(home), "--catalogue", "demo", *options]
        self._log = (home.parent / f"{home.name}.log").open("a+")
        self.process = subprocess.Popen(
            argv, cwd=tree, env={**kept, **fast, **settings}, stdout=self._log, stderr=subprocess.STDOUT
        )
        wait_for(self._is_ready, 90, f"for {argv}")

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, Path(self._log.name).read_text()
        return Path(self._log.name).read_text().count("ready ") > 0

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(30)
        self._log.truncate(0)


class Api:
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def request(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of a good answer; asked again while the server is being replaced."""

        def answer() -> httpx.Response | None:
            try:
                response = httpx.request(method, f"{self._url}{path}", timeout=20, **options)
            except httpx.TransportError:
                return None
            return None if response.status_code == 503 else response

        response = wait_for(answer, 90, f"for {path}")
        assert response.status_code < 300, response.text
        return response.json()

    def submit(self, key: str, **fields: Any) -> str:
        headers = {"Idempotency-Key": key}
        body = {**VIDEO, "prompt": key, **fields}
        return str(self.request("POST", "/api/v1/jobs/generation", json=body, headers=headers)["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        content: dict[str, Any] = self.request("GET", f"/api/v1/jobs/{job_id}")
        return content

    def wait(self, job_id: str, *states: str) -> dict[str, Any]:
        return wait_for(lambda: (job := self.job(job_id))["status"] in states and job, 120, f"for {states}") or {}


def lost(new: Any, old: Any, path: str = "") -> list[str]:
    """Return where `new` lacks what `old` has, or has another value. A later release may add fields."""
    if isinstance(old, dict) and isinstance(new, dict):
        gone = [f"{path}.{name} is gone" for name in old.keys() - new.keys()]
        return gone + [one for name in old.keys() & new.keys() for one in lost(new[name], old[name], f"{path}.{name}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [one for place, pair in enumerate(zip(new, old, strict=True)) for one in lost(*pair, f"{path}.{place}")]
    return [] if new == old else [f"{path}: {new!r} instead of {old!r}"]


def test_a_home_of_an_earlier_release_carries_on(demo_models: Path, tmp_path: Path) -> None:
    """Jobs in every state, an API that was killed, an alert and an audit entry of the earlier release."""
    home, port = tmp_path / "home", free_port()
    options = ("--devices", "cpu:1", "--port", str(port), "--flower-port", "0")
    settings = {"WANWORKS_MODELS_PATH": str(demo_models), "WANWORKS_NODE": "here"}
    old = Up(OLD, home, *options, **settings)
    api = Api(port)
    done = api.submit("done")
    api.wait(done, "succeeded")
    gone = api.submit("gone")
    api.wait(gone, *ENDS)
    long = {"resolution": "256x256", "frames": 17, "steps": 60}
    running = api.submit("running", **long)
    api.wait(running, "running")
    waiting = [api.submit(f"waiting-{place}") for place in range(5)]
    cancelled = api.submit("cancelled")
    api.request("POST", f"/api/v1/jobs/{cancelled}/cancel")
    before = {job_id: api.job(job_id) for job_id in (done, cancelled)}
    old.stop(signal.SIGKILL)

    new = Up(NEW, home, *options, **settings)
    try:
        assert api.submit("done") == done, "the idempotency key is known"
        for job_id, job in before.items():
            found = api.job(job_id)
            assert lost({name: found[name] for name in KEPT}, {name: job[name] for name in KEPT}) == []
        api.request("POST", f"/api/v1/jobs/{running}/cancel")
        for job_id in waiting:
            assert api.wait(job_id, *ENDS)["status"] == "succeeded"
        assert api.wait(running, *ENDS)["status"] == "cancelled"
        video = next(one for one in api.job(done)["result"]["artifacts"] if one["kind"] == "video")
        assert httpx.get(video["url"] if "://" in video["url"] else f"http://127.0.0.1:{port}{video['url']}").content
        assert "T2V-A14B" in api.request("GET", "/api/v1/models/status/detailed")["models"]
    finally:
        new.stop()


@pytest.fixture
def installation(postgresql_server: str, redis_server: RedisServer, demo_models: Path, tmp_path: Path) -> Iterator[Any]:
    """Settings of a head and two nodes on one database, one Redis and one store."""
    redis_server.start() if redis_server.process is None else None
    name = f"upgrade_{time.time_ns()}"
    _sql(postgresql_server, f"CREATE DATABASE {name}")
    models = {node: shutil.copytree(demo_models, tmp_path / f"models-{node}", symlinks=True) for node in ("one", "two")}
    shared = {
        "WANWORKS_DATABASE_URL": postgresql_server.replace("/postgres?", f"/{name}?"),
        "WANWORKS_REDIS_URL": redis_server.url,
        "WANWORKS_STORE_PATH": str(tmp_path / "store"),
    }
    yield {
        "head": {**shared, "WANWORKS_NODE": "head"},
        **{node: {**shared, "WANWORKS_NODE": node, "WANWORKS_MODELS_PATH": str(path)} for node, path in models.items()},
    }
    _sql(postgresql_server, f"DROP DATABASE {name} WITH (FORCE)")


def more(accepted: list[str], count: int) -> Callable[[], bool]:
    """Whether that many more were accepted than there are now."""
    enough = len(accepted) + count
    return lambda: len(accepted) >= enough


def test_replacing_every_process_under_load_loses_nothing(installation: dict[str, Any], tmp_path: Path) -> None:
    port = free_port()

    def up(tree: Path, node: str) -> Up:
        parts = "web,dispatcher,beat" if node == "head" else "gpu,io"
        options = ("--only", parts, *(("--port", str(port)) if node == "head" else ("--devices", "cpu:1")))
        return Up(tree, tmp_path / node, *options, **installation[node])

    running = {node: up(OLD, node) for node in ("head", "one", "two")}
    api, accepted, stop, errors = Api(port), list[str](), threading.Event(), list[BaseException]()

    def load() -> None:
        try:
            while not stop.is_set():
                accepted.append(api.submit(f"job-{len(accepted)}", seed=len(accepted)))
                stop.wait(0.3)
        except BaseException as error:
            errors.append(error)
            raise

    def ended() -> int:
        return sum(api.job(job_id)["status"] in ENDS for job_id in accepted[-40:])

    loading = threading.Thread(target=load)
    loading.start()
    try:
        for node in ("one", "head", "two"):
            wait_for(lambda: len(accepted) >= 5 and ended() >= 3, 120, "for jobs to end before the next step")
            running[node].stop(signal.SIGKILL if node == "one" else signal.SIGTERM)
            running[node] = up(NEW, node)
            wait_for(more(accepted, 5), 120, "for jobs to be accepted after it")
    finally:
        stop.set()
        loading.join(120)
    try:
        assert not errors
        jobs = [api.wait(job_id, *ENDS) for job_id in accepted]
        assert {job["status"] for job in jobs} == {"succeeded"}
        assert len({job["id"] for job in jobs}) == len(accepted) > 20
        assert {job["node"] for job in jobs[-10:]} <= {"one", "two"}
    finally:
        for one in running.values():
            one.stop()
