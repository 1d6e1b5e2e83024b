"""The pipelines of diffusers with guidance decided for each expert: one that needs a single pass runs a single pass.

The library decides once for both experts, by the first scale. So a scale of 1 for the low-noise expert alone costs a
second pass that changes nothing, and a scale for it has no effect if that of the high-noise expert is 1.
"""

from typing import Any

import torch
from diffusers import WanImageToVideoPipeline, WanPipeline


def guides(scale: float, scale_2: float | None) -> tuple[bool, bool]:
    """Return whether the high-noise expert and the low-noise one run a second pass, with the negative prompt.

    As in the library, a first scale below 1 is no guidance, and a second one below 1 beside a guided first weakens the
    prompt.
    """
    first = scale > 1
    second = first if scale_2 is None else scale_2 > 1 or (first and scale_2 < 1)
    return first, second


class _ByExpert:
    """Answers the pipeline's question whether to run the second pass for the expert of the present step."""

    config: Any
    scheduler: Any
    _guidance_scale: float
    _guidance_scale_2: float | None
    _current_timestep: Any
    runs_on: torch.device | None = None  # where inputs must be; the library's search costs milliseconds for each job

    @property
    def _execution_device(self) -> torch.device:
        if self.runs_on is not None:
            return self.runs_on
        found: torch.device = super()._execution_device  # type: ignore[misc]
        return found

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Return whether the present step is guided; before the first step, whether any will be."""
        first, second = guides(self._guidance_scale, self._guidance_scale_2)
        boundary = self.config.boundary_ratio
        if boundary is None:
            return first
        if self._current_timestep is None or first == second:
            return first or second
        is_high = self._current_timestep >= boundary * self.scheduler.config.num_train_timesteps
        return bool(first if is_high else second)


class TextPipeline(_ByExpert, WanPipeline):  # type: ignore[misc]  # diffusers has no types
    """Video from text."""


class ImagePipeline(_ByExpert, WanImageToVideoPipeline):  # type: ignore[misc]
    """Video from an image and text."""
