"""A worker whose handler does nothing: what is left is the claim, the run around it, and the end."""

from typing import Any

from workers import generation
from workers.context import GenerationContext, Outcome


def do_nothing(context: GenerationContext) -> Outcome:
    params = context.params
    return Outcome((), params.width, params.height, params.frames, params.fps, params.seed, {}, True, "full", None)


def replace_handler() -> None:
    module: Any = generation
    module.generate = do_nothing
    module.warm = list
    module.preload = lambda: None


replace_handler()
