"""Attention backends: whether one works on this device, and which one a model's blocks use."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _check_attention_backend_requirements,
    dispatch_attention_fn,
)

from workers.generation.pipelines.device_health import lacks_memory

_TOKENS, _HEADS = 256, 2


@contextmanager
def used(transformer: Any, backend: str) -> Iterator[None]:
    """Let the transformer's blocks compute attention by that backend inside the block.

    The library's own `set_attention_backend` would also change it for every other model of the process.
    """
    processors = [attention.processor for block in transformer.blocks for attention in (block.attn1, block.attn2)]
    before = [processor._attention_backend for processor in processors]
    try:
        for processor in processors:
            processor._attention_backend = AttentionBackendName(backend)
        yield
    finally:
        for processor, previous in zip(processors, before, strict=True):
            processor._attention_backend = previous


@cache
def refusal(backend: str, width: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Return why the backend does not work on this device for heads of that width; None if it does.

    Decided by a small computation. Raises what torch raises when memory runs out.
    """
    if device.type == "cpu":
        return "it needs a GPU"
    try:
        name = AttentionBackendName(backend)
        _check_attention_backend_requirements(name)
        query = torch.ones(1, _TOKENS, _HEADS, width, dtype=dtype, device=device)
        found = dispatch_attention_fn(query, query, query, backend=name)
        torch.cuda.synchronize(device)
        return None if bool(torch.isfinite(found).all()) else "it computed values that are not finite numbers"
    except (RuntimeError, ValueError, ImportError, TypeError) as error:
        if lacks_memory(error):
            raise
        text = str(error).strip()
        return text.splitlines()[0][:200] if text else type(error).__name__
