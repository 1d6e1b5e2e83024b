"""`wanworks up` and the commands of single processes: check and prepare the host, then start the processes.

In this order: settings, locks, ports, Redis's address, devices, schema, the store's marker, and finally the processes.
"""

import fcntl
import http.client
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from shared.catalogue import models
from shared.settings import Settings, load
from wanworks.errors import AlreadyRunning, ConfigurationError
from wanworks.home import home_folder
from wanworks.net import proxies
from wanworks.net.addresses import is_loopback
from wanworks.supervise import programs
from wanworks.supervise.embedded_redis import EmbeddedRedis, embedded_redis, running_redis
from wanworks.supervise.locks import hold_device, hold_home
from wanworks.supervise.ports import free_port, is_free
from wanworks.supervise.process_reports import ProcessReports
from wanworks.supervise.state_file import Addresses, read_state, write_state
from wanworks.supervise.supervisor import STOP_SIGNALS, ProcessState, ProcessStatus, Supervisor

_READY_COMPLAINT_SECONDS = 60.0
REDIS_WAIT_SECONDS = 15.0  # for a single process beside a Redis that is just starting


def up(overrides: Mapping[str, Any], only: Collection[str] = (), *, redis_wait: float = 0.0) -> None:
    """Supervise this node's processes until SIGINT or SIGTERM.

    `overrides` are settings given as options; `only` names kinds of processes (empty: all); `redis_wait` is how many
    seconds to wait for a Redis that another process of this home starts.
    Raises ConfigurationError, AlreadyRunning, DatabaseUnavailable or StoreMismatch before anything is started.
    """
    settings = _settings(overrides)
    for complaint in proxies.complaints():
        log(complaint)
    settings, kinds = _with_hub(settings, chosen_kinds(only))
    alone = [kind for kind in kinds if kind not in ("gpu", "redis")]  # those have their own locks, below
    try:
        locks = [hold_home(settings.home, name) for name in ("up", *alone)]
    except AlreadyRunning as error:
        raise _already_running(settings.home, error) from None
    settings = _with_ports(settings, kinds)
    _tell(f"starting on the home {settings.home}; it is usually ready within 20 s")
    settings, redis = _with_redis(settings, kinds, locks, redis_wait)
    listing = programs.start_listing_devices(settings) if "gpu" in kinds else None
    try:
        bring_up_to_date(settings, create_store=_owns_store(settings, kinds))
        check_guarded(settings, kinds)
    finally:
        devices = programs.listed_devices(listing) if listing else ()
    locks += [hold_device(device.lock_key(settings), f"{device.label} of node {settings.node}") for device in devices]
    board = _Board(settings, kinds, devices)
    reports = ProcessReports(settings.database, settings.node)

    def publish(processes: Sequence[ProcessStatus]) -> None:
        board.publish(processes)
        reports.publish(processes)

    supervisor = Supervisor(programs.programs(settings, kinds, devices, redis), publish=publish, log=log)
    # Block signals before the first thread, which inherits the mask. Otherwise a signal that arrives while the main
    # thread is not waiting goes to another thread, where it is lost or ends the process. The mask stays to the end.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *STOP_SIGNALS})
    reports.start()
    try:
        supervisor.run(board.is_ready, board.announce, lambda: _tell("stopping; running jobs return to the queue"))
    finally:
        reports.stop()
        for lock in locks:
            os.close(lock)
    _tell("stopped")


def alone(kind: str, overrides: Mapping[str, Any]) -> None:
    """Become one process, for a process manager that restarts it. Does not return. Raises as `up` does."""
    settings = _settings(overrides)
    hold_home(settings.home, kind, across_exec=True)
    if kind == "redis":
        redis = embedded_redis(settings.home)
        redis.prepare()
        _become(redis.argv, dict(os.environ), settings.home)
    if settings.redis is None:
        settings = load(**{**_given(settings), "redis_url": _await_redis(settings.home, REDIS_WAIT_SECONDS)})
    settings = _with_ports(settings, (kind,))
    bring_up_to_date(settings, create_store=_owns_store(settings, (kind,)))
    check_guarded(settings, (kind,))
    _become(programs.command(kind), programs.environment(settings, kind), settings.home)


def bring_up_to_date(settings: Settings, *, create_store: bool) -> None:
    """Migrate the schema and check the store's marker.

    Raises DatabaseUnavailable, StoreUnavailable, StoreMismatch; ConfigurationError if a bucket refuses access.
    """
    from shared.cluster.nodes import agreed
    from shared.database.engine import Database, migrate
    from shared.storage.store import open_store

    lock = os.open(settings.home / "run" / "migrate.lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes of one home that start at once wait for each other
        migrate(settings.database)
        database = Database(settings.database)
        try:
            open_store(settings, lambda: agreed(database, "store"), create=create_store)
        finally:
            database.close()
    finally:
        os.close(lock)


def check_guarded(settings: Settings, kinds: Collection[str]) -> None:
    """Raise ConfigurationError if the API would listen on a network and there is no API key."""
    from shared.access.keys import any_good
    from shared.database.engine import Database

    if "web" not in kinds or is_loopback(settings.host):
        return
    database = Database(settings.database)
    try:
        if any_good(database):
            return
    finally:
        database.close()
    raise ConfigurationError(
        f"WANWORKS_HOST: {settings.host} is reachable from other hosts, but there is no API key yet; create one first: "
        "wanworks keys create NAME --scope admin"
    )


def chosen_kinds(only: Collection[str]) -> tuple[str, ...]:
    """Return the kinds of processes to run. Raises ConfigurationError for an unknown one."""
    unknown = sorted(set(only) - set(programs.KINDS))
    if unknown:
        raise ConfigurationError(f"--only: {unknown[0]!r} is not one of {', '.join(programs.KINDS)}")
    return tuple(kind for kind in programs.KINDS if not only or kind in only)


def log(line: str) -> None:
    """Print a line on stderr."""
    with suppress(OSError):  # a closed terminal must not stop the stack that was started from it
        print(f"wanworks: {line}", file=sys.stderr, flush=True)


def _tell(line: str) -> None:
    """Print a line on stderr for the person who looks on; a log, or a program that reads `ready`, has no need of it."""
    if sys.stderr.isatty() and sys.stdout.isatty():
        log(line)


class _Board:
    """Publishes the state: the state file, and the line that reports readiness."""

    def __init__(self, settings: Settings, kinds: Sequence[str], devices: Sequence[programs.NodeDevice]) -> None:
        self._settings = settings
        self._kinds = kinds
        self._processes: Sequence[ProcessStatus] = ()
        self._ready = False
        self._begun = time.monotonic()
        self._complained = False
        host = _reachable(settings.host)
        self._addresses = Addresses(
            api_url=f"http://{host}:{settings.port}" if "web" in kinds else None,
            redis_url=settings.redis or "",
            database_url=settings.database,
            flower_url=_flower_url(settings) if "flower" in kinds else None,
            flower_user=settings.flower_user if "flower" in kinds else None,
            catalogue=settings.catalogue,
            devices={device.name: device.label for device in devices},
        )

    def publish(self, processes: Sequence[ProcessStatus]) -> None:
        self._processes = processes
        settings = self._settings
        write_state(settings.home, settings.node, os.getpid(), self._addresses, processes, self._ready)

    def is_ready(self) -> bool:
        """Return whether every kind of job that this node has workers for would start; without the API, whether every
        process runs."""
        reasons = self._missing()
        if reasons and not self._complained and time.monotonic() - self._begun > _READY_COMPLAINT_SECONDS:
            self._complained = True
            log(
                f"not ready after {_READY_COMPLAINT_SECONDS:g} s: {reasons}; logs are in {self._settings.home / 'logs'}"
            )
        return not reasons

    def announce(self) -> None:
        self._ready = True
        self.publish(self._processes)
        where = self._addresses.api_url or self._settings.node
        print(f"ready {where}", flush=True)
        if sys.stdout.isatty():
            print("\n".join(self._welcome()), flush=True)

    def _missing(self) -> str:
        late = [process.name for process in self._processes if process.state is not ProcessState.RUNNING]
        if self._addresses.api_url is None:
            return f"{', '.join(late)} not running" if late or not self._processes else ""
        status, body = _readyz(self._settings)
        whole = {"web", "gpu", "dispatcher"} <= set(self._kinds)
        wanting = [one for one in body.get("reasons") or [] if "io" in self._kinds or one != "no_io_worker"]
        if status == http.client.OK and (not whole or not wanting):
            return ""
        return str(wanting or body.get("detail") or f"{', '.join(late) or 'web'} not running")

    def _welcome(self) -> list[str]:
        api, flower = self._addresses.api_url, self._addresses.flower_url
        lines = [f"  Live page {api}/", f"  API docs  {api}/docs"] if api else []
        if api and flower:
            lines.append(f"  Flower    {api}/flower/")
        return [*lines, *self._for_commands(), "  Ctrl-C stops everything; no job is lost."]

    def _for_commands(self) -> list[str]:
        """Return what another terminal needs so that `wanworks` is found there, and this stack by it."""
        needed = []
        if shutil.which("wanworks") is None and (programs_folder := Path(sys.executable).parent / "wanworks").exists():
            needed.append(f'PATH="{programs_folder.parent}:$PATH"')
        if home_folder(None) != self._settings.home:
            needed.append(f'WANWORKS_HOME="{self._settings.home}"')
        return [f"  Commands  export {' '.join(needed)}"] if needed else []


def _already_running(home: Path, error: AlreadyRunning) -> AlreadyRunning:
    """Return the error, with where the present `up` can be reached and stopped."""
    state = read_state(home)
    if state is None or not state["running"]:
        return error
    at = f", at {state['api_url']}" if state["api_url"] else ""
    return AlreadyRunning(f"{error.message}{at}; end it with Ctrl-C or `kill {state['pid']}`")


def _settings(overrides: Mapping[str, Any]) -> Settings:
    settings = load(**overrides)
    if settings.catalogue not in ("default", "demo"):
        settings = load(**{**overrides, "catalogue": str(Path(settings.catalogue).expanduser().absolute())})
    models.load(settings.catalogue)  # refuse an invalid file here, with its line, and not in every process
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    programs.flower_password(settings)
    return settings


def _owns_store(settings: Settings, kinds: Collection[str]) -> bool:
    """Return whether to create a missing store: with the API, or with SQLite, which means a single node."""
    return "web" in kinds or settings.database_url is None


def _given(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.model_fields_set}


def _with_ports(settings: Settings, kinds: Collection[str]) -> Settings:
    """Return the settings with free ports instead of 0. Raises AlreadyRunning for a port in use."""
    given = _given(settings)
    for kind, name, option in (("web", "port", "--port"), ("flower", "flower_port", "--flower-port")):
        if kind not in kinds:
            continue
        port = getattr(settings, name)
        host = settings.host if kind == "web" else settings.flower_host
        if port == 0:
            given[name] = free_port(host)
        elif not is_free(host, port):
            raise AlreadyRunning(
                f"port {port} on {host} is in use; choose another: {_with_port(name, option, host, port)}"
            )
    return load(**given)


def _with_port(name: str, option: str, host: str, taken: int) -> str:
    """Return how to start on another port, by each of the ways to start, with the next one that is free."""
    free = next((port for port in range(taken + 1, min(taken + 100, 65536)) if is_free(host, port)), None)
    other = "PORT" if free is None else str(free)
    variable = name.upper()
    return f"`make up {variable}={other}`, `wanworks up {option} {other}`, or set WANWORKS_{variable}={other}"


def _with_hub(settings: Settings, kinds: tuple[str, ...]) -> tuple[Settings, tuple[str, ...]]:
    """Return the settings with the demo's own hub, if the demo's catalogue is used and no other hub is set."""
    if settings.catalogue != "demo" or "hub_url" in settings.model_fields_set or "web" not in kinds:
        return settings, tuple(kind for kind in kinds if kind != "hub")
    url = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    return load(**{**_given(settings), "hub_url": url}), (*kinds, *(() if "hub" in kinds else ("hub",)))


def _with_redis(
    settings: Settings, kinds: Collection[str], locks: list[int], wait: float
) -> tuple[Settings, EmbeddedRedis | None]:
    """Return the settings with Redis's URL, and the embedded Redis if it starts here; add its lock to `locks`."""
    if settings.redis is not None:
        return settings, None
    if {"redis", "web"} & set(kinds):
        try:
            locks.append(hold_home(settings.home, "redis"))
        except AlreadyRunning:
            if "redis" in kinds:
                raise
        else:
            redis = embedded_redis(settings.home)
            return load(**{**_given(settings), "redis_url": redis.url}), redis
    # A node with workers only must not start one, because the dispatcher would use another.
    return load(**{**_given(settings), "redis_url": _await_redis(settings.home, wait)}), None


def _await_redis(home: Path, seconds: float) -> str:
    deadline = time.monotonic() + seconds
    while (url := running_redis(home)) is None:
        if time.monotonic() >= deadline:
            raise ConfigurationError(
                "WANWORKS_REDIS_URL is not set, and no `wanworks redis` runs on this home; with --only, add redis to it"
            )
        time.sleep(0.1)
    return url


def _become(argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
    os.chdir(cwd)
    os.execvpe(argv[0], list(argv), dict(env))


def _reachable(host: str) -> str:
    """Return the address to reach a server that listens on `host`."""
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _flower_url(settings: Settings) -> str:
    return f"http://{_reachable(settings.flower_host)}:{settings.flower_port}{settings.public_path}/flower"


def _readyz(settings: Settings) -> tuple[int, dict[str, Any]]:
    host = _reachable(settings.host).strip("[]")
    connection = http.client.HTTPConnection(host, settings.port, timeout=2.0)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = json.loads(response.read())
        return response.status, body if isinstance(body, dict) else {}
    except (OSError, http.client.HTTPException, ValueError):
        return 0, {}
    finally:
        connection.close()
