"""Components from random numbers at the real widths, made on the device and moved to the host; nothing is written."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from workers.generation import demo_models


@dataclass(frozen=True)
class Size:
    """How large a section's components and inputs are."""

    layers: int
    text_layers: int
    frames: int  # of latents
    height: int
    width: int
    real: bool = True


REAL = Size(layers=6, text_layers=2, frames=21, height=90, width=160)  # 81 frames of 1280x720: 75,600 tokens
SMALL = Size(layers=3, text_layers=2, frames=2, height=8, width=8, real=False)


@dataclass(frozen=True)
class Components:
    text_encoder: Any
    transformers: list[Any]
    vae: Any
    shape: demo_models.Shape

    @property
    def all(self) -> tuple[Any, list[Any], Any]:
        return self.text_encoder, self.transformers, self.vae


def components(size: Size, device: torch.device, int8: bool = False, experts: int = 1) -> Components:
    """Return the components of A14B with fewer layers, on the host, in the types that they run in."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    source = demo_models.REAL if size.real else demo_models.DEMO
    shape = demo_models.reduced(source["T2V-A14B"], {"num_layers": size.layers}, {}, {"num_layers": size.text_layers})
    text = UMT5Config(vocab_size=256384 if size.real else 500, **shape.text_encoder)
    transformers = [_made(lambda: WanTransformer3DModel(**shape.transformer), device, True) for _ in range(experts)]
    if int8:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        for transformer in transformers:
            quantize_(transformer.to(device), Int8WeightOnlyConfig())
            transformer.to("cpu")
    return Components(
        _made(lambda: UMT5EncoderModel(text), device, True),
        transformers,
        _made(lambda: AutoencoderKLWan(**shape.vae), device, False),
        shape,
    )


def _made(build: Callable[[], Any], device: torch.device, half: bool) -> Any:
    with device:
        module = build().eval()
    keep = tuple(getattr(module, "_keep_in_fp32_modules", None) or ())
    for name, parameter in module.named_parameters():
        if half and not any(part in name for part in keep):
            parameter.data = parameter.data.to(torch.bfloat16)
    return module.to("cpu")


def inputs(parts: Components, size: Size, device: torch.device) -> dict[str, torch.Tensor]:
    """Return the inputs of one pass of a transformer."""
    random = torch.Generator().manual_seed(4)
    channels, width = parts.shape.transformer["in_channels"], parts.shape.transformer["text_dim"]
    latents = torch.randn(1, channels, size.frames, size.height, size.width, generator=random)
    prompt = torch.randn(1, 512 if size.real else 8, width, generator=random)
    return {
        "hidden_states": latents.to(device, torch.bfloat16),
        "timestep": torch.full((1,), 500.0).to(device),
        "encoder_hidden_states": prompt.to(device, torch.bfloat16),
    }


def denoise(transformer: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        made: torch.Tensor = transformer(**given, return_dict=False)[0]
    return made


def seconds(device: torch.device, work: Callable[[], object], times: int = 1) -> float:
    """Return how long one call takes until the device is idle: the median of `times`."""
    measured = []
    for _ in range(times):
        synchronize(device)
        since = time.perf_counter()
        work()
        synchronize(device)
        measured.append(time.perf_counter() - since)
    return sorted(measured)[len(measured) // 2]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pipeline(parts: Components) -> Any:
    """Return what LoRAs are applied to: a pipeline of these components."""
    from diffusers import UniPCMultistepScheduler, WanPipeline

    return WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=parts.vae,
        scheduler=UniPCMultistepScheduler(),
        transformer=parts.transformers[0],
        transformer_2=None,
        boundary_ratio=None,
    )


def released(*holders: SimpleNamespace) -> None:
    """Drop what the holders hold, and return its memory."""
    from workers.generation.pipelines.memory.freeing import give_back

    for holder in holders:
        holder.__dict__.clear()
    give_back()
