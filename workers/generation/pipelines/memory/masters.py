"""Masters: the host's copy of a group of weights, in one buffer, which one copy brings to the device.

A weight that leaves the device is not copied back: the device's copy is dropped, and the module refers to the master
again. Weights change on the host only (for a LoRA), between two visits to the device.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workers.generation.pipelines.memory.host_memory import Region

_ALIGNMENT = 256  # bytes; kernels choose the same paths as for tensors that were allocated alone


@dataclass(frozen=True)
class Place:
    """Where a module holds a tensor: its table of parameters or of buffers, and the name in it."""

    table: dict[str, Any]
    name: str


@dataclass
class Held:
    """One tensor, and every place that holds it: tied weights have several."""

    tensor: torch.Tensor
    places: list[Place]


@dataclass(frozen=True)
class _Plain:
    """A tensor within a buffer."""

    start: int
    nbytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        part = buffer[self.start : self.start + self.nbytes].view(self.dtype)
        return part.as_strided(self.shape, self.stride, part.storage_offset())

    def fill(self, buffer: torch.Tensor, source: torch.Tensor) -> None:
        self.view(buffer).copy_(source)


@dataclass(frozen=True)
class _Composed:
    """A tensor that consists of several, such as a quantized weight."""

    kind: Any
    parts: "dict[str, _Plain | _Composed]"
    context: Any
    shape: torch.Size
    stride: tuple[int, ...]

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        parts = {name: part.view(buffer) for name, part in self.parts.items()}
        made: torch.Tensor = self.kind.__tensor_unflatten__(parts, self.context, self.shape, self.stride)
        return made

    def fill(self, buffer: torch.Tensor, source: torch.Tensor) -> None:
        for name, part in self.parts.items():
            part.fill(buffer, getattr(source, name))


class Master:
    """The master of some tensors. While it is built, each tensor is freed as soon as it has been copied."""

    def __init__(self, group: list[Held], device: torch.device) -> None:
        self._parts, self.nbytes = _packed(group)
        self._region = Region(self.nbytes, device)
        self._places = [held.places for held in group]
        self._is_parameter = [isinstance(held.tensor, torch.nn.Parameter) for held in group]
        self._host: list[torch.Tensor] = []
        with torch.no_grad():
            for part, places, is_parameter in zip(self._parts, self._places, self._is_parameter, strict=True):
                part.fill(self.bytes, group.pop(0).tensor)
                made = _wrapped(part.view(self.bytes), is_parameter)
                self._host.append(made)
                _put(made, places)

    @property
    def bytes(self) -> torch.Tensor:
        """The buffer on the host."""
        return self._region.bytes

    @property
    def pinned(self) -> bool:
        return self._region.pinned

    @property
    def places(self) -> list[Place]:
        return [place for places in self._places for place in places]

    def views(self, buffer: torch.Tensor) -> list[torch.Tensor]:
        """Return the tensors of a copy of the master."""
        made = (part.view(buffer) for part in self._parts)
        with torch.no_grad():
            return [_wrapped(tensor, kind) for tensor, kind in zip(made, self._is_parameter, strict=True)]

    def use(self, views: Sequence[torch.Tensor]) -> None:
        """Make the modules compute with these tensors."""
        for tensor, places in zip(views, self._places, strict=True):
            _put(tensor, places)

    def use_host(self) -> None:
        """Make the modules refer to the master."""
        self.use(self._host)


def grouped(module: torch.nn.Module, blocks: Iterable[torch.nn.Module] = ()) -> list[list[Held]]:
    """Return the module's tensors in groups: first those outside the blocks, then those of each block.

    A tensor that several groups hold belongs to the first one, which is on the device with every other.
    """
    group_of = {id(part): number for number, block in enumerate(blocks, start=1) for part in block.modules()}
    found: dict[object, tuple[int, Held]] = {}
    for part in module.modules():
        group = group_of.get(id(part), 0)
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                before, held = found.get(_identity(tensor), (group, Held(tensor, [])))
                held.places.append(Place(table, name))
                found[_identity(tensor)] = (group if before == group else 0, held)
    groups: list[list[Held]] = [[] for _ in range(1 + max(group_of.values(), default=0))]
    for group, held in found.values():
        groups[group].append(held)
    return groups


def packed_bytes(group: Sequence[Held]) -> int:
    """Return the size of the group's master, without making it; the tensors may be on the meta device."""
    return _packed(group)[1]


def _packed(group: Sequence[Held]) -> tuple[list[_Plain | _Composed], int]:
    parts: list[_Plain | _Composed] = []
    end = 0
    for held in group:
        part, end = _part(held.tensor.data, end)
        parts.append(part)
    return parts, end


def _part(tensor: torch.Tensor, start: int) -> tuple[_Plain | _Composed, int]:
    if hasattr(tensor, "__tensor_flatten__"):
        names, context = tensor.__tensor_flatten__()
        parts: dict[str, _Plain | _Composed] = {}
        for name in names:
            parts[name], start = _part(getattr(tensor, name), start)
        return _Composed(type(tensor), parts, context, tensor.shape, tensor.stride()), start
    start = -(-start // _ALIGNMENT) * _ALIGNMENT
    stride = torch.empty_like(tensor, device="meta").stride()  # dense, in the order of the tensor's own
    return _Plain(start, tensor.nbytes, tensor.dtype, tuple(tensor.shape), stride), start + tensor.nbytes


def _identity(tensor: torch.Tensor) -> object:
    """Return what is equal for tied weights: several parameters may share one memory."""
    plain = tensor.data
    if hasattr(plain, "__tensor_flatten__") or plain.device.type == "meta" or plain.numel() == 0:
        return id(tensor)
    return plain.data_ptr(), plain.dtype, tuple(plain.shape), plain.stride()


def _wrapped(tensor: torch.Tensor, is_parameter: bool) -> torch.Tensor:
    return torch.nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor


def _put(tensor: torch.Tensor, places: Iterable[Place]) -> None:
    for place in places:
        place.table[place.name] = tensor
