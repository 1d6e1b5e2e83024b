"""Remember which plans ran out of memory, so that the next job does not try them again.

A plan is tried again after a day, or if the device has more free memory than when it failed, or other versions of the
libraries are installed. The file is in the home folder; without it, the worker knows what happened since it started.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from shared.models.memory_plan import Plan, Size
from wanworks.requests import Quantization

log = logging.getLogger(__name__)

_KEPT_SECONDS = 24 * 3600.0
_MORE = 1.05  # so much more free memory is worth another try
_LIBRARIES = ("torch", "diffusers", "torchao")


class MemoryFailures:
    """The failures of one device. Not thread-safe."""

    def __init__(self, path: Path | None) -> None:
        """``path``: the file that keeps them; None: they are kept in memory only."""
        self._path = path
        self._failures: dict[str, tuple[float, float, str]] = _read(path)  # when, free bytes then, versions

    def note(self, model_id: str, quantization: Quantization, plan: Plan, size: Size, free: float) -> None:
        """Record that the plan ran out of memory while `free` bytes could be reached."""
        self._failures[_key(model_id, quantization, plan, size)] = (time.time(), free, _versions())
        if self._path is not None:
            try:
                whole = self._path.with_suffix(f".{os.getpid()}")
                whole.write_text(json.dumps(self._failures), encoding="utf-8")
                whole.replace(self._path)
            except OSError as error:
                log.warning("%s cannot be written, so a restart forgets what ran out of memory: %s", self._path, error)

    def has(self, model_id: str, quantization: Quantization, plan: Plan, size: Size, free: float) -> bool:
        """Return whether the plan is known not to fit into `free` bytes."""
        found = self._failures.get(_key(model_id, quantization, plan, size))
        if found is None:
            return False
        at, free_then, versions = found
        return time.time() - at < _KEPT_SECONDS and free <= free_then * _MORE and versions == _versions()


def _key(model_id: str, quantization: Quantization, plan: Plan, size: Size) -> str:
    tiles = "tiles" if plan.decode_tiled else "whole"
    known = f"{model_id} {quantization} {plan.layout} {tiles} {size.width}x{size.height}x{size.frames} {size.image}"
    loras, speed = f" {size.loras}" if size.loras else "", "" if size.speed == "exact" else f" {size.speed}"
    return known + loras + speed


def _read(path: Path | None) -> dict[str, tuple[float, float, str]]:
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): (float(at), float(free), str(versions)) for key, (at, free, versions) in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read, so plans that ran out of memory are tried again: %s", path, error)
        return {}


def _versions() -> str:
    found: Mapping[str, str] = {name: _version(name) for name in _LIBRARIES}
    return " ".join(f"{name}={text}" for name, text in found.items())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
