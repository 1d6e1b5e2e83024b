"""Which models fit this host: by the memory plan that also accepts and places jobs, and by the disk."""

from collections.abc import Iterator, Sequence

from shared.catalogue.models import CatalogueEntry
from shared.models import memory_plan
from shared.models.memory_plan import MB
from wanworks.cli.doctor.check import Check
from wanworks.requests import Quantization
from workers.devices.discovery import Device

_GB = 1e9


def fits(
    entries: Sequence[CatalogueEntry], devices: Sequence[Device], host_mb: float, free_gb: float
) -> Iterator[Check]:
    """Say for each model whether a video of its default size fits into a device and the host, and onto the disk."""
    for entry in entries:
        if entry.extends is None:
            yield _fit(entry, devices, host_mb, free_gb)


def _fit(entry: CatalogueEntry, devices: Sequence[Device], host_mb: float, free_gb: float) -> Check:
    ways = [way for device in devices for way in _ways(entry, device, host_mb)]
    size = f"{entry.defaults.resolution}, {entry.defaults.frames} frames"
    if not ways:
        needs = f"at least {memory_plan.least_device_gb(entry, 'int8'):.0f} GB on a GPU with int8"
        found = f"{size}: does not fit; it needs {needs} and {memory_plan.least_host_gb(entry):.0f} GB of host memory"
        return Check(entry.model_id, "note", found)
    found = f"{size}: {', '.join(dict.fromkeys(ways))}"
    if entry.total_gb > free_gb:
        short = f"{found}; its files take {entry.total_gb:.0f} GB, and {free_gb:.0f} GB are free"
        return Check(entry.model_id, "warning", short, "free some space, or set WANWORKS_MODELS_PATH to a larger disk")
    return Check(entry.model_id, "ok", f"{found}; its files take {entry.total_gb:.0f} GB")


def _ways(entry: CatalogueEntry, device: Device, host_mb: float) -> Iterator[str]:
    """Yield how the model fits the device, one text for each kind of weights."""
    kinds: tuple[Quantization, ...] = ("none", "int8")
    for quantization in kinds:
        if quantization not in entry.quantizations:
            continue
        options = memory_plan.plans(entry, quantization, memory_plan.default_size(entry), device.kind)
        plan = memory_plan.choose(options, device.memory_mb * MB, host_mb * MB)
        if plan is not None:
            weights = "int8" if quantization == "int8" else "16 bits"
            yield f"{weights} as {plan.name} on {device.label} ({plan.device / _GB:.0f} GB)"
