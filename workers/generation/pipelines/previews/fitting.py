"""Fit the linear map from latents to colours by least squares, with the model's own VAE, on the CPU.

Short clips of random colours and shapes are encoded and decoded again. Each cell of a latent frame is paired with the
mean colour of the pixels and frames that the VAE decodes from it. The map is written only if it explains clips that it
was not fitted to better than their mean colour does; its R² is kept beside it.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from workers.generation.pipelines.chatter import hush

_CLIPS, _HELD_OUT = 12, 4
_CELLS = 8  # of a latent frame, along each edge
_FRAMES = 5  # two latent frames; the second is like those in the middle of a video
_SHAPES = 6  # in each clip
_RIDGE = 1e-6  # so that channels that a VAE does not use have no weight


def fit(folder: Path, target: Path, report: Callable[[int], None]) -> tuple[int, str]:
    """Fit the map for the VAE in the folder and write it, durably. Return size and sha256 of the file.

    `report` receives the number of clips that are done. Raises OSError; ValueError if the map explains nothing.
    """
    weight, bias, explained = fitted(folder, report)
    tensors = {"weight": weight.contiguous(), "bias": bias.contiguous()}
    content = save(tensors, metadata={"r2": f"{explained:.4f}"})
    target.unlink(missing_ok=True)
    with target.open("xb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    return len(content), hashlib.sha256(content).hexdigest()


def fitted(
    folder: Path, report: Callable[[int], None] = lambda _done: None
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return weight (channels, 3) and bias (3) of the map to colours from 0 to 1, and R² on clips held out.

    Raises ValueError if R² is not above 0.
    """
    hush()
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True).eval()
    pairs = []
    for place, clip in enumerate(clips(_CLIPS + _HELD_OUT, _CELLS * spatial_scale(vae))):
        pairs.append(_pair(vae, clip))
        report(place + 1)
    latents, colours = (torch.cat(parts).double() for parts in zip(*pairs[:_CLIPS], strict=True))
    ones = torch.ones(len(latents), 1, dtype=torch.float64)
    known = torch.cat([latents, ones], dim=1)
    ridge = _RIDGE * len(known) * torch.eye(known.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(known.T @ known + ridge, known.T @ colours).float()
    weight, bias = solution[:-1], solution[-1]
    latents, colours = (torch.cat(parts) for parts in zip(*pairs[_CLIPS:], strict=True))
    explained = r2(latents @ weight + bias, colours)
    if not explained > 0:
        raise ValueError(f"a linear map explains none of what this VAE decodes (R² {explained:.2f})")
    return weight, bias, explained


def r2(made: torch.Tensor, colours: torch.Tensor) -> float:
    """Return the share of the colours' variance that is explained: 1 for equal, 0 for no better than their mean."""
    variance = (colours - colours.mean(dim=0)).square().sum()
    return float(1 - (made - colours).square().sum() / variance) if variance > 0 else 0.0


def normalised(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Return latents as the transformers compute with them."""
    shape = (1, -1, 1, 1, 1)
    mean, std = (torch.tensor(values).view(shape) for values in (vae.config.latents_mean, vae.config.latents_std))
    return (latents - mean) / std


def spatial_scale(vae: Any) -> int:
    """Return how many pixels one cell of a latent frame has along each edge."""
    return int(vae.config.scale_factor_spatial)


def clips(count: int, edge: int) -> Iterator[torch.Tensor]:
    """Yield clips of (1, 3, frames, edge, edge) from -1 to 1: soft colours with sharp shapes, in slow motion."""
    random = torch.Generator().manual_seed(20)
    for _ in range(count):
        picture = _picture(random, edge)
        dx, dy = (int(step) for step in torch.randint(-2, 3, (2,), generator=random))
        frames = [torch.roll(picture, (place * dx, place * dy), (1, 2)) for place in range(_FRAMES)]
        yield torch.stack(frames, dim=1)[None] * 2 - 1


def _picture(random: torch.Generator, edge: int) -> torch.Tensor:
    picture = torch.zeros(3, edge, edge)
    for cells, share in ((2, 0.5), (4, 0.3), (12, 0.2)):
        coarse = torch.rand(1, 3, cells, cells, generator=random)
        soft = torch.nn.functional.interpolate(coarse, (edge, edge), mode="bicubic", align_corners=False)
        picture += share * soft[0]
    picture = (picture - 0.5) * (1 + 2 * float(torch.rand((), generator=random))) + 0.5
    rows, columns = torch.meshgrid(torch.arange(edge), torch.arange(edge), indexing="ij")
    for place in range(_SHAPES):
        top, left, size = (float(value) * edge for value in torch.rand(3, generator=random))
        size = size / 4 + 2
        if place % 2:
            inside = (rows - top).square() + (columns - left).square() < size * size
        else:
            inside = (rows >= top) & (rows < top + 2 * size) & (columns >= left) & (columns < left + 2 * size)
        colour = torch.rand(3, generator=random).round(decimals=place % 3)  # saturated ones too
        picture = torch.where(inside, colour[:, None, None], picture)
    return picture.clamp(0, 1)


def _pair(vae: Any, clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cells of the clip's second latent frame, and the colours that the VAE decodes from them."""
    with torch.no_grad():
        latents = vae.encode(clip).latent_dist.mode()
        decoded = vae.decode(latents).sample.clamp(-1, 1)
    cells = normalised(vae, latents)[0, :, 1]
    picture = (decoded[0, :, 1:].mean(dim=1) + 1) / 2
    rows, columns = cells.shape[1:]
    colours = torch.nn.functional.adaptive_avg_pool2d(picture[None], (rows, columns))[0]
    return cells.flatten(1).T, colours.flatten(1).T
