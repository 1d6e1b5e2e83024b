"""Warm models, types of numbers, and generation where memory runs out."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from shared.catalogue.models import Offload
from shared.errors import Cancelled, OutOfMemory
from shared.states import Phase
from tests.integration.workers.generation.lora_files import write_differences
from tests.integration.workers.generation.stopping import Stop
from tests.support.models.generating import Studio, decoded, snapshots
from workers.devices import discovery
from workers.generation import run
from workers.generation.pipelines.memory.placement import place
from workers.generation.pipelines.weights import loading


def test_int8_is_another_warm_entry_of_the_same_model(tmp_path: Path, studio: Studio) -> None:
    from torchao.utils import TorchAOBaseTensor

    wide = Studio(tmp_path / "wide", warm_models=2)
    exact = wide.generate("T2V-A14B")
    quantized = wide.generate("T2V-A14B", quantization="int8")
    assert wide.generate("T2V-A14B").outcome.warm
    assert wide.generate("T2V-A14B", quantization="int8").outcome.warm
    assert exact.sha256 != quantized.sha256
    assert quantized.outcome.profile == "int8-full"
    listed = {(entry["quantization"], entry["profile"]): entry["memory_mb"] for entry in run.warm()}
    assert set(listed) == {("none", "full"), ("int8", "int8-full")}
    assert listed["int8", "int8-full"] < listed["none", "full"]
    models = run._warm_models
    assert models is not None
    weight = next(iter(models._models.values())).transformers[0].blocks[0].attn1.to_q.weight
    assert not isinstance(weight, TorchAOBaseTensor)
    weight = list(models._models.values())[-1].transformers[0].blocks[0].attn1.to_q.weight
    assert isinstance(weight, TorchAOBaseTensor)


@pytest.mark.parametrize("quantization", ["fp16", "bf16"])
def test_sixteen_bit_types_run_with_the_vae_in_thirty_two(studio: Studio, quantization: str) -> None:
    made = studio.generate("TI2V-5B", quantization=quantization)
    assert made.outcome.manifest["dtype"] == {"fp16": "float16", "bf16": "bfloat16"}[quantization]
    models = run._warm_models
    assert models is not None
    assert next(iter(models._models.values())).pipeline.vae.dtype is torch.float32


def test_one_model_is_kept_where_there_is_room_for_one(studio: Studio) -> None:
    studio.generate("TI2V-5B")
    studio.generate("T2V-A14B")
    assert [entry["model_id"] for entry in run.warm()] == ["T2V-A14B"]
    assert not studio.generate("TI2V-5B").outcome.warm


def crowd_out(monkeypatch: pytest.MonkeyPatch, error: Exception, largest: int) -> Counter[str]:
    """A device on which no convolution may take more than `largest` numbers, as one with little memory behaves."""
    monkeypatch.setattr(discovery, "free_memory_mb", lambda _device: 8_000)  # or what else runs here would decide
    calls = Counter[str]()
    convolve = torch.nn.functional.conv3d

    def limited(input: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if input.numel() > largest:
            calls["refused"] += 1
            raise error
        return convolve(input, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "conv3d", limited)
    return calls


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the forward passes of transformers. Two make a step of a guided generation."""
    counted = Counter[str]()
    forward = WanTransformer3DModel.forward

    def counting(self: WanTransformer3DModel, *args: object, **kwargs: object) -> object:
        counted["passes"] += 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(WanTransformer3DModel, "forward", counting)
    return counted


def test_a_decode_without_memory_is_repeated_in_tiles_and_no_step_is(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, passes: Counter[str]
) -> None:
    calls = crowd_out(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), largest=1_000_000)
    made = studio.generate("TI2V-5B", resolution="416x240", frames=9, steps=3)
    assert (calls["refused"], passes["passes"]) == (1, 6)
    assert made.outcome.notes[0] == "Ran out of memory under full after 3 of 3 steps; continued with tiles."
    assert made.outcome.manifest["notes"] == list(made.outcome.notes)
    assert made.outcome.manifest["vae_tiled"]
    video = decoded(made.video)
    assert (video.width, video.height, len(video.frames)) == (416, 240, 9)
    # The next job knows, and has no failure.
    again = studio.generate("TI2V-5B", resolution="416x240", frames=9, steps=3)
    assert (calls["refused"], passes["passes"]) == (1, 12)
    assert again.outcome.warm
    assert again.outcome.notes == ()
    assert again.sha256 == made.sha256
    # A smaller one is not concerned.
    assert not studio.generate("TI2V-5B").outcome.manifest["vae_tiled"]


def test_a_worker_that_restarts_knows_what_ran_out_of_memory(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = crowd_out(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), largest=1_000_000)
    studio.generate("TI2V-5B", resolution="416x240", frames=9)
    run.free()
    monkeypatch.setattr(run, "_warm_models", None)
    studio.generate("TI2V-5B", resolution="416x240", frames=9)
    assert calls["refused"] == 1
    monkeypatch.setattr(discovery, "free_memory_mb", lambda _device: 9_000)
    studio.generate("TI2V-5B", resolution="416x240", frames=9)
    assert calls["refused"] == 2, "with more free memory it is tried again"


@pytest.mark.parametrize(
    ("model_id", "fails_at"),
    [
        ("T2V-A14B", 4),
        ("T2V-A14B", 8),
        ("I2V-A14B", 8),
        ("TI2V-5B", 4),
        pytest.param("T2V-A14B", 1, marks=pytest.mark.slow),
        pytest.param("I2V-A14B", 1, marks=pytest.mark.slow),
        pytest.param("I2V-A14B", 4, marks=pytest.mark.slow),
        pytest.param("TI2V-5B", 1, marks=pytest.mark.slow),
        pytest.param("TI2V-5B", 8, marks=pytest.mark.slow),
    ],
)
def test_denoising_goes_on_after_the_last_completed_step(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, model_id: str, fails_at: int
) -> None:
    request: dict[str, Any] = {"steps": 5, "image": studio.picture() if model_id == "I2V-A14B" else None}
    undisturbed = studio.generate(model_id, **request)
    shown: list[int] = []
    forward, calls = WanTransformer3DModel.forward, Counter[str]()

    def failing_once(self: WanTransformer3DModel, *args: object, **kwargs: object) -> object:
        calls["passes"] += 1
        if calls["passes"] == fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(WanTransformer3DModel, "forward", failing_once)
    report = lambda phase, step=None, steps=None: shown.append(step) if phase is Phase.DENOISING else None  # noqa: E731
    made = studio.generate(model_id, report=report, **request)
    completed = (fails_at - 1) // 2
    # What was done of the step that failed is repeated, and nothing before it.
    assert calls["passes"] == 10 + fails_at - 2 * completed
    assert f"after {completed} of 5 steps" in made.outcome.notes[0]
    assert shown == sorted(shown)
    assert shown[-1] == 5
    # A tile as large as the picture decodes the same.
    assert made.sha256 == undisturbed.sha256


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_twice_fails_clearly_and_frees_everything(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with monkeypatch.context() as patch:
        calls = crowd_out(patch, error, largest=0)
        with pytest.raises(OutOfMemory, match="TI2V-5B at 64x64 with 9 frames"):
            studio.generate("TI2V-5B")
        assert calls["refused"] == 2
    assert run.warm() == []
    assert studio.generate("TI2V-5B").outcome.profile == "full"


def test_tiles_show_the_same_picture(tmp_path: Path, studio: Studio) -> None:
    """Tiling may differ at the seams only."""
    import numpy

    whole = studio.generate("TI2V-5B", resolution="416x240", frames=9)
    run.free()
    run._warm_models = None
    tiled = Studio(tmp_path / "tiled", memory_profile="stream").generate("TI2V-5B", resolution="416x240", frames=9)
    assert tiled.outcome.manifest["vae_tiled"]
    one, other = (numpy.stack(decoded(made.video).frames).astype(float) for made in (whole, tiled))
    assert one.shape == other.shape
    assert numpy.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9
    assert whole.sha256 != tiled.sha256


def _aligned(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """Move weights that lie in memory as in their file to where an allocation would put them, as the masters are.

    On a CPU the product of a matrix with a single row is rounded differently where the matrix is not aligned.
    """
    text_encoder, transformers, vae = parts
    for module in (text_encoder, *transformers, vae):
        for parameter in module.parameters():
            if type(parameter.data) is torch.Tensor and parameter.data_ptr() % 64:
                parameter.data = parameter.data.clone()
    return parts


@pytest.mark.parametrize("offload", ["text", "model", "group"])
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_components_that_take_turns_make_the_same_picture(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, offload: Offload, quantization: str
) -> None:
    """The hooks of the offloading profiles, between the CPU and itself; that memory is saved only a GPU can show."""
    write_differences(studio.settings.loras_dir / "style.safetensors")
    picture = studio.picture()

    def make() -> list[str]:
        jobs = [{"image": picture}, {}, {"loras": [{"name": "style"}]}, {"prompt": "a dog", "image": picture}]
        return [studio.generate("TI2V-5B", quantization=quantization, **job).sha256 for job in jobs]

    monkeypatch.setattr(loading, "place", lambda layout, device, *parts: place(layout, device, *_aligned(parts)))
    resident = make()
    run.free()
    monkeypatch.setattr(loading, "place", lambda _layout, device, *parts: place(offload, device, *_aligned(parts)))
    assert make() == resident
    stop = Stop(Phase.DENOISING, 1)
    with pytest.raises(Cancelled):
        studio.generate("TI2V-5B", quantization=quantization, report=stop.report, check=stop.check)
    assert make() == resident


def test_another_revision_replaces_the_warm_one(studio: Studio, tmp_path: Path) -> None:
    copy = tmp_path / "other-revision"
    copy.symlink_to(snapshots()["TI2V-5B"])
    studio.generate("TI2V-5B")
    made = studio.generate("TI2V-5B", snapshot=copy)
    assert not made.outcome.warm
    assert len(run.warm()) == 1
