"""Compiled transformer blocks: one graph for all blocks of a shape, kept on disk for later processes.

Only a block's `forward` is compiled. Its hooks, which stop a job or bring the block's weights to the device, run
outside of the graph as they do without it, and the library's step caches wrap around it.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock

from workers.generation.pipelines.device_health import lacks_memory

log = logging.getLogger(__name__)

# Graphs that one process holds at a time: one for each size, type of weights and structure of LoRAs.
_GRAPHS = 64
# What inductor would choose by timing is chosen by rule, so that every process computes the same values.
_BACKEND: dict[str, Any] = {"backend": "inductor", "options": {"deterministic": True}}

_is_set_up = threading.local()


class Compiled:
    """The compiled `forward` of a run's blocks. It computes eagerly from the first failure to compile on."""

    def __init__(self) -> None:
        self.failure: str | None = None

    def forward_of(self, block: torch.nn.Module) -> Callable[..., Any]:
        """Return what replaces the block's `forward`."""
        return partial(self._call, block)

    def _call(self, block: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.failure is None:
            try:
                return _within_limit(block, *args, **kwargs)
            except Exception as error:
                if not _is_of_the_compiler(error) or lacks_memory(error):
                    raise
                self.failure = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
                log.warning("the blocks of a transformer cannot be compiled: %s", error)
        return WanTransformerBlock.forward(block, *args, **kwargs)


def set_up() -> None:
    """Set the compiler's options, once in each thread that compiles: they belong to the thread."""
    if hasattr(_is_set_up, "here"):
        return
    _is_set_up.here = True
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    inductor.compile_threads = 1  # in this process: a pool of helpers could outlive a worker that is killed
    dynamo.recompile_limit = _GRAPHS
    dynamo.accumulated_recompile_limit = 4 * _GRAPHS
    logging.getLogger("torch.__trace").propagate = False  # thousands of lines for each graph


def scalings_as_tensors(modules: Iterable[torch.nn.Module], device: torch.device) -> None:
    """Turn the factors of LoRAs into tensors, so that one graph serves LoRAs of one structure and any factor."""
    from peft.tuners.lora import LoraLayer

    for module in modules:
        if isinstance(module, LoraLayer):
            for name, value in module.scaling.items():
                module.scaling[name] = torch.as_tensor(value, dtype=torch.float32, device=device)


def _within_limit(block: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    try:
        return _compiled()(block, *args, **kwargs)
    except torch._dynamo.exc.FailOnRecompileLimitHit:
        torch.compiler.reset()  # drops all graphs of this process; those on disk are read again
        _compiled.cache_clear()
        return _compiled()(block, *args, **kwargs)


@cache
def _compiled() -> Callable[..., Any]:
    """Return the compiled function.

    Each size has a graph of its own: what runs for a size then does not depend on the sizes that ran before.
    """
    compiled: Callable[..., Any] = torch.compile(
        WanTransformerBlock.forward,
        fullgraph=True,
        dynamic=False,
        **_BACKEND,
    )
    return compiled


def _is_of_the_compiler(error: Exception) -> bool:
    """Return whether the error came up while compiling, before anything was computed."""
    import torch._dynamo.exc
    import torch._inductor.exc

    kinds = (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.CppCompileError)
    return isinstance(error, kinds)
