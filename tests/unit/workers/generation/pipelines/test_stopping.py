"""Checks between the blocks of a transformer, on an emulated CUDA device."""

import torch

from tests.support.devices.fake_cuda import DEVICE, fake_cuda
from workers.generation.pipelines.stopping import Stops


def test_blocks_are_launched_at_most_one_ahead_of_the_device() -> None:
    """A block is launched when the device has begun the previous one, so the check before it is not far ahead."""
    with fake_cuda() as cuda:
        blocks = [torch.nn.Linear(4, 4).to(DEVICE) for _ in range(6)]
        begun: list[int] = []
        waited: list[int] = []
        for block in blocks:
            block.register_forward_pre_hook(lambda *_: begun.append(cuda.operations))
        stops = Stops(DEVICE)
        stops.watch_blocks(blocks)
        for block in blocks:
            block.register_forward_pre_hook(lambda *_: waited.append(cuda.host_waited_for))
        passed = torch.ones(1, 4, device=DEVICE)
        for block in blocks:
            passed = block(passed)
        assert begun == sorted(set(begun)), "each block computes something"
        assert waited[1:] == begun[:-1]


def test_a_cpu_needs_no_pace() -> None:
    block = torch.nn.Linear(4, 4)
    stops = Stops()
    stops.watch_blocks([block])
    seen: list[str] = []
    stops.check = lambda: seen.append("checked")
    block(torch.ones(1, 4))
    assert seen == ["checked"]
