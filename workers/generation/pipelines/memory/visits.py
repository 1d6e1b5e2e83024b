"""How a component visits the device: as a whole, or block by block while the next block is being copied.

Every buffer on the device is allocated and freed in the order of the computing stream. The copying stream waits for the
computation before it writes to a buffer, and the computation waits for the copy before it reads or frees one. Which
block a buffer holds is noted with the buffer, so a pass that is stopped anywhere leaves nothing to repair.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from workers.generation.pipelines.memory.masters import Held, Master, Place, grouped

_BUFFERS = 2  # one is computed with while the other is filled


class Visitor(Protocol):
    """A component that is on the device only while it is needed."""

    def enter(self) -> None:
        """Bring the component to the device. Does nothing if it is there."""

    def leave(self) -> None:
        """Drop the device's copy. Does nothing if there is none."""

    @property
    def masters(self) -> Sequence[Master]: ...

    @property
    def device_bytes(self) -> int:
        """The bytes that it takes on the device during a visit."""


class Whole:
    """A group of tensors that visits the device in one piece."""

    def __init__(self, group: list[Held], device: torch.device) -> None:
        self._master = Master(group, device)
        self._device = device
        self._present = False

    @property
    def masters(self) -> Sequence[Master]:
        return (self._master,)

    @property
    def device_bytes(self) -> int:
        return self._master.nbytes

    def enter(self) -> None:
        if self._present:
            return
        buffer = _buffer(self._master.nbytes, self._device)
        # Nothing can be computed meanwhile, so the computing stream does the copy.
        buffer.copy_(self._master.bytes, non_blocking=True)
        self._master.use(self._master.views(buffer))
        self._present = True

    def leave(self) -> None:
        self._master.use_host()
        self._present = False


@dataclass
class _Slot:
    """A buffer on the device that holds one block at a time."""

    buffer: torch.Tensor
    block: int | None = None
    copied: Any = None  # the event after the latest copy; None where copies are immediate
    views: dict[int, list[torch.Tensor]] = field(default_factory=dict)  # by block


class Streamed:
    """A component whose blocks visit the device one after another; the rest of it stays during the visit."""

    def __init__(self, module: torch.nn.Module, blocks: Iterable[torch.nn.Module], device: torch.device) -> None:
        blocks = list(blocks)
        rest, *groups = grouped(module, blocks)
        self._device = device
        self._rest = Whole(rest, device)
        self._blocks: list[Master] = []
        while groups:
            self._blocks.append(Master(groups.pop(0), device))
        self._slots: list[_Slot] = []
        self._stream: Any = None  # copies are immediate where there is no GPU
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        for number, block in enumerate(blocks):
            block.register_forward_pre_hook(lambda _module, _inputs, number=number: self._before(number))

    @property
    def masters(self) -> Sequence[Master]:
        return (*self._rest.masters, *self._blocks)

    @property
    def device_bytes(self) -> int:
        return self._rest.device_bytes + min(_BUFFERS, len(self._blocks)) * self._largest

    @property
    def _largest(self) -> int:
        return max((master.nbytes for master in self._blocks), default=0)

    def enter(self) -> None:
        self._rest.enter()
        while len(self._slots) < min(_BUFFERS, len(self._blocks)):
            self._slots.append(_Slot(_buffer(self._largest, self._device)))

    def leave(self) -> None:
        self._rest.leave()
        for slot in self._slots:
            self._empty(slot)
            self._wait(slot)  # its memory is reused in the order of the computing stream
        self._slots.clear()

    def _before(self, number: int) -> None:
        """Make a block ready to compute, and begin to copy the next one."""
        slot = self._slot_of(number) or self._fetch(number, self._slots[0])
        self._wait(slot)
        master = self._blocks[number]
        if number not in slot.views:
            slot.views[number] = master.views(slot.buffer[: master.nbytes])
        master.use(slot.views[number])
        following = (number + 1) % len(self._blocks)
        if self._slot_of(following) is None:
            self._fetch(following, next(other for other in self._slots if other is not slot))

    def _slot_of(self, number: int) -> _Slot | None:
        return next((slot for slot in self._slots if slot.block == number), None)

    def _fetch(self, number: int, slot: _Slot) -> _Slot:
        self._empty(slot)
        master = self._blocks[number]
        target = slot.buffer[: master.nbytes]
        slot.block = number
        if self._stream is None:
            target.copy_(master.bytes)
            return slot
        self._stream.wait_stream(torch.cuda.current_stream(self._device))  # it may still compute with the buffer
        with torch.cuda.stream(self._stream):
            target.copy_(master.bytes, non_blocking=True)
        slot.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        slot.copied.record(self._stream)
        return slot

    def _empty(self, slot: _Slot) -> None:
        if slot.block is not None:
            self._blocks[slot.block].use_host()
        slot.block = None

    def _wait(self, slot: _Slot) -> None:
        if slot.copied is not None:
            torch.cuda.current_stream(self._device).wait_event(slot.copied)


def _buffer(nbytes: int, device: torch.device) -> torch.Tensor:
    return torch.empty(nbytes, dtype=torch.uint8, device=device)


def places_of(visitors: Iterable[Visitor]) -> set[tuple[int, str]]:
    """Return the places that masters manage, as (id of the table, name)."""

    def key(place: Place) -> tuple[int, str]:
        return id(place.table), place.name

    return {key(place) for visitor in visitors for master in visitor.masters for place in master.places}
