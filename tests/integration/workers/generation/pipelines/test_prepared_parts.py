"""A model that is read from its prepared copies equals the one that is read from the published weights."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import torchao.quantization

from shared.models import prepared
from shared.models.prepared import KEPT_IN_FP32, Form
from tests.integration.workers.generation.lora_files import write_differences
from tests.support.models.generating import CATALOGUE, Studio, snapshots
from tests.support.models.prepared_models import own, prepared_here
from wanworks.requests import Quantization
from workers.generation import run
from workers.generation.pipelines.weights import loading, prepared_parts
from workers.generation.pipelines.weights.loading import LoadedModel

CPU = torch.device("cpu")


Prepared = Callable[[str, Form], Path]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """Return the snapshot of a model with its copies of one form, which are written once: each takes seconds."""
    folder = tmp_path_factory.mktemp("models")
    owned: dict[str, Path] = {}
    written: set[tuple[str, Form]] = set()

    def prepared_snapshot(model_id: str, form: Form) -> Path:
        if model_id not in owned:
            owned[model_id] = own(folder, model_id)
        if (model_id, form) not in written:
            prepared_here(folder, model_id, form)
            written.add((model_id, form))
        return owned[model_id]

    yield prepared_snapshot
    shutil.rmtree(folder)


def loaded(folder: Path, model_id: str, quantization: Quantization) -> LoadedModel:
    return loading.load(folder, CATALOGUE.get(model_id), quantization, "none", CPU, lambda: None)


def parts(model: LoadedModel) -> dict[str, torch.nn.Module]:
    return {"text_encoder": model.pipeline.text_encoder, **dict(enumerate(model.transformers))}  # type: ignore[dict-item]


def tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers; of a quantized one its plain parts."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if hasattr(tensor, "__tensor_flatten__"):
            names, attributes = tensor.__tensor_flatten__()
            found |= {f"{name}.{part}": getattr(tensor, part) for part in names}
            found[f"{name}.attributes"] = torch.tensor(list(repr(sorted(attributes.items())).encode()))
        else:
            found[name] = tensor.data
    return found


def same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    left, right = tensors(one), tensors(other)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert (tensor.dtype, tensor.shape) == (right[name].dtype, right[name].shape), name
        assert torch.equal(tensor, right[name]), name


def test_the_kept_modules_are_those_of_the_library() -> None:
    assert set(diffusers.WanTransformer3DModel._keep_in_fp32_modules) == KEPT_IN_FP32


@pytest.mark.parametrize(
    ("model_id", "quantization"),
    [
        ("T2V-A14B", "bf16"),
        ("TI2V-5B", "bf16"),
        ("T2V-A14B", "int8"),
        ("TI2V-5B", "fp8"),
        pytest.param("TI2V-5B", "int8", marks=pytest.mark.slow),
        pytest.param("T2V-A14B", "fp8", marks=pytest.mark.slow),
    ],
)
def test_every_parameter_equals_that_of_a_fresh_load(
    snapshot: Prepared, model_id: str, quantization: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared_folder = snapshot(model_id, quantization)
    fresh = loaded(snapshots()[model_id], model_id, quantization)

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the prepared copies need neither the published weights nor a quantization")

    monkeypatch.setattr(torchao.quantization, "quantize_", refused)
    monkeypatch.setattr("diffusers.quantizers.torchao.torchao_quantizer.quantize_", refused)
    monkeypatch.setattr(diffusers.WanTransformer3DModel, "from_pretrained", refused)
    monkeypatch.setattr(loading.UMT5EncoderModel, "from_pretrained", refused)
    copied = loaded(prepared_folder, model_id, quantization)
    for one, other in zip(parts(fresh).values(), parts(copied).values(), strict=True):
        assert not other.training
        same(one, other)
    assert copied.dtype == fresh.dtype
    assert copied.memory_mb == fresh.memory_mb


@pytest.mark.parametrize(
    "quantization", ["bf16", *(pytest.param(one, marks=pytest.mark.slow) for one in ("int8", "fp8"))]
)
def test_the_video_is_the_same_file(snapshot: Prepared, studio: Studio, quantization: Form) -> None:
    fresh = studio.generate("T2V-A14B", quantization=quantization)
    run.free()
    copied = studio.generate("T2V-A14B", quantization=quantization, snapshot=snapshot("T2V-A14B", quantization))
    assert not copied.outcome.warm
    assert copied.sha256 == fresh.sha256


@pytest.mark.slow
@pytest.mark.parametrize(
    "quantization", ["int8", *(pytest.param(one, marks=pytest.mark.slow) for one in ("bf16", "fp8"))]
)
def test_a_lora_has_the_same_effect(snapshot: Prepared, studio: Studio, quantization: Form) -> None:
    write_differences(studio.settings.loras_dir / "style.safetensors")
    asked: dict[str, Any] = {"quantization": quantization, "loras": [{"name": "style"}]}
    plain = studio.generate("TI2V-5B", quantization=quantization, snapshot=snapshot("TI2V-5B", quantization))
    copied = studio.generate("TI2V-5B", snapshot=snapshot("TI2V-5B", quantization), **asked)
    assert copied.outcome.warm
    assert copied.sha256 != plain.sha256
    run.free()
    assert studio.generate("TI2V-5B", **asked).sha256 == copied.sha256


@pytest.mark.parametrize("quantization", ["none", pytest.param("fp16", marks=pytest.mark.slow)])
def test_types_without_a_copy_are_read_from_the_published_weights(
    snapshot: Prepared, quantization: Quantization
) -> None:
    fresh = loaded(snapshots()["T2V-A14B"], "T2V-A14B", quantization)
    other = loaded(snapshot("T2V-A14B", "bf16"), "T2V-A14B", quantization)
    for one, same_part in zip(parts(fresh).values(), parts(other).values(), strict=True):
        same(one, same_part)


def test_a_copy_of_other_weights_is_not_used(tmp_path: Path) -> None:
    folder = own(tmp_path, "TI2V-5B")
    prepared_here(tmp_path, "TI2V-5B")
    assert prepared.find(folder, "transformer", "bf16") is not None
    for name in prepared.weights(folder, "transformer"):
        place = folder / name
        content = place.read_bytes()
        place.unlink()
        place.write_bytes(content)  # a plain file, with another identity
    assert prepared.find(folder, "transformer", "bf16") is None
    assert prepared_parts.read(folder, "transformer", "bf16", torch.bfloat16, CPU) is None
