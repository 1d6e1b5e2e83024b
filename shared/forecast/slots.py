"""The next slot of each device: when it is free, which model will be loaded then, and which jobs it can run.

Devices that can run the same jobs share one heap, with the first free one on top. So finding the device on which a job
would start is cheap, however many devices there are.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

from shared.jobs.dispatch import Busy, Waiting
from shared.models.memory_plan import Needs


@dataclass(frozen=True)
class DeviceView:
    """A live device as placement sees it."""

    key: str
    node: str
    kind: str  # cuda or cpu
    memory_mb: int
    warm: frozenset[str]  # model cache keys of the loaded models
    holds: frozenset[str]  # ids of the models that its node holds completely
    host_mb: int | None = None  # what its host has for it, in MB; None: unknown
    capability: int | None = None  # the compute capability of a GPU, times ten; None: unknown
    avoided_as: str | None = None  # its key, if a job may have to avoid it (`placement/avoidance.py`)
    near_to: str | None = None  # its node, if a job has a checkpoint on a node and should run there (likewise)


@dataclass(frozen=True)
class Estimates:
    """Expected seconds of loading and running. They are never shown to users."""

    load: Callable[[str], float]  # by model cache key
    run: Callable[[str, float, float], float]  # by timing key, work and volume


class Slot(NamedTuple):
    """The next slot of one device. Smaller slots are free earlier."""

    free_at: float
    key: str
    device: DeviceView
    warm: frozenset[str]

    def after(self, job: Waiting, estimates: Estimates) -> "Slot":
        """Return the slot after that job has run here."""
        if job.mock:
            return self._replace(free_at=self.free_at + 1.0)
        seconds = estimates.run(job.timing_key, job.work, job.volume)
        if job.model_cache_key not in self.warm:
            seconds += estimates.load(job.model_cache_key)
        return Slot(self.free_at + seconds, self.key, self.device, frozenset((job.model_cache_key,)))


def fits(job: Waiting, device: DeviceView) -> bool:
    """Return whether the device has the memory for the job, its node holds the model, and the job need not avoid it."""
    if device.avoided_as is not None and device.avoided_as == job.avoid_device:
        return False
    if None not in (device.near_to, job.checkpoint_node) and device.near_to != job.checkpoint_node:
        return False
    return carries(job, device) and (job.mock or job.model_id in device.holds)


def carries(job: Waiting, device: DeviceView) -> bool:
    """Return whether the device has the memory for the job, whatever its node holds."""
    return job.mock or host_memory(job, device) is not None


def host_memory(job: Waiting | Busy, device: DeviceView) -> int | None:
    """Return the host memory that the job takes when it runs on the device, in MB; None if it does not fit.

    Each device of a gang has its own copy of the weights.
    """
    if job.mock:
        return 0
    if job.memory_needs:
        count = job.devices
        memory = device.memory_mb // count if device.kind == "cpu" else device.memory_mb
        host = None if device.host_mb is None else device.host_mb // count
        each = Needs.read(job.memory_needs).host_mb(device.kind, memory, host, device.capability)
        return None if each is None else each * count
    # Accepted by an earlier version.
    if isinstance(job, Busy):
        return 0
    need = job.min_vram_mb if device.kind == "cuda" else job.min_ram_mb
    return 0 if need <= device.memory_mb else None


def need(job: Waiting) -> Hashable:
    """Return what determines which devices a job fits. It is equal for jobs that fit the same devices."""
    return None if job.mock else (
        job.model_id, job.min_vram_mb, job.min_ram_mb, job.memory_needs, job.avoid_device, job.devices,
        job.checkpoint_node,
    )  # fmt: skip


def shape(device: DeviceView) -> Hashable:
    """Return what determines which jobs fit a device. It is equal for devices that can run the same jobs."""
    return (
        device.kind,
        device.memory_mb,
        device.host_mb,
        device.capability,
        device.holds,
        device.avoided_as,
        device.near_to,
    )


class Slots:
    """The slots of many devices."""

    def __init__(self, slots: Iterable[Slot], group: Callable[[DeviceView], Hashable] = shape) -> None:
        """``group`` returns equal values for devices that can run the same jobs among those considered."""
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
        """Return a copy for a simulation."""
        other = Slots(())
        other._heaps = {key: heap.copy() for key, heap in self._heaps.items()}
        other._groups, other._fitting, other._kinds = self._groups, self._fitting, self._kinds
        return other

    def group(self, device_key: str) -> Hashable:
        """Return the group of that device."""
        return self._groups[device_key]

    def soonest(self) -> Slot | None:
        """Return the slot that is free first; None if none is left."""
        return min((heap[0] for heap in self._heaps.values() if heap), default=None)

    def soonest_for(self, job: Waiting) -> Slot | None:
        """Return the first free slot among the devices that the job fits; None if there is none."""
        fitting = self.fitting(job)
        if len(fitting) == 1:
            heap = self._heaps[fitting[0]]
            return heap[0] if heap else None
        return min((heap[0] for key in fitting if (heap := self._heaps[key])), default=None)

    def fitting(self, job: Waiting) -> list[Hashable]:
        """Return the groups of devices that the job fits."""
        what = need(job)
        found = self._fitting.get(what)
        if found is None:
            found = self._fitting[what] = [key for key, device in self._kinds.items() if fits(job, device)]
        return found

    def replace(self, slot: Slot, new: Slot) -> None:
        """Replace a slot by its successor. The slot must be the first of its group."""
        heapreplace(self._heaps[self._groups[slot.key]], new)

    def drop(self, slot: Slot) -> None:
        """Remove a device. The slot must be the first of its group."""
        heappop(self._heaps[self._groups[slot.key]])
