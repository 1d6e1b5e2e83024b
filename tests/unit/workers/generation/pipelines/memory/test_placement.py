"""Masters and visits on an emulated CUDA device, with the real classes at small sizes."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from shared.catalogue.models import Offload
from tests.support.devices.fake_cuda import DEVICE, FakeCuda, Misuse, fake_cuda
from workers.generation import demo_models
from workers.generation.pipelines.memory import host_memory
from workers.generation.pipelines.memory.placement import LAYOUTS, Placement, layout_bytes, place
from workers.generation.pipelines.memory.visits import Streamed
from workers.generation.pipelines.stopping import Stops

SHAPE = demo_models.reduced(demo_models.DEMO["T2V-A14B"], {"num_layers": 5}, {}, {"num_layers": 3, "vocab_size": 100})
SHARES: tuple[Offload, ...] = ("text", "model", "group")


def _half(transformer: Any) -> Any:
    for parameter in transformer.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return transformer.eval()


class Parts:
    """The components of a model with two experts, from fixed random numbers."""

    def __init__(self, int8: bool = False, device: str = "cpu") -> None:
        torch.manual_seed(3)
        with torch.device(device):
            self.text_encoder = UMT5EncoderModel(UMT5Config(**SHAPE.text_encoder)).eval()
            self.transformers = [_half(WanTransformer3DModel(**SHAPE.transformer)) for _ in "12"]
            self.vae = AutoencoderKLWan(**SHAPE.vae).eval()
        if int8:
            from torchao.quantization import Int8WeightOnlyConfig, quantize_

            for transformer in self.transformers:
                quantize_(transformer, Int8WeightOnlyConfig())

    @property
    def all(self) -> tuple[Any, ...]:
        return self.text_encoder, self.transformers, self.vae

    def place(self, layout: Offload, device: torch.device = DEVICE) -> Placement:
        return place(layout, device, *self.all)

    def run(self, device: torch.device = DEVICE, experts: tuple[int, ...] = (0, 0, 1, 1)) -> list[torch.Tensor]:
        """Run the components as a job does, and return what they computed, on the host."""
        made: list[torch.Tensor] = []
        with torch.no_grad():
            tokens = torch.arange(8).reshape(1, 8).to(device)
            text = self.text_encoder(tokens, torch.ones_like(tokens)).last_hidden_state
            made.append(text.cpu())
            made += [self.denoise(self.transformers[number], device) for number in experts]
            latents = torch.ones(1, 16, 2, 4, 4).to(device)
            made.append(self.vae.decode(latents).sample.cpu())
        return made

    def denoise(self, transformer: Any, device: torch.device = DEVICE) -> torch.Tensor:
        random = torch.Generator().manual_seed(1)
        latents = torch.randn(1, 16, 2, 8, 8, generator=random).to(torch.bfloat16)
        prompt = torch.randn(1, 6, 64, generator=random).to(torch.bfloat16)
        with torch.no_grad():
            (noise,) = transformer(latents.to(device), torch.ones(1).to(device), prompt.to(device), return_dict=False)
        return noise.cpu()


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda() as made:
        yield made


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_computes_the_same_bits(cuda: FakeCuda, layout: Offload, int8: bool) -> None:
    plain = Parts(int8).run(torch.device("cpu"))
    parts = Parts(int8)
    placement = parts.place(layout)
    assert equal(parts.run(), plain)
    placement.bring(None)
    assert equal(parts.run(), plain), "also on the next job"
    placement.bring(None)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_device_holds_no_more_weights_than_planned(cuda: FakeCuda, layout: Offload, int8: bool) -> None:
    parts = Parts(int8)
    planned = layout_bytes(layout, *parts.all)
    placement = parts.place(layout)
    assert placement.host_bytes == planned.host
    assert placement.pinned_bytes == planned.host == sum(cuda.locked.values()) == host_memory.locked_bytes()
    assert placement.resident_bytes == planned.resident == cuda.live
    parts.run()
    assert cuda.peak_buffers == planned.visiting == placement.visiting_bytes
    placement.bring(None)
    gc.collect()
    assert cuda.live == planned.resident


def test_a_layouts_bytes_are_known_without_weights() -> None:
    real, meta = Parts(), Parts(device="meta")
    assert [layout_bytes(each, *meta.all) for each in LAYOUTS] == [layout_bytes(each, *real.all) for each in LAYOUTS]


def test_masters_take_what_the_weights_take() -> None:
    """At the real widths; a power of two for each tensor would take half as much again."""
    with torch.device("meta"):
        expert = WanTransformer3DModel(**{**demo_models.A14B_TRANSFORMER, "num_layers": 4})
        text = UMT5EncoderModel(UMT5Config(vocab_size=256, **{**demo_models.UMT5_XXL, "num_layers": 1}))
        vae = AutoencoderKLWan(**demo_models.VAE_16)
    weights = sum(tensor.nbytes for part in (expert, text, vae) for tensor in (*part.parameters(), *part.buffers()))
    assert weights <= layout_bytes("group", text, [expert], vae).host <= weights * 1.001


def test_tied_weights_have_one_master(cuda: FakeCuda) -> None:
    parts = Parts()
    assert parts.text_encoder.shared.weight is parts.text_encoder.encoder.embed_tokens.weight
    parts.place("group")
    assert parts.text_encoder.shared.weight is parts.text_encoder.encoder.embed_tokens.weight


def test_only_the_present_expert_is_on_the_device(cuda: FakeCuda) -> None:
    parts = Parts()
    placement = parts.place("group")
    for number in (0, 1, 0):
        parts.denoise(parts.transformers[number])
        on = [expert.proj_out.weight.device.type for expert in parts.transformers]
        assert on == ["cuda" if each == number else "cpu" for each in (0, 1)]
        gc.collect()
        assert cuda.buffers == placement.visiting_bytes


def test_the_next_block_is_copied_beside_the_computation(cuda: FakeCuda) -> None:
    parts = Parts()
    parts.place("group")
    parts.denoise(parts.transformers[0])
    side = max(cuda.streams, key=lambda stream: len(stream.queue))
    assert (len(side.queue), side.done) == (6, 5), "block 0 of the next pass is under way when a pass ends"


class Stopped(Exception):
    pass


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(
    "block", [0, pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow), 4]
)
@pytest.mark.parametrize("layout", SHARES)
def test_a_pass_that_is_stopped_at_any_block_spoils_nothing(
    cuda: FakeCuda, layout: Offload, block: int, int8: bool
) -> None:
    parts = Parts(int8)
    placement = parts.place(layout)
    first, second = parts.transformers
    plain = [parts.denoise(first), parts.denoise(second)]
    stops = Stops()
    stops.watch(first.blocks)
    seen = 0

    def check() -> None:
        nonlocal seen
        seen += 1
        if seen == block + 1:
            raise Stopped

    stops.check = check
    with pytest.raises(Stopped):
        parts.denoise(first)
    assert seen == block + 1, "no block after the stop"
    stops.clear()
    assert torch.equal(parts.denoise(first), plain[0]), "the next pass, without any repair in between"
    seen, stops.check = 0, check
    with pytest.raises(Stopped):
        parts.denoise(first)
    stops.clear()
    assert torch.equal(parts.denoise(second), plain[1])
    placement.bring(None)
    assert torch.equal(parts.denoise(first), plain[0])


def test_memory_that_runs_out_while_a_component_enters_leaves_it_on_the_host(cuda: FakeCuda) -> None:
    parts = Parts()
    plain = Parts().run(torch.device("cpu"))
    placement = parts.place("group")
    cuda.capacity = cuda.live + placement.visiting_bytes // 2
    with pytest.raises(torch.OutOfMemoryError):
        placement.bring(parts.transformers[0])
    assert all(tensor.device.type == "cpu" for tensor in parts.transformers[0].parameters())
    gc.collect()
    assert cuda.live == 0
    cuda.capacity = None
    assert equal(parts.run(), plain)


def test_dropping_a_model_unlocks_its_memory(cuda: FakeCuda) -> None:
    parts = Parts()
    placement = parts.place("group")
    parts.run()
    assert cuda.locked
    del parts, placement
    gc.collect()
    assert not cuda.locked
    assert host_memory.locked_bytes() == 0
    assert cuda.live == 0


def test_memory_that_cannot_be_locked_is_used_as_it_is(cuda: FakeCuda, caplog: pytest.LogCaptureFixture) -> None:
    plain = Parts().run(torch.device("cpu"))
    cuda.refuse_to_lock = True
    parts = Parts()
    placement = parts.place("model")
    assert placement.pinned_bytes == 0 < placement.host_bytes
    assert "cannot be page-locked (CUDA error 2)" in caplog.text
    assert equal(parts.run(), plain)


def test_the_pageable_weights_are_freed_while_they_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host holds at most one group twice."""
    parts = Parts()
    modules = (parts.text_encoder, *parts.transformers, parts.vae)
    loaded = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    total = sum(tensor.nbytes for tensor in loaded)
    watched = [(weakref.ref(tensor), tensor.nbytes) for tensor in loaded]
    del loaded, modules
    regions, held = [0], []
    make = host_memory.Region.__init__

    def counting(self: host_memory.Region, nbytes: int, device: torch.device) -> None:
        held.append(sum(regions) + sum(size for reference, size in watched if reference() is not None))
        regions.append(nbytes)
        make(self, nbytes, device)

    monkeypatch.setattr(host_memory.Region, "__init__", counting)
    parts.place("group", torch.device("cpu"))
    assert len(held) == 17
    assert total <= max(held) < total * 1.1, "as much as at the start, before each group"


def _skip_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Streamed, "_wait", lambda _self, _slot: None)


def _skip_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.devices.fake_cuda.FakeStream.wait_stream", lambda _self, _other: None)


@pytest.mark.parametrize("mistake", [_skip_wait, _skip_order])
def test_the_emulation_finds_a_missing_wait(
    mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        parts = Parts()
        parts.place("group")
        with pytest.raises(Misuse):
            parts.denoise(parts.transformers[0])

    mistake(monkeypatch)
    with fake_cuda():
        run()


def test_the_emulation_finds_a_mixture(cuda: FakeCuda) -> None:
    with pytest.raises(Misuse, match="mixes tensors"):
        torch.ones(3, device=DEVICE) + torch.ones(3)
