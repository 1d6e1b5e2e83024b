"""The faults: the name of each, how it is caused and how it is undone. One row is one fault."""

import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.soak.history import Recorder
from tests.soak.installation import Installation, start_ticks
from tests.soak.plan import Strike
from tests.soak.receiver import Receiver
from tests.soak.rules.job_rules import UNFORESEEN_ERROR

_SUPERVISED = ("web", "gpu-0", "gpu-1", "io", "dispatcher", "beat", "flower", "redis")
_WITH_CHILDREN = ("gpu-0", "gpu-1", "io")
_FINISHERS = ("gpu-0-finisher", "gpu-1-finisher")
_LEASE_SECONDS = 8.0  # FAST's
_STAGES = ("loading", "encoding", "denoising", "decoding")
_END_STAGES = ("muxing", "playing", "ending")


@dataclass(frozen=True)
class Ground:
    """The targets of faults."""

    stack: Installation
    receiver: Receiver


Undo = Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """`strike` causes it, and returns a description and a function that undoes it after `seconds`.

    It may raise Missed where there was nothing to do it to.
    """

    name: str
    strike: Callable[[Ground, random.Random], tuple[str, Undo]]
    seconds: tuple[float, float] = (0.0, 0.0)  # how long it lasts, from and to
    weight: int = 2
    only: str | None = None  # the one kind of database that can have it


class Missed(Exception):
    """The fault has no target, for example because the process is just being restarted."""


def table(database: str) -> dict[str, Fault]:
    """Return by name the faults that an installation on that database can have."""
    return {fault.name: fault for fault in _FAULTS if fault.only in (None, database)}


class Striker:
    """Causes the plan's faults, each in its own thread, and waits until all are undone."""

    def __init__(self, ground: Ground, recorder: Recorder) -> None:
        self._ground = ground
        self._recorder = recorder
        self._faults = table("postgresql" if ground.stack.postgresql else "sqlite")

    def run(self, strikes: tuple[Strike, ...], stopping: threading.Event) -> None:
        """Returns when all are undone. Each is undone even where the leg is stopped."""
        threads = []
        for strike in strikes:
            if stopping.wait(max(0.0, strike.at - self._recorder.now)):
                break
            thread = threading.Thread(target=self._carry_out, args=(strike, stopping), name=strike.fault)
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()

    def _carry_out(self, strike: Strike, stopping: threading.Event) -> None:
        fault, choose = self._faults[strike.fault], random.Random(strike.seed)
        lasts = choose.uniform(*fault.seconds)
        asked = self._recorder.now
        try:
            what, undo = fault.strike(self._ground, choose)
        except Missed as missed:
            self._recorder.note("missed", asked=asked, name=fault.name, what=str(missed))
            return
        except Exception as error:
            self._recorder.note("harness", asked=asked, name=fault.name, what=f"{type(error).__name__}: {error}")
            return
        self._recorder.note("fault", asked=asked, name=fault.name, what=what, lasts=round(lasts, 1))
        stopping.wait(lasts)
        try:
            undo()
        except Exception as error:
            self._recorder.note("harness", name=fault.name, what=f"undo: {type(error).__name__}: {error}")
        self._recorder.note("undone", name=fault.name)


def _nothing() -> None:
    """Do nothing, for faults that end by themselves."""


def _kill(name: str) -> Callable[[Ground, random.Random], tuple[str, Undo]]:
    def strike(ground: Ground, choose: random.Random) -> tuple[str, Undo]:
        pid = _victim(ground, name, choose)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return f"kill -9 {pid}", _nothing

    return strike


def _freeze(*names: str) -> Callable[[Ground, random.Random], tuple[str, Undo]]:
    def strike(ground: Ground, choose: random.Random) -> tuple[str, Undo]:
        frozen = [(pid, start_ticks(pid)) for pid in (_victim(ground, name, choose) for name in names)]
        for pid, _ in frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

        def undo() -> None:
            for pid, began in frozen:
                if began is not None and start_ticks(pid) == began:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)

        return f"SIGSTOP {[pid for pid, _ in frozen]}", undo

    return strike


def _victim(ground: Ground, name: str, choose: random.Random) -> int:
    if name == "supervisor":
        process = ground.stack.process
        if process is None or process.poll() is not None:
            raise Missed("no supervisor")
        return process.pid
    found = ground.stack.pids(name)
    if not found:
        raise Missed(f"no {name}")
    return choose.choice(sorted(found))


def _start_again(sign: signal.Signals) -> Callable[[Ground, random.Random], tuple[str, Undo]]:
    def strike(ground: Ground, choose: random.Random) -> tuple[str, Undo]:
        ended, ready = ground.stack.start_again(sign)
        return f"{sign.name}, ended after {ended:.1f} s, ready again after {ready:.1f} s", _nothing

    return strike


def _lose_redis(ground: Ground, choose: random.Random) -> tuple[str, Undo]:
    pid = _victim(ground, "redis", choose)
    os.kill(pid, signal.SIGKILL)
    shutil.rmtree(ground.stack.home / "redis" / "appendonlydir", ignore_errors=True)
    return f"kill -9 {pid}, its files removed", _nothing


def _flush_redis(ground: Ground, choose: random.Random) -> tuple[str, Undo]:
    import redis

    try:
        ground.stack.redis().flushall()
    except redis.RedisError as error:
        raise Missed(f"Redis is away: {error}") from None
    return "FLUSHALL", _nothing


def _lock_sqlite(ground: Ground, choose: random.Random) -> tuple[str, Undo]:
    connection = sqlite3.connect(
        ground.stack.home / "wanworks.db", timeout=20, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        connection.close()
        raise Missed(str(error)) from None
    return "BEGIN EXCLUSIVE", connection.close


def _order(flag: str, content: str) -> Callable[[Ground, random.Random], tuple[str, Undo]]:
    """Cause a fault by a file, until the file is removed."""

    def strike(ground: Ground, choose: random.Random) -> tuple[str, Undo]:
        path = ground.stack.orders / flag
        path.write_text(content, encoding="ascii")
        return f"{flag} {content}".strip(), lambda: path.unlink(missing_ok=True)

    return strike


def _on_device(kind: str, stage: str) -> Callable[[Ground, random.Random], tuple[str, Undo]]:
    """Cause a fault in the next generation that comes to that stage."""

    def strike(ground: Ground, choose: random.Random) -> tuple[str, Undo]:
        path = ground.stack.orders / f"{kind}-{stage}-{choose.getrandbits(32)}"
        path.write_text("", encoding="ascii")
        return f"{kind} while {stage}", lambda: path.unlink(missing_ok=True)

    return strike


def _in_pipeline(kind: str) -> Callable[[Ground, random.Random], tuple[str, Undo]]:
    def strike(ground: Ground, choose: random.Random) -> tuple[str, Undo]:
        path = ground.stack.orders / f"pipeline-{kind}-{choose.getrandbits(32)}"
        path.write_text("", encoding="ascii")
        return kind, lambda: path.unlink(missing_ok=True)

    return strike


def _restart_postgresql(ground: Ground, choose: random.Random) -> tuple[str, Undo]:
    assert ground.stack.postgresql is not None
    with _postgresql_lock:
        began = time.monotonic()
        ground.stack.postgresql.restart()
    return f"restarted in {time.monotonic() - began:.1f} s", _nothing


def _end_backends(ground: Ground, choose: random.Random) -> tuple[str, Undo]:
    from sqlalchemy import text
    from sqlalchemy.exc import OperationalError

    ending = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'wanworks'"
    engine = ground.stack.database()
    try:
        with engine.connect() as connection:
            count = connection.execute(text(ending)).scalar_one()
    except OperationalError:
        raise Missed("PostgreSQL is away") from None
    finally:
        engine.dispose()
    return f"{count} backends ended", _nothing


def _cut_commits(when: Any) -> Callable[[Ground, random.Random], tuple[str, Undo]]:
    def strike(ground: Ground, choose: random.Random) -> tuple[str, Undo]:
        assert ground.stack.postgresql is not None
        count = choose.randint(1, 8)
        ground.stack.postgresql.cutter.cut_next(count, when)
        return f"the next {count} commits, {when}", ground.stack.postgresql.cutter.forget

    return strike


def _of_hub(*faults: dict[str, Any]) -> Callable[[Ground, random.Random], tuple[str, Undo]]:
    def strike(ground: Ground, choose: random.Random) -> tuple[str, Undo]:
        import httpx

        chosen = choose.choice(faults)
        try:
            ground.stack.hub.fault(chosen)
        except httpx.HTTPError:
            raise Missed("the hub is away") from None

        def undo() -> None:
            with suppress(httpx.HTTPError):
                ground.stack.hub.fault()

        return f"{chosen}", undo

    return strike


def _kill_hub(ground: Ground, choose: random.Random) -> tuple[str, Undo]:
    if ground.stack.hub.process is None:
        raise Missed("the hub is away")
    ground.stack.hub.kill()
    return "kill -9", lambda: _start_hub(ground)


def _start_hub(ground: Ground) -> None:
    ground.stack.hub.start()


def _receivers(mode: str) -> Callable[[Ground, random.Random], tuple[str, Undo]]:
    def strike(ground: Ground, choose: random.Random) -> tuple[str, Undo]:
        ground.receiver.mode = mode

        def undo() -> None:
            ground.receiver.mode = "well"

        return mode, undo

    return strike


_postgresql_lock = threading.Lock()
_SHORT = (1.0, 4.0)
_PAST_THE_LEASE = (_LEASE_SECONDS + 2, _LEASE_SECONDS + 6)

_FAULTS: tuple[Fault, ...] = (
    *(Fault(f"kill {name}", _kill(name), weight=3) for name in _SUPERVISED),
    *(Fault(f"kill a child of {name}", _kill(f"{name}-child"), weight=3) for name in _WITH_CHILDREN),
    *(Fault(f"kill {name}", _kill(name), weight=3) for name in _FINISHERS),
    *(Fault(f"freeze {name}", _freeze(name), _SHORT, weight=1) for name in _FINISHERS),
    *(Fault(f"freeze {name} past the lease", _freeze(name), _PAST_THE_LEASE, weight=1) for name in _FINISHERS),
    *(
        Fault(f"kill the process that finishes a job while {stage}", _on_device("finishing", stage), (10.0, 10.0))
        for stage in _END_STAGES
    ),
    Fault("kill the supervisor", _start_again(signal.SIGKILL)),
    Fault("stop and start", _start_again(signal.SIGTERM), weight=1),
    *(Fault(f"freeze {name}", _freeze(name), _SHORT, weight=1) for name in (*_SUPERVISED, "supervisor")),
    *(Fault(f"freeze a child of {name}", _freeze(f"{name}-child"), _SHORT, weight=1) for name in _WITH_CHILDREN),
    *(Fault(f"freeze {name} past the lease", _freeze(name), _PAST_THE_LEASE, weight=1) for name in _SUPERVISED),
    *(
        Fault(f"freeze a child of {name} past the lease", _freeze(f"{name}-child"), _PAST_THE_LEASE, weight=1)
        for name in _WITH_CHILDREN
    ),
    *(
        Fault(f"freeze all of {name} past the lease", _freeze(name, f"{name}-child"), _PAST_THE_LEASE)
        for name in _WITH_CHILDREN
    ),
    Fault("lose Redis", _lose_redis),
    Fault("empty Redis", _flush_redis),
    Fault("lock SQLite for long", _lock_sqlite, (18.0, 20.0), weight=1, only="sqlite"),
    Fault("lock SQLite", _lock_sqlite, (2.0, 4.0), only="sqlite"),
    Fault("lose commits' answers", _order("commit-lost", "0.5"), (3.0, 8.0), weight=4, only="sqlite"),
    Fault("restart PostgreSQL", _restart_postgresql, only="postgresql"),
    Fault("end PostgreSQL's backends", _end_backends, only="postgresql"),
    Fault("lose commits' answers", _cut_commits("after"), (3.0, 10.0), weight=6, only="postgresql"),
    Fault("lose commits", _cut_commits("before"), (3.0, 10.0), weight=3, only="postgresql"),
    Fault("fill the store", _order("disk-full", ""), (2.0, 6.0), weight=2),
    Fault("out of memory in a generation", _in_pipeline("memory"), (10.0, 10.0)),
    Fault(UNFORESEEN_ERROR, _in_pipeline("error"), (10.0, 10.0), weight=1),
    Fault("an exit in a generation", _in_pipeline("exit"), (10.0, 10.0)),
    Fault("a segmentation fault in a generation", _in_pipeline("segv"), (10.0, 10.0)),
    *(
        Fault(f"out of device memory while {stage}", _on_device("oom", stage), (10.0, 10.0), weight=1)
        for stage in _STAGES
    ),
    *(Fault(f"a CUDA error while {stage}", _on_device("cuda", stage), (10.0, 10.0)) for stage in _STAGES),
    Fault(
        "a bad hub",
        _of_hub(
            {"kind": "status", "status": 500, "path": "*", "times": 3},
            {"kind": "reset", "after": 100_000, "times": 2},
            {"kind": "truncate", "after": 200_000, "times": 2},
            {"kind": "flip", "at": 70_000, "times": 1},
            {"kind": "stall", "after": 100_000, "times": 1},
        ),
        (8.0, 12.0),
    ),
    Fault("a silent hub", _of_hub({"kind": "silent", "path": "*", "times": 3}), (6.0, 10.0), weight=1),
    Fault("kill the hub", _kill_hub, (2.0, 8.0), weight=1),
    Fault("webhook receivers refuse", _receivers("refusing"), (4.0, 10.0)),
    Fault("webhook receivers hang", _receivers("hung"), (4.0, 10.0), weight=1),
    Fault("webhook receivers are down", _receivers("down"), (4.0, 10.0)),
)
