"""A worker whose handler does nothing: this measures the claim, the run, and the end."""

from typing import Any

from workers.generation import run
from workers.generation.context import Decoded, GenerationContext, Outcome
from workers.generation.finishing import files
from workers.generation.frames.quality import Measures, Quality

_UNSEEN = Quality(0.0, {}, Measures(0.0, 0.0, 0.0, 0.0, 0.0))


def make_nothing(context: GenerationContext) -> tuple[Decoded, list[Any]]:
    """Stand in for `run.decode`."""
    params = context.params
    made = Decoded(
        width=params.width,
        height=params.height,
        frames=params.frames,
        fps=params.fps,
        seed=params.seed,
        output_format=params.output_format,
        timings={},
        warm=True,
        profile="full",
        peak_vram_mb=None,
        manifest={},
        loras=[],
        speed=None,
        prompt_tokens=None,
        notes=[],
    )
    return made, []


def write_nothing(made: Decoded, *_: Any) -> Outcome:
    """Stand in for `files.finish`."""
    return Outcome(
        artifacts=(),
        width=made.width,
        height=made.height,
        frames=made.frames,
        fps=made.fps,
        seed=made.seed,
        timings={},
        warm=True,
        profile="full",
        peak_vram_mb=None,
        quality=_UNSEEN,
    )


def replace_handler() -> None:
    module: Any = run
    module.decode = make_nothing
    module.warm = list
    module.preload = lambda: None
    module.compile_ahead = lambda *_: None
    finishing: Any = files
    finishing.finish = write_nothing


replace_handler()
