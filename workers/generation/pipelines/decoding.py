"""Decode latents to frames chunk by chunk: the device holds four frames as floats at a time, not the whole video.

The arithmetic is that of the pipelines' own decoding and post-processing: untiled frames are bit-identical to theirs.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d, unpatchify

from shared.errors import BadOutput
from workers.generation.frames.geometry import Box

TILE_PIXELS = 256  # a tile's edge; like the stride below, the pipelines' own value
STRIDE_PIXELS = 192


@dataclass(frozen=True)
class Decoder:
    """What decodes: the VAE's own modules, or a copy of them in another type or memory format."""

    config: Any
    dtype: torch.dtype
    post_quant_conv: Any
    decoder: Any


def decoder(vae: AutoencoderKLWan, *, half: bool, channels_last: bool) -> Decoder:
    """Return the VAE's decoder. `half`: a copy in bfloat16. `channels_last`: a copy in that memory format."""
    modules = [vae.post_quant_conv, vae.decoder]
    dtype = torch.bfloat16 if half else vae.dtype
    if half or channels_last:
        # The hooks that can stop a decode are copied too.
        modules = [copy.deepcopy(module).to(dtype) for module in modules]
    if channels_last:
        for parameter in (each for module in modules for each in module.parameters() if each.dim() == 5):
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return Decoder(vae.config, dtype, *modules)


def frames(
    vae: Decoder, latents: torch.Tensor, crop: Box, tiled: bool, on_chunk: Callable[[int, int], None]
) -> Iterator[numpy.ndarray]:
    """Yield frames as arrays (height, width, 3) of uint8, cropped to `crop`.

    `latents` is (1, channels, chunks, height, width), normalised, on the VAE's device. `on_chunk` is called with (done,
    total) after each chunk and may raise. Tiling needs less memory and differs slightly at the seams.
    Raises BadOutput if a value is not a finite number.
    """
    latents = _denormalised(vae, latents).to(vae.dtype)
    decoded = _tiled(vae, latents, on_chunk) if tiled else _whole(vae, latents, on_chunk)
    for chunk in decoded:
        part = chunk[0, :, :, crop.top : crop.bottom, crop.left : crop.right].float()
        if not bool(torch.isfinite(part).all()):
            raise BadOutput("the decoded frames contain values that are not finite numbers")
        pixels = ((part.clamp(-1, 1) * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        yield from pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()


def _denormalised(vae: Decoder, latents: torch.Tensor) -> torch.Tensor:
    shape = (1, vae.config.z_dim, 1, 1, 1)
    latents = latents.float()  # the VAE's own type is float32
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(latents.device, latents.dtype)
    deviation = torch.tensor(vae.config.latents_std).view(shape).to(latents.device, latents.dtype)
    return latents / (1.0 / deviation) + mean


def _whole(vae: Decoder, latents: torch.Tensor, on_chunk: Callable[[int, int], None]) -> Iterator[torch.Tensor]:
    count = latents.shape[2]
    for index, chunk in enumerate(chunks(vae, latents)):
        yield chunk
        on_chunk(index + 1, count)


def chunks(vae: AutoencoderKLWan | Decoder, latents: torch.Tensor) -> Iterator[torch.Tensor]:
    """Decode one latent frame after another, with the causal convolutions' cache of the earlier ones."""
    memory: list[torch.Tensor | None] = [None] * sum(isinstance(m, WanCausalConv3d) for m in vae.decoder.modules())
    hidden = vae.post_quant_conv(latents)
    for index in range(latents.shape[2]):
        chunk = vae.decoder(hidden[:, :, index : index + 1], feat_cache=memory, feat_idx=[0], first_chunk=index == 0)
        yield unpatchify(chunk, patch_size=vae.config.patch_size) if vae.config.patch_size else chunk


def _tiled(vae: Decoder, latents: torch.Tensor, on_chunk: Callable[[int, int], None]) -> Iterator[torch.Tensor]:
    """Decode overlapping tiles, each over all frames, and blend them in host memory."""
    scale = vae.config.scale_factor_spatial
    tile, stride = TILE_PIXELS // scale, STRIDE_PIXELS // scale
    height, width = latents.shape[3:]
    corners = [(top, left) for top in _starts(height, tile, stride) for left in _starts(width, tile, stride)]
    video: torch.Tensor | None = None
    weight = torch.zeros(height * scale, width * scale)
    for number, (top, left) in enumerate(corners):
        parts = []
        for index, chunk in enumerate(chunks(vae, latents[:, :, :, top : top + tile, left : left + tile])):
            parts.append(chunk.cpu().float())
            on_chunk(number * latents.shape[2] + index + 1, len(corners) * latents.shape[2])
        made = torch.cat(parts, dim=2)
        if video is None:
            video = made.new_zeros(1, made.shape[1], made.shape[2], height * scale, width * scale)
        rows, columns = made.shape[3:]
        mask = _ramp(rows)[:, None] * _ramp(columns)[None, :]
        area = (..., slice(top * scale, top * scale + rows), slice(left * scale, left * scale + columns))
        video[area] += made.clamp_(-1, 1) * mask
        weight[area] += mask
    assert video is not None
    for index in range(video.shape[2]):
        yield video[:, :, index : index + 1] / weight


def _starts(length: int, tile: int, stride: int) -> range:
    """Return where tiles begin, so that the last one reaches the end."""
    return range(0, max(1, length - tile + stride), stride)


def _ramp(length: int) -> torch.Tensor:
    """Return weights that rise from the edges over the overlap. Dividing by their sum cancels them elsewhere."""
    position = torch.arange(length, dtype=torch.float32)
    overlap = TILE_PIXELS - STRIDE_PIXELS
    return torch.minimum(position + 1, length - position).clamp(max=overlap) / overlap
