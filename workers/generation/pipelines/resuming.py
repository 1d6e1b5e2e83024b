"""Denoising that can be continued after an interruption, so that no completed step is repeated.

After each step the latents and the solver's state are kept. A later run of the pipeline starts at the next step and
computes the same values as an uninterrupted one, bit for bit.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler

# What UniPC carries from one step to the next.
_STATE = ("model_outputs", "timestep_list", "lower_order_nums", "last_sample", "this_order", "_step_index")


@dataclass
class Denoising:
    """How far the denoising of one job has come."""

    steps: int = 0  # completed
    latents: torch.Tensor | None = None  # after them
    state: dict[str, Any] | None = None  # of the solver
    finished: torch.Tensor | None = (
        None  # the latents that are decoded; the pipelines may change those of the last step
    )
    random: torch.Tensor | None = None  # the state of the random numbers, from a checkpoint
    caches: Any = None  # of the step cache, from a checkpoint

    def completed(self, steps: int, latents: torch.Tensor, scheduler: UniPCMultistepScheduler) -> None:
        """Record a step. Copies nothing: the solver makes new tensors in each step."""
        self.steps, self.latents = steps, latents
        self.state = {name: _copied(getattr(scheduler, name)) for name in _STATE if hasattr(scheduler, name)}

    def to_host(self) -> None:
        """Move everything off the device."""
        self.latents = moved(self.latents, torch.device("cpu"))
        self.finished = moved(self.finished, torch.device("cpu"))
        self.state = moved(self.state, torch.device("cpu"))
        self.caches = None


class ResumableScheduler(UniPCMultistepScheduler):  # type: ignore[misc]  # diffusers has no types
    """UniPC that begins where `resume_from` has ended."""

    resume_from: Denoising | None = None
    timesteps: torch.Tensor
    _all_timesteps: torch.Tensor | None = None

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None, **options: Any) -> None:
        super().set_timesteps(num_inference_steps, device=device, **options)
        before = self.resume_from
        if before is None or before.state is None:
            return
        for name, value in before.state.items():
            setattr(self, name, moved(_copied(value), torch.device(device or "cpu")))
        # The pipelines iterate over the timesteps that they read now.
        self._all_timesteps = self.timesteps
        self.timesteps = self.timesteps[before.steps :]

    def step(self, *inputs: Any, **options: Any) -> Any:
        if self._all_timesteps is not None:  # the solver computes with the number of all of them
            self.timesteps, self._all_timesteps = self._all_timesteps, None
        return super().step(*inputs, **options)


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def moved(value: Any, device: torch.device) -> Any:
    """Return the value with all tensors in it on the device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, list):
        return [moved(each, device) for each in value]
    if isinstance(value, dict):
        return {name: moved(each, device) for name, each in value.items()}
    return value
