"""Load a model from its folder: read the components, place them on the device, add the hooks that can stop them.

Components are read one after another, and one that stays on the device is moved there before the next is read. The
network is never used.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
)
from safetensors import SafetensorError
from transformers import AutoTokenizer, UMT5EncoderModel

from shared.catalogue.models import CatalogueEntry, Offload
from shared.errors import ModelUnavailable
from shared.models.memory_plan import profile_name
from wanworks.requests import Quantization
from workers.generation.pipelines.guidance import ImagePipeline, TextPipeline
from workers.generation.pipelines.memory.freeing import ran_out
from workers.generation.pipelines.memory.placement import LAYOUTS, Layout, Placement, place
from workers.generation.pipelines.stopping import Stops
from workers.generation.pipelines.weights import prepared_parts, quantizing, shared_parts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """Identifies one loaded model."""

    model_id: str  # of the entry whose weights they are
    quantization: Quantization
    layout: Offload

    @property
    def profile(self) -> str:
        """Return the name under which results and the API show the layout."""
        return profile_name(self.quantization, self.layout)


@dataclass
class LoadedModel:
    """One model under one quantization and layout, ready to run on one device."""

    key: Key
    snapshot: Path
    entry: CatalogueEntry  # of the present job
    device: torch.device
    dtype: torch.dtype
    pipeline: Any  # TextPipeline, or ImagePipeline for a model that always starts from an image
    image_pipeline: Any | None  # of the same components, if the model can start from an image
    scheduler_config: dict[str, Any]  # as published
    solver: dict[str, Any]  # the scheduler's arguments by it; each job builds its own
    placement: Placement
    stops: Stops
    memory_mb: float  # weights that stay on the device between jobs, 10^6 bytes
    decode_tiled: bool = False  # by the plan of the present job
    encode_tiled: bool = False

    @property
    def transformers(self) -> list[torch.nn.Module]:
        both = (self.pipeline.transformer, self.pipeline.transformer_2)
        return [module for module in both if module is not None]


def load(
    snapshot: Path,
    entry: CatalogueEntry,
    quantization: Quantization,
    layout: Offload,
    device: torch.device,
    check: Callable[[], None],
) -> LoadedModel:
    """Read a model from its snapshot folder. `check` is called between components and may raise.

    Raises ModelUnavailable if the files are not those of such a model.
    """
    dtype = compute_dtype(quantization, device.type)
    try:
        scheduler_config, tokenizer = _small_parts(snapshot)
        parts: dict[str, Any] = {}
        for name, part in _parts(snapshot, entry, quantization, dtype, device, LAYOUTS[layout]):
            parts[name] = part.eval()
            if LAYOUTS[layout].resident(name):
                part.to(device)  # at once, so that the host holds one of these at a time
            check()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if ran_out(error) or (isinstance(error, RuntimeError) and "shape" not in str(error)):
            raise
        log.warning("cannot load %s from %s: %s", entry.model_id, snapshot, error)
        raise ModelUnavailable(f"The files of {entry.model_id} on this node cannot be loaded.") from error

    transformers = [parts[name] for name in ("transformer", "transformer_2") if name in parts]
    placement = place(layout, device, parts["text_encoder"], transformers, parts["vae"])
    pipeline, image_pipeline = _pipelines(entry, parts, tokenizer, scheduler_config, device)
    return LoadedModel(
        key=Key(entry.weights_id, quantization, layout),
        snapshot=snapshot,
        entry=entry,
        device=device,
        dtype=dtype,
        pipeline=pipeline,
        image_pipeline=image_pipeline,
        scheduler_config=scheduler_config,
        solver=UniPCMultistepScheduler.extract_init_dict(scheduler_config)[0],
        placement=placement,
        stops=_stops(parts["text_encoder"], transformers, parts["vae"], device),
        memory_mb=round(sum(_bytes_on(device.type, part) for part in parts.values()) / 1e6, 1),
    )


def compute_dtype(quantization: Quantization, device_kind: str) -> torch.dtype:
    """Return the type that transformers and text encoder compute in; the VAE's is always float32.

    ``none`` is the type that the models were published for: bfloat16; on a CPU float32, because 16 bits are slow there.
    """
    if quantization == "fp16":
        return torch.float16
    if quantization == "none" and device_kind == "cpu":
        return torch.float32
    return torch.bfloat16


def _small_parts(snapshot: Path) -> tuple[dict[str, Any], Any]:
    config = UniPCMultistepScheduler.load_config(snapshot / "scheduler", local_files_only=True)
    return dict(config), AutoTokenizer.from_pretrained(snapshot / "tokenizer", local_files_only=True)


def _parts(
    snapshot: Path,
    entry: CatalogueEntry,
    quantization: Quantization,
    dtype: torch.dtype,
    device: torch.device,
    layout: Layout,
) -> Iterator[tuple[str, Any]]:
    """Yield each component with weights; it is read when it is requested, from its prepared copy if there is one.

    One that stays on the device is read there, and may be one that another loaded model has.
    """
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}

    def read(name: str, kind: torch.dtype, published: Callable[[], Any]) -> tuple[str, Any]:
        stays = layout.resident(name)

        def alone() -> Any:
            part = prepared_parts.read(snapshot, name, quantization, kind, device if stays else torch.device("cpu"))
            return part if part is not None else published()

        return name, shared_parts.shared(snapshot, name, kind, device, alone) if stays else alone()

    # The text encoder stays in 16 bits under int8 and fp8: it fits every profile, and the prompt stays exact.
    encoder = partial(UMT5EncoderModel.from_pretrained, snapshot / "text_encoder", dtype=dtype, **options)
    yield read("text_encoder", dtype, encoder)
    for name in ("transformer", "transformer_2")[: 1 if entry.boundary_ratio is None else 2]:
        form = quantizing.form_of(quantization)
        quantized = {"quantization_config": quantizing.config(form)} if form is not None else {}
        expert = partial(WanTransformer3DModel.from_pretrained, snapshot / name, dtype=dtype, **quantized, **options)
        yield read(name, dtype, expert)
    vae = partial(AutoencoderKLWan.from_pretrained, snapshot / "vae", dtype=torch.float32, **options)
    yield read("vae", torch.float32, vae)


def _pipelines(
    entry: CatalogueEntry,
    parts: dict[str, Any],
    tokenizer: Any,
    scheduler_config: dict[str, Any],
    device: torch.device,
) -> tuple[Any, Any | None]:
    """Return the pipeline that starts from text (or from an image if the model always does), and the one for an image.

    Both use the same components. The libraries' from_pipe() would cast the shared weights.
    """
    common = {
        **parts,
        "transformer_2": parts.get("transformer_2"),
        "tokenizer": tokenizer,
        "scheduler": UniPCMultistepScheduler.from_config(scheduler_config),
        "boundary_ratio": entry.boundary_ratio,
    }
    # With an image the first frame has another timestep than the others, so each token has its own. From text all are
    # equal, and one for all saves computing the modulation again for each token.
    expands = entry.pipeline == "wan-ti2v"
    image_pipeline = ImagePipeline(**common, expand_timesteps=expands) if entry.image != "refused" else None
    pipeline = image_pipeline if entry.pipeline == "wan-i2v" else TextPipeline(**common)
    for made in (pipeline, image_pipeline):
        if made is not None:
            made.set_progress_bar_config(disable=True)
            made.runs_on = device
    return pipeline, image_pipeline


def _stops(text_encoder: Any, transformers: list[Any], vae: Any, device: torch.device) -> Stops:
    """Return hooks at text layers, transformer blocks and the VAE's blocks."""
    stops = Stops(device)
    stops.watch(text_encoder.encoder.block)
    stops.watch((vae.encoder, *vae.encoder.down_blocks, vae.encoder.mid_block))
    stops.watch((vae.decoder, *vae.decoder.up_blocks, vae.decoder.mid_block))
    for transformer in transformers:
        stops.watch_transformer(transformer)
        stops.watch_blocks(transformer.blocks)
    return stops


def _bytes_on(kind: str, module: torch.nn.Module) -> int:
    tensors = (*module.parameters(), *module.buffers())
    return sum(_tensor_bytes(tensor) for tensor in tensors if tensor.device.type == kind)


def _tensor_bytes(tensor: torch.Tensor) -> int:
    if hasattr(tensor, "__tensor_flatten__"):  # a quantized weight consists of several tensors
        names, _ = tensor.__tensor_flatten__()
        return sum(_tensor_bytes(getattr(tensor, name)) for name in names)
    return tensor.nbytes
