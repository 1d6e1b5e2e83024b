"""Collect the facts for fallback decisions: ready models, capable devices, possible downloads, waiting times."""

from collections.abc import Mapping, Sequence

from shared.catalogue import scoring
from shared.catalogue.models import CatalogueEntry
from shared.database.tables import Device, Node
from shared.management import reductions
from shared.management.fallback_types import ModelFacts
from shared.management.library import Library, ModelView, bytes_left, holders
from shared.models.memory_plan import Needs
from shared.settings import Settings
from shared.states import REPLICA_READY, JobState, ReplicaState
from wanworks.requests import Quantization


def facts(settings: Settings, library: Library) -> dict[str, ModelFacts]:
    """Return the facts of all models of the catalogue."""
    return {model_id: _facts(settings, library, model) for model_id, model in library.models.items()}


def room_for(settings: Settings, library: Library, model: ModelView) -> Node | None:
    """Return the online node to download the model to; None if none has enough space.

    Prefers nodes whose devices can run it, then those that have a preset's base, then the one with the most free space.
    A node that has not reported its disk counts as having enough.
    """
    memory = _memory_of(library)
    carrying = {device.node for device in library.devices if _carries(device, memory, _usual(model.entry, "none"))}
    by_node = {replica.node: replica for replica in model.replicas}
    fitting = [
        node
        for node in library.nodes
        if node.disk_free_mb is None
        or node.disk_free_mb * 1e6 - bytes_left(model.entry, by_node.get(node.name)) >= settings.min_free_disk_mb * 1e6
    ]

    def rank(node: Node) -> tuple[bool, bool, float, str]:
        base = by_node[node.name].base if node.name in by_node else None
        has_base = base is not None and base.availability in REPLICA_READY
        return node.name in carrying, has_base, node.disk_free_mb or 0.0, node.name

    return max(fitting, key=rank, default=None)


def queue_seconds(library: Library) -> float | None:
    """Estimate how long a generation that is queued now would wait, in seconds.

    0 if a device is free; else the sum of the average durations of the active jobs, divided by the number of devices.
    None without devices, or if a model of these jobs was never measured.
    """
    ahead = sum(model.load.queued + model.load.running for model in library.models.values())
    if not library.devices:
        return None
    if ahead < len(library.devices):
        return 0.0
    work = 0.0
    for model in library.models.values():
        count = model.load.queued + model.load.running
        average = model.month.average_seconds
        if count and average is None:
            return None
        work += count * (average or 0.0)
    return round(work / len(library.devices), 1)


def _facts(settings: Settings, library: Library, model: ModelView) -> ModelFacts:
    held, memory = holders(model), _memory_of(library)
    devices = [device for device in library.devices if not held or device.node in held]
    moving = [one for one in model.replicas if one.fetching and one.download is not None and one.online]
    going = [one for one in moving if one.download is not None and one.download.status != JobState.PAUSED]
    node = room_for(settings, library, model)
    target = going[0] if going else next((one for one in model.replicas if node and one.node == node.name), None)
    rate = library.rates.get(target.node) if target is not None else None
    return ModelFacts(
        entry=model.entry,
        availability=model.availability,
        carried=_carried(devices, memory, model.entry, "none"),
        reduced=_reduced(devices, memory, model.entry),
        fetching=bool(going),
        fetchable=not moving and model.availability != ReplicaState.UPDATING and node is not None,
        bytes_left=0 if held else bytes_left(model.entry, target),
        bytes_per_second=rate,
        queue_seconds=queue_seconds(library),
        performance=scoring.performance_score(model.latest.successes, model.latest.uses, model.latest.relative_seconds),
    )


def _carried(
    devices: Sequence[Device], memory: Mapping[str, int | None], entry: CatalogueEntry, quantization: Quantization
) -> bool | None:
    usual = _usual(entry, quantization)
    return any(_carries(device, memory, usual) for device in devices) if devices else None


def _reduced(
    devices: Sequence[Device], memory: Mapping[str, int | None], entry: CatalogueEntry
) -> reductions.Request | None:
    """Return what fits instead of a request of the default size; None if that fits, or nothing does."""
    usual = _usual(entry, "none")
    if not devices or any(_carries(device, memory, usual) for device in devices):
        return None

    def fits(request: reductions.Request) -> bool:
        return any(_carries(device, memory, request) for device in devices)

    return next(iter(reductions.of_the_same_model(usual, fits)), None)


def _usual(entry: CatalogueEntry, quantization: Quantization) -> reductions.Request:
    """Return a request of the model's default size."""
    defaults = entry.defaults
    image = entry.image == "required"
    return reductions.Request(entry, defaults.resolution, defaults.frames, quantization, image)


def _carries(device: Device, memory: Mapping[str, int | None], request: reductions.Request) -> bool:
    needs = Needs.read(reductions.needs(request))
    return needs.host_mb(device.kind, device.memory_mb, memory.get(device.node), device.compute_capability) is not None


def _memory_of(library: Library) -> dict[str, int | None]:
    return {node.name: node.memory_mb for node in library.nodes}
