"""Enter a speed tier for one job: attention, compiled blocks, step cache. The weights stay as they are.

`exact` changes nothing, so it computes what the model computed before there were tiers, bit for bit.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig
from diffusers.hooks import HookRegistry
from diffusers.hooks.first_block_cache import _FBC_LEADER_BLOCK_HOOK, FBCSharedBlockState

from shared.catalogue.tiers import TierSettings
from wanworks.requests import Speed
from workers.generation.pipelines.resuming import moved
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
    cached: list[Any] = field(default_factory=list)  # the experts with a step cache
    running: list[Any] = field(default_factory=list)  # the one of them that ran last

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

    def caches(self) -> dict[str, Any] | None:
        """Return what the step caches hold, as a checkpoint keeps it; None without one."""
        if not self.cached:
            return None
        running = self.cached.index(self.running[0]) if self.running else None
        states = [
            {name: [state.head_block_residual, state.tail_block_residuals] for name, state in _states(each).items()}
            for each in self.cached
        ]
        return {"running": running, "states": states}

    def restore(self, caches: dict[str, Any], device: torch.device) -> None:
        """Fill the step caches with what a checkpoint has kept."""
        if caches["running"] is not None:
            self.running[:] = [self.cached[caches["running"]]]
        for transformer, kept in zip(self.cached, caches["states"], strict=True):
            for name, (head, tail) in kept.items():
                state = FBCSharedBlockState()
                state.head_block_residual = moved(head, device)
                state.tail_block_residuals = None if tail is None else tuple(moved(tail, device))
                _states(transformer)[name] = state


def _states(transformer: Any) -> dict[str, Any]:
    """Return the states of a transformer's first-block cache, by the name of the pass."""
    hook: Any = HookRegistry.check_if_exists_or_initialize(transformer.blocks[0]).get_hook(_FBC_LEADER_BLOCK_HOOK)
    states: dict[str, Any] = hook.state_manager._state_cache
    return states


@contextmanager
def entered(model: LoadedModel, speed: Speed, caches: dict[str, Any] | None = None) -> Iterator[Entered]:
    """Use the tier inside the block. What does not work on this device is left out, with a note.

    `caches`: what the step caches begin with, from a checkpoint.
    Enter it after the LoRAs are applied, and leave it before they are removed.
    """
    tier = Entered(speed, model.entry.tiers.of(speed, model.device.type))
    with ExitStack() as undo:
        if tier.wanted.attention != "native":
            _attend(model, tier, undo)
        if tier.wanted.compiled:
            _compile(model, tier, undo)
        if tier.wanted.step_cache is not None:
            _cache_steps(model, tier, tier.wanted.step_cache, undo)
            if caches is not None:
                tier.restore(caches, model.device)
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


def _cache_steps(model: LoadedModel, tier: Entered, threshold: float, undo: ExitStack) -> None:
    """Add a first-block cache to each expert.

    A cache begins empty with each job, and when a job is continued under another plan. An expert that begins to run
    empties the other's: its memory is needed, and what one expert has computed says nothing about the other.
    """
    transformers: list[Any] = list(model.transformers)
    for transformer in transformers:
        transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        undo.callback(transformer.disable_cache)
    tier.cached, running = transformers, tier.running

    def before(module: torch.nn.Module, _inputs: object) -> None:
        if running and running[-1] is not module:
            running[-1]._reset_stateful_cache()
        running[:] = [module]

    for transformer in transformers:
        undo.callback(transformer.register_forward_pre_hook(before).remove)
