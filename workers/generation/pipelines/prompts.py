"""A cache of prompt embeddings, so that a repeated prompt skips the text encoder.

They are kept in host memory without the zero rows that pad every prompt to the same length. The rows are added again
when an embedding is returned, so the result is bit-identical to the encoder's.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch


class PromptCache:
    """Evicts the least recently used embeddings beyond `limit_bytes`. Not thread-safe."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[str, ...], tuple[torch.Tensor, int]] = OrderedDict()

    def embedding(self, key: tuple[str, ...], encode: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return the embedding under `key`, shape (1, rows, width); `encode` computes it if it is not cached."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            trimmed, rows = found
            padding = trimmed.new_zeros(1, rows - trimmed.shape[1], trimmed.shape[2])
            return torch.cat([trimmed, padding], dim=1)
        made = encode()
        self._keep(key, made)
        return made

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0

    def _keep(self, key: tuple[str, ...], made: torch.Tensor) -> None:
        used = made[0].ne(0).any(dim=1).nonzero()
        rows = int(used[-1]) + 1 if len(used) else 0
        trimmed = made[:, :rows].to("cpu", copy=True)
        if trimmed.nbytes > self._limit_bytes:
            return
        self._kept[key] = (trimmed, made.shape[1])
        self._bytes += trimmed.nbytes
        while self._bytes > self._limit_bytes:
            _, (dropped, _) = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes
