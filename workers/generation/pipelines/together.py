"""Compute one generation on several devices: diffusers' context parallelism (Ulysses) over torch.distributed.

Each process has all weights and its part of the tokens; before attention they exchange tokens for heads, and back after
it. Every process runs the same pipeline with the same seed, so all have the same latents after each step.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from diffusers import ContextParallelConfig
from diffusers.hooks.context_parallel import remove_context_parallel
from torch._C._distributed_c10d import FileStore

from shared.errors import AttemptStopped
from workers.generation.pipelines.weights.loading import LoadedModel
from workers.generation.seats import MEET_SECONDS, Seat, StoppedByLeader

# An exchange takes milliseconds to seconds. A process that waits longer for another one ends with an error.
_EXCHANGE_SECONDS = 600.0


class Together:
    """The processes of a gang while they denoise."""

    def __init__(self, seat: Seat, device: torch.device) -> None:
        self._seat = seat
        self._device = device

    def agree(self, check: Callable[[], None]) -> None:
        """Let the leader's check decide for all, after the same step: a process that stops alone leaves the others
        waiting for it.

        Raises what the check raises; in the others StoppedByLeader.
        """
        stop: AttemptStopped | None = None
        if self._seat.rank == 0:
            try:
                check()
            except AttemptStopped as error:
                stop = error
        flag = torch.tensor([stop is not None], dtype=torch.uint8, device=self._device)
        torch.distributed.broadcast(flag, src=0)
        if stop is not None:
            raise stop
        if bool(flag.item()):
            raise StoppedByLeader()


@contextmanager
def joined(model: LoadedModel, seat: Seat | None) -> Iterator[Together | None]:
    """Let the model's transformers compute together with the other processes inside the block; None: alone."""
    if seat is None:
        yield None
        return
    seat.arrive()
    limit = timedelta(seconds=_EXCHANGE_SECONDS)
    store = FileStore(str(seat.meeting), seat.size)
    store.set_timeout(timedelta(seconds=MEET_SECONDS))
    backend = "nccl" if model.device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, store=store, rank=seat.rank, world_size=seat.size, timeout=limit)
    shared: list[Any] = []
    transformers: list[Any] = list(model.transformers)
    try:
        torch.distributed.barrier()
        config = ContextParallelConfig(ulysses_degree=seat.size)
        for transformer in transformers:
            with _one_device_each():
                transformer.enable_parallelism(config=config)
            shared.append(transformer)
        yield Together(seat, model.device)
    finally:
        for transformer in shared:
            _alone(transformer)
        torch.distributed.destroy_process_group()


@contextmanager
def _one_device_each() -> Iterator[None]:
    """Let the library count one device, among which it chooses by rank: each process sees only its own.

    On a CPU it would count none, and divide by that.
    """
    count = torch.accelerator.device_count
    torch.accelerator.device_count = lambda: 1
    try:
        yield
    finally:
        torch.accelerator.device_count = count


def _alone(transformer: Any) -> None:
    """Undo `enable_parallelism`, for which the library has no function."""
    remove_context_parallel(transformer, transformer._cp_plan)
    transformer._parallel_config = None
    for module in transformer.modules():
        processor = getattr(module, "processor", None)
        if processor is not None and hasattr(processor, "_parallel_config"):
            processor._parallel_config = None
