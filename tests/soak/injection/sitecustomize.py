"""Faults that only code within a process can bring about. Python imports this at its start: the stack of a leg has
this folder on its PYTHONPATH; the harness then orders faults by files in `HOME/soak/`.

commit-lost          SQLite: of the commits, so many (a share from 0 to 1) are carried out and then reported as failed
disk-full            nothing can be written into the store
pipeline-KIND-N      the next step of a generation takes the file away and ends in KIND: memory, error, exit or segv
oom-STAGE-N          likewise in that stage (loading, encoding, denoising, decoding), and the device's memory runs out
finishing-STAGE-N    the next process that finishes a job kills itself in that stage (muxing, playing, ending)
cuda-STAGE-N         likewise, and from then on every kernel of that process fails with a CUDA error
"""

import dataclasses
import errno
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

_FOLDER = Path(os.environ.get("WANWORKS_HOME", "")) / "soak"
# So that a leg sees what takes a day in life: seconds before each repetition of a webhook's message.
_WAITS_SECONDS = (1, 1, 2, 2, 3, 3, 5, 5, *[10] * 30)


def _sqlite(module: ModuleType) -> None:
    import sqlite3

    flag = _FOLDER / "commit-lost"
    dialect: Any = module.SQLiteDialect_pysqlite
    commit = dialect.do_commit

    def do_commit(self: Any, connection: Any) -> None:
        was_open = connection.in_transaction
        commit(self, connection)
        if was_open and flag.exists():
            try:
                share = float(flag.read_text() or 0)
            except (OSError, ValueError):
                return
            if random.random() < share:
                raise sqlite3.OperationalError("disk I/O error")

    dialect.do_commit = do_commit


def _full(real: Callable[..., Any]) -> Callable[..., Any]:
    flag = _FOLDER / "disk-full"

    def write(*args: Any, **options: Any) -> Any:
        if flag.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **options)

    return write


def _store(module: Any) -> None:
    module.write_durably = _full(module.write_durably)


def _outputs(module: Any) -> None:
    module.sync_file = _full(module.sync_file)


def _pipeline(module: Any) -> None:
    run = module.run

    def faulty(*args: Any) -> Any:
        (place,) = (at for at, one in enumerate(args) if hasattr(one, "enter") and hasattr(one, "check"))
        signals = args[place]
        stage = ["encoding"]

        def enter(phase: Any, *more: Any) -> None:
            stage[0] = str(phase)
            signals.enter(phase, *more)

        def check() -> None:
            _strike()
            _strike_device(stage[0])
            signals.check()

        return run(*args[:place], dataclasses.replace(signals, enter=enter, check=check), *args[place + 1 :])

    module.run = faulty


def _loading(module: Any) -> None:
    load = module.load

    def faulty(*args: Any, **options: Any) -> Any:
        _strike_device("loading")
        return load(*args, **options)

    module.load = faulty


def _killed_at(stage: str, name: str) -> Callable[[Any], None]:
    """Return a patch: the process that comes to that function kills itself if that was ordered."""

    def patch(module: Any) -> None:
        real = getattr(module, name)

        def faulty(*args: Any, **options: Any) -> Any:
            for _ in _taken(f"finishing-{stage}-*"):
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        setattr(module, name, faulty)

    return patch


def _outputs_and_muxing(module: Any) -> None:
    _outputs(module)
    _killed_at("muxing", "_encode")(module)


def _strike() -> None:
    for flag in _taken("pipeline-*"):
        match flag.split("-")[1]:
            case "memory":
                raise MemoryError
            case "error":
                raise RuntimeError("a fault of the harness")
            case "exit":
                os._exit(1)
            case "segv":
                os.kill(os.getpid(), signal.SIGSEGV)


def _strike_device(stage: str) -> None:
    for _ in _taken(f"oom-{stage}-*"):
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory, by the harness")
    for _ in _taken(f"cuda-{stage}-*"):
        path = Path(__file__).parents[2] / "support" / "devices" / "poisoned.py"
        spec = importlib.util.spec_from_file_location("poisoned", path)
        assert spec is not None
        assert spec.loader is not None
        poisoned = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(poisoned)
        _kept.append(poisoned.poison())


_kept: list[Any] = []


def _taken(pattern: str) -> Iterator[str]:
    """Yield the orders that this process takes away."""
    for flag in _FOLDER.glob(pattern):
        try:
            flag.unlink()
        except FileNotFoundError:
            continue  # another process has taken it
        yield flag.name


def _webhooks(module: Any) -> None:
    assert module.WAITS_SECONDS, "the waits have another name now"
    module.WAITS_SECONDS = _WAITS_SECONDS


_PATCHES: dict[str, Callable[[Any], None]] = {
    "sqlalchemy.dialects.sqlite.pysqlite": _sqlite,
    "shared.storage.directory": _store,
    "workers.generation.finishing.outputs": _outputs_and_muxing,
    "workers.generation.finishing.playback": _killed_at("playing", "play"),
    "workers.generation.finishing.ending": _killed_at("ending", "_result"),
    "workers.generation.pipelines.weights.loading": _loading,
    "workers.generation.pipelines.running": _pipeline,
    "shared.net.standard_webhooks": _webhooks,
}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds those modules as usual and patches each once it is loaded."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in _PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                _PATCHES[name](module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "WANWORKS_HOME" in os.environ:
    sys.meta_path.insert(0, _Finder())
