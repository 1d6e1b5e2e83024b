"""Writes when each generation's first step begins and when its last frame is decoded, to `HOME/stamps.jsonl`.

Python imports this at its start where this folder is on its PYTHONPATH. The times are taken where the device works:
a report of progress reaches Redis later.
"""

import dataclasses
import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

_MODULE = "workers.generation.pipelines.running"


def _stamped(module: Any) -> None:
    run = module.run

    def stamped(*arguments: Any) -> Any:
        model, params, plan, image, found, prompts, signals, *rest = arguments
        moments: dict[str, float] = {}

        def enter(phase: Any, step: int | None = None, steps: int | None = None) -> None:
            if phase == "denoising":
                moments.setdefault("first_step", time.time())
            signals.enter(phase, step, steps)

        def frame(index: int, pixels: Any) -> None:
            moments["last_frame"] = time.time()
            signals.frame(index, pixels)

        watched = dataclasses.replace(signals, enter=enter, frame=frame)
        frames = run(model, params, plan, image, found, prompts, watched, *rest)
        with (Path(os.environ["WANWORKS_HOME"]) / "stamps.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"seed": params.seed, **moments}) + "\n")
        return frames

    module.run = stamped


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                _stamped(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "WANWORKS_HOME" in os.environ:
    sys.meta_path.insert(0, _Finder())
