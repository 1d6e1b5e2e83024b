"""Hooks inside a model's forward passes, so that a running generation can be stopped between two blocks.

The pipelines' own interrupt flag ends only after the decode; raising out of a forward hook ends at once. The hooks are
registered once, when a model is loaded, and ask whatever the present job has put here.
"""

from collections.abc import Callable, Iterable

import torch


def _nothing() -> None:
    pass


class Stops:
    """What the hooks call. Both are put here by the job that runs and taken away after it."""

    def __init__(self) -> None:
        self.check: Callable[[], None] = _nothing  # raises to stop
        self.denoising: Callable[[], None] = _nothing  # a transformer is about to run

    def clear(self) -> None:
        self.check = self.denoising = _nothing

    def watch(self, modules: Iterable[torch.nn.Module]) -> None:
        """Check before each forward pass of these."""
        for module in modules:
            module.register_forward_pre_hook(lambda _module, _inputs: self.check())

    def watch_transformer(self, module: torch.nn.Module) -> None:
        """Check, and tell that denoising has come, before each forward pass of a transformer."""

        def hook(_module: torch.nn.Module, _inputs: object) -> None:
            self.check()
            self.denoising()

        module.register_forward_pre_hook(hook)
