"""Show what a generation has made so far: one small projection on the device every few seconds.

The solver's latest estimate of the clean latents is shown, not the noisy ones between two steps: it is a picture from
the first step on. Of the video only the middle frame is projected, and only its cells are copied to the host; encoding
is left to another thread. A failure ends the previews, not the job.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from shared.models import prepared
from workers.generation.pipelines.resuming import Denoising

log = logging.getLogger("wanworks.generation")

# Previews may take this share of the time, whatever the interval.
_SHARE = 0.01


class Projection:
    """The fitted map of one model."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self._weight, self._bias = weight, bias

    def picture(self, latents: torch.Tensor) -> numpy.ndarray:
        """Return the middle frame of latents (1, channels, frames, rows, columns) as (rows, columns, 3) uint8.

        Raises ValueError if they have another number of channels.
        """
        frame = latents[0, :, latents.shape[2] // 2]
        if frame.shape[0] != self._weight.shape[0]:
            raise ValueError(f"the latents have {frame.shape[0]} channels, the projection {self._weight.shape[0]}")
        if self._weight.device != frame.device:  # once
            self._weight, self._bias = self._weight.to(frame.device), self._bias.to(frame.device)
        colours = torch.einsum("chw,cr->hwr", frame.float(), self._weight) + self._bias
        cells: numpy.ndarray = (colours.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        return cells


def read(snapshot: Path) -> Projection | None:
    """Return the map that was fitted when the model was prepared; None without one."""
    copy = prepared.find(snapshot, prepared.PREVIEWED, prepared.PREVIEW)
    if copy is None:
        return None
    try:
        (file,) = copy.files
        tensors = load_file(snapshot / file.path)
        return Projection(tensors["weight"], tensors["bias"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        log.warning("no previews, because their coefficients cannot be read: %s", error)
        return None


class Projecting:
    """The previews of one run."""

    def __init__(
        self,
        projection: Projection,
        seconds: float,
        show: Callable[[int, numpy.ndarray], None],
        failed: Callable[[], None],
    ) -> None:
        """`show` receives the completed steps and the cells, and must not wait. `failed` is called at most once."""
        self._projection = projection
        self._wait = self._seconds = seconds
        self._show = show
        self._failed = failed
        self._last = time.monotonic()
        self._over = False

    def step_ended(self, denoising: Denoising) -> None:
        """Show the present state if a preview is due."""
        began = time.monotonic()
        if self._over or began - self._last < self._wait:
            return
        try:
            cells = self._projection.picture(_clean(denoising))
            self._last = time.monotonic()
            self._wait = max(self._seconds, (self._last - began) / _SHARE)
            self._show(denoising.steps, cells)
        except Exception as error:  # a preview never costs the job
            self._over = True
            log.warning("no further previews: %r", error)
            self._failed()


def _clean(denoising: Denoising) -> torch.Tensor:
    """Return the solver's latest estimate of the finished latents."""
    assert denoising.latents is not None
    outputs: list[Any] = (denoising.state or {}).get("model_outputs") or [None]
    estimate = outputs[-1]
    return estimate if isinstance(estimate, torch.Tensor) else denoising.latents
