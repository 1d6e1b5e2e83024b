"""The child process that converts weights, and its tasks. torch is loaded there only, and its memory ends with it."""

import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shared.errors import CannotPrepare, StoreFull

_PROGRAM = "workers.generation.pipelines.weights.preparing"
_ROOT = Path(__file__).resolve().parents[3]
_CHECK_SECONDS = 0.2


def is_possible() -> bool:
    """Return whether this node has the libraries that convert weights."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "diffusers", "safetensors"))


class Converter:
    """One child process, started for the first task and killed at the end: ``with Converter() as converter``."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the child, in the middle of a file too: an unfinished file is written anew."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    def convert(
        self, task: dict[str, str], report: Callable[[int], None], check: Callable[[], None]
    ) -> tuple[int, str]:
        """Carry out one task. Return size and sha256 of the written file.

        `report` receives the bytes written so far; `check` may raise to stop. Raises StoreFull, CannotPrepare.
        """
        child = self._child or self._start()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(task).encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            raise self._died(child) from None
        while True:
            answer = self._next(child, check)
            if "error" in answer:
                if answer["full"]:
                    raise StoreFull("the disk of the model storage is full")
                raise CannotPrepare(f"{task['component']} cannot be converted to {task['form']}: {answer['error']}")
            if "sha256" in answer:
                return int(answer["size"]), str(answer["sha256"])
            report(int(answer["done"]))

    def _start(self) -> subprocess.Popen[bytes]:
        if not is_possible():
            raise CannotPrepare("the libraries that convert weights (torch, diffusers) are not installed on this node")
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._child = subprocess.Popen(
            [sys.executable, "-m", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        return self._child

    def _next(self, child: subprocess.Popen[bytes], check: Callable[[], None]) -> dict[str, Any]:
        """Return the child's next report."""
        assert child.stdout is not None
        while b"\n" not in self._unread:
            check()
            if not select.select([child.stdout], [], [], _CHECK_SECONDS)[0]:
                continue
            received = os.read(child.stdout.fileno(), 1 << 16)
            if not received:
                raise self._died(child)
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\n")
        report: dict[str, Any] = json.loads(line)
        return report

    def _died(self, child: subprocess.Popen[bytes]) -> CannotPrepare:
        code = child.wait()
        self._child = None
        self._unread = b""
        return CannotPrepare(f"the process that converts weights ended with code {code}")
