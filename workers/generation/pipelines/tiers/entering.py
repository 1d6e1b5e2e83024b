"""Enter a speed tier for one job: attention, compiled blocks, step cache. The weights stay as they are.

`exact` changes nothing, so it computes what the model computed before there were tiers, bit for bit.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig

from shared.catalogue.tiers import TierSettings
from wanworks.requests import Speed
from workers.generation.pipelines.tiers import attention
from workers.generation.pipelines.tiers.compiling import Compiled, scalings_as_tensors
from workers.generation.pipelines.weights.loading import LoadedModel


@dataclass
class Entered:
    """A tier as it is used for one job."""

    speed: Speed
    wanted: TierSettings
    attention: str = "native"
    compiled: Compiled | None = None
    notes: list[str] = field(default_factory=list)

    def described(self) -> dict[str, Any]:
        """Return what the job used, for its result and its manifest."""
        failure = self.compiled.failure if self.compiled is not None else None
        used = {
            **self.wanted.model_dump(),
            "attention": self.attention,
            "compiled": self.compiled is not None and failure is None,
        }
        notes = list(self.notes)
        if failure is not None:
            notes.append(f"The model's blocks could not be compiled here, so they ran uncompiled: {failure}")
        return {"tier": self.speed, "used": used, "as_in_catalogue": used == self.wanted.model_dump(), "notes": notes}


@contextmanager
def entered(model: LoadedModel, speed: Speed) -> Iterator[Entered]:
    """Use the tier inside the block. What does not work on this device is left out, with a note.

    Enter it after the LoRAs are applied, and leave it before they are removed.
    """
    tier = Entered(speed, model.entry.tiers.of(speed, model.device.type))
    with ExitStack() as undo:
        if tier.wanted.attention != "native":
            _attend(model, tier, undo)
        if tier.wanted.compiled:
            _compile(model, tier, undo)
        if tier.wanted.step_cache is not None:
            _cache_steps(model, tier.wanted.step_cache, undo)
        yield tier


def _attend(model: LoadedModel, tier: Entered, undo: ExitStack) -> None:
    backend = tier.wanted.attention
    width = model.pipeline.transformer.config.attention_head_dim
    refused = attention.refusal(backend, width, model.dtype, model.device)
    if refused is not None:
        tier.notes.append(
            f"The attention backend {backend} does not work on this device, so torch chose one: {refused}"
        )
        return
    tier.attention = backend
    for transformer in model.transformers:
        undo.enter_context(attention.used(transformer, backend))


def _compile(model: LoadedModel, tier: Entered, undo: ExitStack) -> None:
    tier.compiled = Compiled()
    transformers: list[Any] = list(model.transformers)
    for transformer in transformers:
        scalings_as_tensors(transformer.modules(), model.device)
        for block in transformer.blocks:
            undo.callback(_put_forward, block, block.__dict__.get("forward"))
            block.forward = tier.compiled.forward_of(block)


def _put_forward(block: Any, forward: Callable[..., Any] | None) -> None:
    if forward is None:
        del block.forward
    else:
        block.forward = forward


def _cache_steps(model: LoadedModel, threshold: float, undo: ExitStack) -> None:
    """Add a first-block cache to each expert.

    A cache begins empty with each job, and when a job is continued. An expert that begins to run empties the other's:
    its memory is needed, and what one expert has computed says nothing about the other.
    """
    transformers: list[Any] = list(model.transformers)
    for transformer in transformers:
        transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        undo.callback(transformer.disable_cache)
    running: list[Any] = []

    def before(module: torch.nn.Module, _inputs: object) -> None:
        if running and running[-1] is not module:
            running[-1]._reset_stateful_cache()
        running[:] = [module]

    if len(transformers) > 1:
        for transformer in transformers:
            undo.callback(transformer.register_forward_pre_hook(before).remove)
