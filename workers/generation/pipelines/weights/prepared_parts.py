"""Read a component from its prepared copy: mapped to the device as it is, without a cast and without quantizing.

The result equals the component that the libraries make of the published weights, parameter by parameter.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import WanTransformer3DModel
from safetensors import SafetensorError, safe_open
from transformers import UMT5Config, UMT5EncoderModel

from shared.models import prepared
from shared.models.prepared import KEPT_IN_FP32, Copy, Form
from wanworks.requests import Quantization
from workers.generation.pipelines.weights import quantizing

log = logging.getLogger(__name__)


def read(
    snapshot: Path, component: str, quantization: Quantization, dtype: torch.dtype, device: torch.device
) -> torch.nn.Module | None:
    """Return the component from a copy, on the device; None if it must be read from the published weights.

    Where the published weights were removed, types that no copy serves are converted from the 16-bit copy.
    """
    form = _form(component, quantization, dtype)
    copy = prepared.find(snapshot, component, form) if form is not None else None
    if copy is not None:
        try:
            return _built(snapshot, copy, device)
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
            if not prepared.has_sources(snapshot, component) or isinstance(error, torch.OutOfMemoryError):
                raise
            log.warning("the prepared %s of %s cannot be read; reading the published one: %s", form, component, error)
            return None
    standing_in = prepared.standing_in(snapshot, component)
    if standing_in is None:
        return None
    log.info("%s: its published weights were removed; %s is converted from the 16-bit copy", component, dtype)
    return _converted(_built(snapshot, standing_in, device), component, quantization, dtype)


def _form(component: str, quantization: Quantization, dtype: torch.dtype) -> Form | None:
    if component not in prepared.COMPONENTS or dtype is not torch.bfloat16:
        return None
    return prepared.form_of(component, quantizing.form_of(quantization) or "bf16")


def _built(snapshot: Path, copy: Copy, device: torch.device) -> torch.nn.Module:
    folder = snapshot / copy.component
    with _default_dtype(torch.bfloat16), init_empty_weights():
        model: Any
        if copy.component == "text_encoder":
            model = UMT5EncoderModel(UMT5Config.from_pretrained(folder, local_files_only=True, dtype=torch.bfloat16))
        else:
            model = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(folder, local_files_only=True))
    form = quantizing.form_of(copy.form)
    quantizer = quantizing.quantizer(model, form) if form is not None else None
    missing = set(model.state_dict())
    for file in copy.files:
        tensors = _tensors(snapshot / file.path, form, device)
        missing -= set(tensors)
        model.load_state_dict(tensors, strict=False, assign=True)
    if copy.component == "text_encoder":
        model.tie_weights()
        missing -= {"encoder.embed_tokens.weight", "shared.weight"}
    if missing or any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(f"the copy of {copy.component} has another shape: it lacks {sorted(missing)[:3]}")
    for buffer_name, buffer in list(model.named_buffers()):
        owner, _, name = buffer_name.rpartition(".")
        setattr(model.get_submodule(owner), name, buffer.to(device))
    if quantizer is not None:
        quantizer.postprocess_model(model)
        model.hf_quantizer = quantizer
    model.eval()
    return model  # type: ignore[no-any-return]


def _tensors(place: Path, form: quantizing.Quantized | None, device: torch.device) -> dict[str, torch.Tensor]:
    """Return the file's tensors by name; those of quantized weights are put together."""
    with safe_open(place, framework="pt", device=str(device)) as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a mapping
        metadata = file.metadata() or {}
    if form is None:
        return found
    described = json.loads(metadata.get(form, "{}"))
    for name, attributes in described.items():
        parts = {part: found.pop(f"{name}.{part}") for part in attributes["parts"]}
        found[name] = quantizing.composed(form, attributes, parts)
    return found


def _converted(model: Any, component: str, quantization: Quantization, dtype: torch.dtype) -> torch.nn.Module:
    """Return the 16-bit component in another type. Numbers keep the precision of 16 bits."""
    kept = KEPT_IN_FP32 if component != "text_encoder" else frozenset()
    if component == "text_encoder" and dtype is torch.float16:
        kept = frozenset(UMT5EncoderModel._keep_in_fp32_modules or ())
    for name, parameter in model.named_parameters():
        target = torch.float32 if not kept.isdisjoint(name.split(".")) else dtype
        parameter.data = parameter.data.to(target)
    form = quantizing.form_of(quantization)
    if form is not None and component != "text_encoder":
        quantizing.apply(model, form)
    return model  # type: ignore[no-any-return]


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
