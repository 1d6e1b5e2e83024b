"""The section about the memory plan: the peak of each stage at the published widths, against what the plan expects."""

from collections.abc import Callable

import torch

from shared.catalogue import memory_data
from shared.catalogue.memory_facts import Memory
from shared.models import memory_plan
from tests.gpu.components import Size, components, denoise, inputs, released, synchronize
from tests.gpu.table import Table
from workers.generation import demo_models
from workers.generation.frames.geometry import Box
from workers.generation.pipelines import decoding

_SIZES = ((832, 480, 81), (1280, 720, 81))
_SMALL = ((64, 64, 9),)


def peaks(table: Table, device: torch.device, size: Size) -> None:
    """Measure denoising, decoding (whole and in tiles) and encoding, without the weights."""
    from types import SimpleNamespace

    facts = memory_data.T2V_A14B if size.real else memory_data.TINY["T2V-A14B"]
    for width, height, frames in _SIZES if size.real else _SMALL:
        name = f"{width}x{height}x{frames}"
        planned = memory_plan.Size(width, height, frames, image=False)
        given = Size(1, 1, planned.latent_frames, height // 8, width // 8, size.real)
        held = SimpleNamespace(parts=components(given, device))
        transformer = held.parts.transformers[0].to(device)
        passed = inputs(held.parts, given, device)
        _row(table, device, f"denoising, {name}", memory_plan.denoise_bytes(facts, planned),
             lambda t=transformer, p=passed: denoise(t, p))  # fmt: skip
        del transformer, passed
        vae = held.parts.vae.to(device)
        latents = torch.zeros(1, 16, planned.latent_frames, height // 8, width // 8, device=device)
        crop = Box(0, 0, width, height)
        for tiled, expected in ((False, memory_plan.decode_bytes(facts, planned)), (True, _tiled(facts, planned))):
            _row(table, device, f"decoding {'in tiles' if tiled else 'whole'}, {name}", expected,
                 lambda t=tiled, v=vae, z=latents, c=crop: _decoded(v, z, c, t))  # fmt: skip
        released(held)
    _encoding(table, device, size)


def _encoding(table: Table, device: torch.device, size: Size) -> None:
    from diffusers import AutoencoderKLWan

    facts = memory_data.I2V_A14B if size.real else memory_data.TINY["I2V-A14B"]
    source = demo_models.REAL if size.real else demo_models.DEMO
    with device:
        vae = AutoencoderKLWan(**source["I2V-A14B"].vae).eval()
    for width, height, frames in _SIZES if size.real else _SMALL:
        planned = memory_plan.Size(width, height, frames, image=True)
        _row(table, device, f"encoding whole, {width}x{height}x{frames}", memory_plan.encode_bytes(facts, planned),
             lambda w=width, h=height, f=frames: vae.encode(_video(w, h, f, device)))  # fmt: skip


def _video(width: int, height: int, frames: int, device: torch.device) -> torch.Tensor:
    image = torch.zeros(1, 3, 1, height, width, device=device)
    return torch.cat([image, image.new_zeros(1, 3, frames - 1, height, width)], dim=2)


def _decoded(vae: torch.nn.Module, latents: torch.Tensor, crop: Box, tiled: bool) -> None:
    for _frame in decoding.frames(vae, latents, crop, tiled, lambda _done, _count: None):
        pass


def _tiled(facts: Memory, size: memory_plan.Size) -> int:
    return round(memory_plan.MARGIN * memory_plan._decode(facts, size, tiled=True))


def _row(table: Table, device: torch.device, what: str, planned: int, work: Callable[[], object]) -> None:
    """Measure the peak above what is allocated before. On a CPU nothing is measured, only run."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    with torch.no_grad():
        work()
    synchronize(device)
    if device.type == "cuda":
        peak = (torch.cuda.max_memory_allocated(device) - before) / 1e9
        table.row(f"{what}: peak; planned {planned / 1e9:.2f} GB with margin", peak, "GB", at_most=planned / 1e9)
    else:
        table.row(f"{what}: planned, with margin", planned / 1e9, "GB")
