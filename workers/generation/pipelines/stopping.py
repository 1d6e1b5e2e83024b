"""Hooks inside a model's forward passes, so that a running generation can be stopped between two blocks.

The pipelines' own interrupt flag takes effect only after the decode; raising in a forward hook stops at once. The hooks
are registered once, when a model is loaded, and call the callbacks of the present job.

A program launches work faster than a GPU does it: the launches of a whole pass may be queued before its first block has
ended, and queued work cannot be stopped. So the blocks of a transformer are launched at most one ahead of the device.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch

CPU = torch.device("cpu")


def _nothing() -> None:
    pass


class Stops:
    """The hooks' callbacks. The running job sets both and resets them afterwards.

    The hooks end with this object, because a component may be shared with a model that stays loaded longer.
    """

    def __init__(self, device: torch.device = CPU) -> None:
        self._device = device
        self._latest: Any = None  # the event before the latest block
        self.check: Callable[[], None] = _nothing  # raises to stop
        self.denoising: Callable[[], None] = _nothing  # a transformer is about to run

    def clear(self) -> None:
        self.check = self.denoising = _nothing

    def watch(self, modules: Iterable[torch.nn.Module]) -> None:
        """Add a check before each forward pass of these modules."""
        for module in modules:
            self._add(module, lambda stops: stops.check())

    def watch_blocks(self, modules: Iterable[torch.nn.Module]) -> None:
        """Add a check before each block of a transformer, made when the device has begun the previous block."""

        def hook(_module: torch.nn.Module, _inputs: object) -> None:
            self._pace()
            self.check()

        for module in modules:
            module.register_forward_pre_hook(hook)

    def _pace(self) -> None:
        if self._device.type != "cuda":
            return
        if self._latest is not None:
            self._latest.synchronize()
        self._latest = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._latest.record(torch.cuda.current_stream(self._device))

    def watch_transformer(self, module: torch.nn.Module) -> None:
        """Add a check, and a report that denoising begins, before each forward pass of a transformer."""

        def call(stops: "Stops") -> None:
            stops.check()
            stops.denoising()

        self._add(module, call)

    def _add(self, module: torch.nn.Module, call: Callable[["Stops"], None]) -> None:
        mine = weakref.ref(self)

        def hook(_module: torch.nn.Module, _inputs: object) -> None:
            stops = mine()
            if stops is not None:
                call(stops)

        weakref.finalize(self, module.register_forward_pre_hook(hook).remove)
