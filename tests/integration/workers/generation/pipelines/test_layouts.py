"""Whole generations on an emulated CUDA device, under every layout, with LoRAs and cancels."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from shared.catalogue.models import Offload
from shared.catalogue.resolving import resolve
from shared.errors import Cancelled
from shared.states import Phase
from tests.integration.workers.generation.lora_files import write_differences, write_lora
from tests.support.devices.fake_cuda import DEVICE, FakeCuda, fake_cuda
from tests.support.models.generating import CATALOGUE, Studio, snapshots
from wanworks.requests import GenerationRequest, Quantization
from workers.generation.frames.geometry import plan
from workers.generation.frames.pictures import NO_PICTURES, Pictures
from workers.generation.pipelines import running
from workers.generation.pipelines.memory import host_memory
from workers.generation.pipelines.memory.placement import LAYOUTS
from workers.generation.pipelines.prompts import PromptCache
from workers.generation.pipelines.resuming import Denoising
from workers.generation.pipelines.weights import loras
from workers.generation.pipelines.weights.loading import LoadedModel, load


class Loaded:
    """A model that is loaded under a layout."""

    def __init__(self, studio: Studio, layout: Offload, quantization: Quantization, model_id: str = "T2V-A14B") -> None:
        self.studio = studio
        self.quantization = quantization
        self.entry = CATALOGUE.get(model_id)
        self.model: LoadedModel = load(
            snapshots()[model_id], self.entry, quantization, layout, DEVICE, check=lambda: None
        )
        self.prompts = PromptCache(0)

    def run(self, lora: str | None = None, signals: running.Signals | None = None, **request: Any) -> numpy.ndarray:
        chosen: list[dict[str, Any]] = [{"name": lora}] if lora else []
        asked = {"resolution": "64x64", "frames": 9, "steps": 2, "seed": 7, "prompt": "a cat on the moon", **request}
        params = resolve(
            GenerationRequest(model_id=self.entry.model_id, quantization=self.quantization, loras=chosen, **asked),
            self.entry,
            None,
        )
        found = loras.find(params.loras, self.studio.settings.loras_dir, 1 if self.entry.boundary_ratio is None else 2)
        quiet = running.Signals(enter=lambda *_: None, check=lambda: None)
        frames = running.run(
            self.model, params, plan(params, self.entry), NO_PICTURES, found, self.prompts, signals or quiet,
            lambda _size: True, Denoising(),
        )  # fmt: skip
        return numpy.stack(frames)


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda() as made:
        yield made


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    snapshots()
    made = Studio(tmp_path)
    write_lora(made.settings.loras_dir / "style.safetensors")
    write_differences(made.settings.loras_dir / "differences.safetensors")
    return made


@pytest.mark.parametrize(
    ("quantization", "lora"),
    [
        pytest.param("bf16", "differences", marks=pytest.mark.slow),
        pytest.param("int8", "style", marks=pytest.mark.slow),
        pytest.param("int8", "differences", marks=pytest.mark.slow),
        pytest.param("fp8", "style", marks=pytest.mark.slow),
    ],
)
def test_a_lora_on_the_first_job_after_a_load_and_on_later_ones(
    cuda: FakeCuda, studio: Studio, quantization: Quantization, lora: str
) -> None:
    resident = Loaded(studio, "none", quantization)
    styled, plain = resident.run(lora), resident.run()
    assert not numpy.array_equal(styled, plain)
    del resident
    for layout in LAYOUTS:
        model = Loaded(studio, layout, quantization)
        assert numpy.array_equal(model.run(lora), styled), layout
        assert numpy.array_equal(model.run(), plain), layout
        assert numpy.array_equal(model.run(lora), styled), layout
        assert numpy.array_equal(model.run(lora), styled), layout
        del model
        gc.collect()
        assert cuda.live == sum(cuda.locked.values()) == host_memory.locked_bytes() == 0


@pytest.mark.parametrize(
    ("layout", "quantization"),
    [
        *((layout, "bf16") for layout in LAYOUTS),
        ("group", "int8"),
        pytest.param("group", "fp8", marks=pytest.mark.slow),
    ],
)
def test_a_cancel_takes_effect_before_the_next_block(
    cuda: FakeCuda, studio: Studio, layout: Offload, quantization: Quantization
) -> None:
    model = Loaded(studio, layout, quantization)
    styled = model.run("style", steps=4)  # with two steps the low-noise expert would not run
    computed: list[str] = []
    for name, transformer in zip(("high", "low"), model.model.transformers, strict=True):
        for number, block in enumerate(transformer.blocks):
            block.register_forward_hook(lambda *_, at=f"{name} {number}": computed.append(at))

    def check() -> None:
        if computed[-1:] == ["low 0"]:
            raise Cancelled

    phases: list[Phase] = []
    signals = running.Signals(enter=lambda phase, *_: phases.append(phase), check=check)
    with pytest.raises(Cancelled):
        model.run("style", signals, steps=4)
    assert computed[-3:] == ["high 0", "high 1", "low 0"], "not one block more"
    assert Phase.DECODING not in phases
    gc.collect()
    assert cuda.buffers == 0, "no weight that visits the device has stayed"
    assert numpy.array_equal(model.run("style", steps=4), styled)


def test_a_model_that_takes_an_image_under_every_layout(cuda: FakeCuda, studio: Studio) -> None:
    picture = Image.open(studio.picture())
    made = []
    for layout in LAYOUTS:
        model = Loaded(studio, layout, "bf16", "TI2V-5B")
        params = resolve(
            GenerationRequest(
                model_id="TI2V-5B", resolution="64x64", frames=9, steps=2, seed=7, prompt="a cat", quantization="bf16"
            ),
            model.entry,
            "input",
        )
        quiet = running.Signals(enter=lambda *_: None, check=lambda: None)
        frames = running.run(
            model.model,
            params,
            plan(params, model.entry),
            Pictures(picture),
            (),
            model.prompts,
            quiet,
            lambda _size: True,
            Denoising(),
        )
        made.append(numpy.stack(frames))
    assert all(numpy.array_equal(frames, made[0]) for frames in made)


def test_weights_that_leave_the_device_are_the_masters_again(cuda: FakeCuda, studio: Studio) -> None:
    model = Loaded(studio, "model", "bf16")
    experts = model.model.transformers
    masters = [tensor.data_ptr() for expert in experts for tensor in expert.parameters()]
    model.run()
    assert masters == [tensor.data_ptr() for expert in experts for tensor in expert.parameters()]
