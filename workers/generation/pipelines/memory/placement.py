"""Lay out a model's components on a device: all resident, some taking turns, or streamed through it block by block.

The libraries' own one-at-a-time hooks belong to one pipeline object. Ours belong to the components, because the text
and the image pipeline of one model share them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate.hooks import ModelHook, add_hook_to_module

from shared.catalogue.models import Offload
from workers.generation.pipelines.memory.masters import grouped, packed_bytes
from workers.generation.pipelines.memory.visits import Streamed, Visitor, Whole, places_of

Role = Literal["resident", "turns", "streams"]


@dataclass(frozen=True)
class Layout:
    """What each kind of component does: it stays on the device, takes turns with others, or is streamed in its turn."""

    text_encoder: Role
    transformer: Role
    vae: Role

    def resident(self, component: str) -> bool:
        """Return whether a component, by its name in the pipeline, stays on the device."""
        role: Role = getattr(self, component.removesuffix("_2"))
        return role == "resident"


LAYOUTS: Mapping[Offload, Layout] = {
    "none": Layout("resident", "resident", "resident"),
    "text": Layout("turns", "resident", "resident"),
    "model": Layout("turns", "turns", "turns"),
    "group": Layout("streams", "streams", "turns"),
}


@dataclass(frozen=True)
class LayoutBytes:
    """The weights of a model under one layout, in bytes."""

    host: int  # masters; page-locked where the system allows it
    resident: int  # on the device at all times
    visiting: int  # on the device besides, at most: the component with the largest turn

    @property
    def device(self) -> int:
        return self.resident + self.visiting


class Placement:
    """The components that share a device by turns; none if everything is resident or there is only a CPU."""

    def __init__(
        self,
        device: torch.device,
        visitors: Mapping[torch.nn.Module, Visitor] | None = None,
        resident: Sequence[torch.nn.Module] = (),
    ) -> None:
        self._device = device
        self._visitors = dict(visitors or {})
        self._resident = tuple(resident)
        self._present: Visitor | None = None
        self._managed = places_of(self._visitors.values())
        if self._visitors:
            for module in (*self._visitors, *self._resident):
                add_hook_to_module(module, _Turn(self, device))

    @property
    def streams(self) -> bool:
        """Whether a component is streamed block by block."""
        return any(isinstance(visitor, Streamed) for visitor in self._visitors.values())

    @property
    def host_bytes(self) -> int:
        """The bytes of host memory that the masters take."""
        return sum(master.nbytes for visitor in self._visitors.values() for master in visitor.masters)

    @property
    def pinned_bytes(self) -> int:
        """The part of `host_bytes` that is page-locked."""
        masters = (master for visitor in self._visitors.values() for master in visitor.masters)
        return sum(master.nbytes for master in masters if master.pinned)

    @property
    def resident_bytes(self) -> int:
        """The bytes of the weights that stay on the device between jobs."""
        return sum(_module_bytes(module) for module in self._resident)

    @property
    def visiting_bytes(self) -> int:
        """The bytes that the weights which come and go take on the device at most."""
        return max((visitor.device_bytes for visitor in self._visitors.values()), default=0)

    def bring(self, module: torch.nn.Module | None) -> None:
        """Bring `module` to the device and move the others off it; None moves off all that take turns."""
        wanted = self._visitors.get(module) if module is not None else None
        if self._present is not None and self._present is not wanted:
            self._present.leave()
            self._present = None
        if wanted is not None and self._present is None:
            try:
                wanted.enter()
            except BaseException:
                wanted.leave()
                raise
            self._present = wanted

    def adopt(self, module: torch.nn.Module) -> None:
        """Move what was added to a component since it was placed, such as a LoRA, to the device for good."""
        for part in module.modules():
            tables: list[dict[str, Any]] = [part._parameters, part._buffers]
            for table in tables:
                for name, tensor in table.items():
                    if tensor is not None and (id(table), name) not in self._managed and tensor.device != self._device:
                        moved = tensor.data.to(self._device)
                        kind = isinstance(tensor, torch.nn.Parameter)
                        table[name] = torch.nn.Parameter(moved, requires_grad=False) if kind else moved


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
    resident: list[torch.nn.Module] = []
    visitors: dict[torch.nn.Module, Visitor] = {}
    for module, role in _roles(offload, text_encoder, transformers, vae):
        if role == "resident":
            resident.append(module.to(device))
        elif role == "turns":
            visitors[module] = Whole(grouped(module)[0], device)
        else:
            visitors[module] = Streamed(module, _blocks(module), device)
    return Placement(device, visitors, resident)


def layout_bytes(
    offload: Offload, text_encoder: torch.nn.Module, transformers: Sequence[torch.nn.Module], vae: torch.nn.Module
) -> LayoutBytes:
    """Return what a layout takes, from the sizes of the weights alone: they may be on the meta device."""
    host = resident = visiting = 0
    for module, role in _roles(offload, text_encoder, transformers, vae):
        if role == "resident":
            resident += _module_bytes(module)
            continue
        rest, *blocks = (packed_bytes(group) for group in grouped(module, _blocks(module) if role == "streams" else ()))
        host += rest + sum(blocks)
        visiting = max(visiting, rest + min(2, len(blocks)) * max(blocks, default=0))
    return LayoutBytes(host, resident, visiting)


def _roles(
    offload: Offload, text_encoder: torch.nn.Module, transformers: Sequence[torch.nn.Module], vae: torch.nn.Module
) -> list[tuple[torch.nn.Module, Role]]:
    layout = LAYOUTS[offload]
    return [
        (text_encoder, layout.text_encoder),
        *((transformer, layout.transformer) for transformer in transformers),
        (vae, layout.vae),
    ]


def _blocks(module: Any) -> list[torch.nn.Module]:
    """Return the layers of a text encoder, or the blocks of a transformer, in the order in which they run."""
    return list(module.encoder.block if hasattr(module, "encoder") else module.blocks)


def _module_bytes(module: torch.nn.Module) -> int:
    """Return the bytes of a module's tensors; tied weights count once."""
    return sum(_tensor_bytes(held.tensor) for held in grouped(module)[0])


def _tensor_bytes(tensor: torch.Tensor) -> int:
    if hasattr(tensor, "__tensor_flatten__"):  # a quantized weight consists of several tensors
        names, _ = tensor.__tensor_flatten__()
        return sum(_tensor_bytes(getattr(tensor, name)) for name in names)
    return tensor.nbytes
