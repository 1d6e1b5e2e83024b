"""What a preview costs at the real sizes of latents: on the device, and in the thread that encodes it."""

import statistics
import time
from collections.abc import Callable
from typing import Any

from tests.bench.support.row import Row

_TIMES = 20
_SECONDS = 3.0  # WANWORKS_PREVIEW_SECONDS
_SHARE = 0.01
# Channels of the latents, pixels of a cell's edge; from the configurations of the models' VAEs.
_LATENTS = {"T2V-A14B": (16, 8), "TI2V-5B": (48, 16)}


def previews(_bench: Any) -> list[Row]:
    """At 1280x720 and 81 frames on the CPU, which is slower than any GPU that runs these models."""
    import torch

    from workers.generation.frames.geometry import Plan
    from workers.generation.frames.previews import Cells, encoded
    from workers.generation.pipelines.previews.projecting import Projection

    rows = []
    for model_id, (channels, cell) in _LATENTS.items():
        height = -(-720 // cell)
        plan = Plan(1280, 720, 81, 1280, height * cell, 81)
        latents = torch.randn(1, channels, 21, height, 1280 // cell, generator=torch.Generator().manual_seed(0))
        projection = Projection(torch.randn(channels, 3) / channels, torch.full((3,), 0.5))
        projected = _milliseconds(lambda: projection.picture(latents))  # noqa: B023
        cells = Cells(1, 40, projection.picture(latents), plan)
        written = _milliseconds(lambda: encoded(cells))  # noqa: B023
        share = projected / 1000 / _SECONDS
        rows.append(
            Row(f"{model_id}: projecting a preview at 1280x720, of the {_SECONDS:g} s between two ({projected:.1f} ms; "
                f"encoding beside the steps {written:.1f} ms, {len(encoded(cells)) / 1000:.1f} kB)",
                f"{100 * share:.2f} %", f"<= {100 * _SHARE:g} %", share <= _SHARE)
        )  # fmt: skip
    return rows


def _milliseconds(work: Callable[[], object]) -> float:
    work()
    spent = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        work()
        spent.append(1000 * (time.perf_counter() - began))
    return statistics.median(spent)
