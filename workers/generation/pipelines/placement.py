"""Place a model's components: all on the device, one at a time, or streamed through it block by block.

The libraries' own one-at-a-time hooks belong to one pipeline object. Ours belong to the components, because the text
and the image pipeline of one model share them.
"""

from collections.abc import Sequence

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers.hooks import apply_group_offloading

from shared.catalogue.models import Offload

CPU = torch.device("cpu")


class Placement:
    """The components that share a device one at a time; none if everything is resident or there is only a CPU."""

    def __init__(
        self, device: torch.device, taking_turns: Sequence[torch.nn.Module] = (), streams: bool = False
    ) -> None:
        self.streams = streams  # whether transformers are streamed through the device block by block
        self._device = device
        self._taking_turns = tuple(taking_turns)
        self._present: torch.nn.Module | None = None
        for module in self._taking_turns:
            module.to(CPU)
            add_hook_to_module(module, _Turn(self, device))

    def bring(self, module: torch.nn.Module | None) -> None:
        """Move `module` to the device and the others off it; None moves all of them off."""
        if self._present is module:
            return
        if self._present is not None:
            self._present.to(CPU)
        self._present = None
        if module in self._taking_turns:
            module.to(self._device)
            self._present = module


class _Turn(ModelHook):  # type: ignore[misc]  # accelerate has no types
    """Brings a component to the device before its forward, encode or decode."""

    def __init__(self, placement: Placement, device: torch.device) -> None:
        self._placement = placement
        self.execution_device = device  # the pipelines read from here where inputs must be

    def pre_forward(self, module: torch.nn.Module, *args: object, **kwargs: object) -> tuple[object, object]:
        self._placement.bring(module)
        return args, kwargs


def place(
    offload: Offload,
    device: torch.device,
    text_encoder: torch.nn.Module,
    transformers: Sequence[torch.nn.Module],
    vae: torch.nn.Module,
) -> Placement:
    """Place a model's components on `device`."""
    if offload == "none":
        for module in (text_encoder, *transformers, vae):
            module.to(device)
        return Placement(device)
    if offload == "model":
        return Placement(device, [text_encoder, *transformers, vae])
    # The text encoder runs once per new prompt: without a stream, it needs the memory of a single layer.
    apply_group_offloading(text_encoder, onload_device=device, offload_device=CPU, offload_type="leaf_level")
    for module in transformers:
        apply_group_offloading(
            module,
            onload_device=device,
            offload_device=CPU,
            offload_type="block_level",
            num_blocks_per_group=1,
            use_stream=device.type == "cuda",
        )
    return Placement(device, [vae], streams=True)
