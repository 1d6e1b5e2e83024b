"""A worker whose handler does nothing: this measures the claim, the run, and the end."""

from typing import Any

from workers.generation import run
from workers.generation.context import GenerationContext, Outcome
from workers.generation.quality import Measures, Quality

_UNSEEN = Quality(0.0, {}, Measures(0.0, 0.0, 0.0, 0.0, 0.0))


def do_nothing(context: GenerationContext) -> Outcome:
    params = context.params
    return Outcome(
        artifacts=(),
        width=params.width,
        height=params.height,
        frames=params.frames,
        fps=params.fps,
        seed=params.seed,
        timings={},
        warm=True,
        profile="full",
        peak_vram_mb=None,
        quality=_UNSEEN,
    )


def replace_handler() -> None:
    module: Any = run
    module.generate = do_nothing
    module.warm = list
    module.preload = lambda: None


replace_handler()
