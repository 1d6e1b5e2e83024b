"""The next place on each device: when it is free, what will be warm there then, and which job it can take.

Devices that take the same jobs stand in one heap, the one that is free first on top. So it costs next to nothing to ask
which device a job would start on, however many there are.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

from shared.jobs.dispatch import Waiting


@dataclass(frozen=True)
class DeviceView:
    """A live device as placement sees it."""

    key: str
    node: str
    kind: str  # cuda or cpu
    memory_mb: int
    warm: frozenset[str]  # warm keys of what is loaded
    holds: frozenset[str]  # model ids that its node holds whole


@dataclass(frozen=True)
class Estimates:
    """Seconds that loading and running are expected to take; never shown to anybody."""

    load: Callable[[str], float]  # by warm key
    run: Callable[[str, float], float]  # by warm key and work


class Slot(NamedTuple):
    """The next place on one device. The smaller is free sooner."""

    free_at: float
    key: str
    device: DeviceView
    warm: frozenset[str]

    def after(self, job: Waiting, estimates: Estimates) -> "Slot":
        """The place behind that job, once it has run here."""
        if job.mock:
            return self._replace(free_at=self.free_at + 1.0)
        seconds = estimates.run(job.model_cache_key, job.work)
        if job.model_cache_key not in self.warm:
            seconds += estimates.load(job.model_cache_key)
        return Slot(self.free_at + seconds, self.key, self.device, frozenset((job.model_cache_key,)))


def fits(job: Waiting, device: DeviceView) -> bool:
    """Whether the device can carry the job and its node holds the model."""
    return carries(job, device) and (job.mock or job.model_id in device.holds)


def carries(job: Waiting, device: DeviceView) -> bool:
    """Whether the device has the memory, whatever its node holds."""
    need = job.min_vram_mb if device.kind == "cuda" else job.min_ram_mb
    return job.mock or need <= device.memory_mb


def need(job: Waiting) -> Hashable:
    """What decides which devices a job fits: alike for all jobs that fit the same."""
    return None if job.mock else (job.model_id, job.min_vram_mb, job.min_ram_mb)


def shape(device: DeviceView) -> Hashable:
    """What decides which jobs fit a device: alike for all devices that take the same."""
    return (device.kind, device.memory_mb, device.holds)


class Slots:
    """The slots of many devices."""

    def __init__(self, slots: Iterable[Slot], group: Callable[[DeviceView], Hashable] = shape) -> None:
        """``group`` is alike for all devices that take the same of the jobs that will be asked about."""
        self._heaps: dict[Hashable, list[Slot]] = defaultdict(list)
        self._groups: dict[str, Hashable] = {}
        self._fitting: dict[Hashable, list[Hashable]] = {}
        self._kinds: dict[Hashable, DeviceView] = {}
        for slot in slots:
            key = group(slot.device)
            self._groups[slot.key] = key
            self._kinds.setdefault(key, slot.device)
            self._heaps[key].append(slot)
        for heap in self._heaps.values():
            heapify(heap)

    def copy(self) -> "Slots":
        """The same slots, to play on with."""
        other = Slots(())
        other._heaps = {key: heap.copy() for key, heap in self._heaps.items()}
        other._groups, other._fitting, other._kinds = self._groups, self._fitting, self._kinds
        return other

    def group(self, device_key: str) -> Hashable:
        """The group of that device."""
        return self._groups[device_key]

    def soonest(self) -> Slot | None:
        """The slot that is free first; None where there is none left."""
        return min((heap[0] for heap in self._heaps.values() if heap), default=None)

    def soonest_for(self, job: Waiting) -> Slot | None:
        """Of the devices that the job fits, the slot that is free first."""
        fitting = self.fitting(job)
        if len(fitting) == 1:
            heap = self._heaps[fitting[0]]
            return heap[0] if heap else None
        return min((heap[0] for key in fitting if (heap := self._heaps[key])), default=None)

    def fitting(self, job: Waiting) -> list[Hashable]:
        """The groups of devices that the job fits."""
        what = need(job)
        found = self._fitting.get(what)
        if found is None:
            found = self._fitting[what] = [key for key, device in self._kinds.items() if fits(job, device)]
        return found

    def replace(self, slot: Slot, new: Slot) -> None:
        """Puts a slot's successor in its place. The slot has to be the first of its group."""
        heapreplace(self._heaps[self._groups[slot.key]], new)

    def drop(self, slot: Slot) -> None:
        """Takes a device out. The slot has to be the first of its group."""
        heappop(self._heaps[self._groups[slot.key]])
