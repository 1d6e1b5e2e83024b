"""Checks of the host: the driver and its GPUs, the installed torch, memory, and disk. They load no torch."""

import importlib.metadata
import importlib.util
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from shared.errors import WanworksError
from wanworks.cli.doctor.check import Check
from workers.devices import discovery
from workers.devices.discovery import Device

_GB_OF_MB = 1000


def devices(spec: str) -> tuple[list[Check], list[Device]]:
    """Check the devices that the setting `devices` names, and whether the installed torch can use them."""
    try:
        found = discovery.enumerate_devices(spec)
        with discovery.driver() as nvml:
            driver = None if nvml is None else str(nvml.nvmlSystemGetDriverVersion())
            number = 0 if nvml is None else int(nvml.nvmlSystemGetCudaDriverVersion_v2())
    except WanworksError as error:
        remedy = (
            "check `nvidia-smi`, WANWORKS_DEVICES and CUDA_VISIBLE_DEVICES; after a driver update, restart the host"
        )
        return [Check("devices", "problem", error.message, remedy)], []
    gpus = [device for device in found if device.kind == "cuda"]
    checks = [_driver(driver, number, gpus)]
    for device in gpus:
        free = discovery.free_memory_mb(device) / _GB_OF_MB
        checks.append(
            Check(device.label, "ok", f"{device.name}, {device.memory_mb / _GB_OF_MB:.0f} GB, {free:.0f} GB free")
        )
    return [*checks, torch_build(_torch_version(), _torch_cuda(), gpus, number)], found


def _driver(driver: str | None, number: int, gpus: Sequence[Device]) -> Check:
    if gpus:
        return Check("driver", "ok", f"NVIDIA {driver}, CUDA up to {number // 1000}.{number % 1000 // 10}")
    if driver is not None:
        found = f"NVIDIA {driver}, but no GPU is selected; jobs run on the CPU"
        return Check(
            "driver", "warning", found, "set WANWORKS_DEVICES=auto and unset CUDA_VISIBLE_DEVICES to use all GPUs"
        )
    remedy = "on a host with a GPU, install NVIDIA's driver; in a container, start it with the GPU (`--gpus all`)"
    return Check("driver", "note", "no NVIDIA driver; jobs run on the CPU, which only suits tiny models", remedy)


def torch_build(version: str | None, cuda: str | None, gpus: Sequence[Device], driver_cuda: int) -> Check:
    """Judge the installed torch. `driver_cuda`: the newest CUDA that the driver runs, as 12040 for 12.4."""
    if version is None:
        return Check("torch", "problem", "not installed", "run `make setup` in the clone")
    if not gpus:
        return Check("torch", "ok", f"{version}, {f'CUDA {cuda}' if cuda else 'for the CPU'}")
    if cuda is None:
        remedy = "install the build of this version with CUDA: see requirements/torch.txt and docs/operations.md"
        return Check("torch", "problem", f"{version} is built for the CPU and cannot use the GPU", remedy)
    major = int(cuda.partition(".")[0])
    if driver_cuda and driver_cuda // 1000 < major:
        found = f"{version} needs CUDA {cuda}; the driver runs up to {driver_cuda // 1000}.{driver_cuda % 1000 // 10}"
        remedy = f"update NVIDIA's driver to one with CUDA {major}, or install torch for CUDA {driver_cuda // 1000}"
        return Check("torch", "problem", found, remedy)
    return Check("torch", "ok", f"{version}, CUDA {cuda}")


def memory_mb() -> float:
    """Return the memory of this host, or of this process's control group, in MB."""
    return discovery.host_memory_mb()


def memory() -> Check:
    """Report the host's memory, or that of this process's control group."""
    total, free = discovery.host_memory_mb() / _GB_OF_MB, discovery.free_host_memory_mb() / _GB_OF_MB
    return Check("memory", "ok", f"{total:.0f} GB, {free:.0f} GB available")


def disk(name: str, folder: Path, least_mb: int) -> Check:
    """Check the free space where the folder is, or will be made."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        free = shutil.disk_usage(there).free / 1e9
    except OSError as error:
        return Check(name, "problem", f"{folder}: {error.strerror}", "make the folder accessible to this user")
    if free * 1000 < least_mb:
        found = f"{folder}: {free:.1f} GB free, less than the {least_mb / 1000:.1f} GB below which no job is accepted"
        return Check(name, "problem", found, "free some space, or run `wanworks cleanup`")
    return Check(name, "ok", f"{folder}: {free:.0f} GB free")


def free_gb(folder: Path) -> float:
    """Return the free space where the folder is, or will be made, in GB of 10^9 bytes."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(there).free / 1e9


def _torch_version() -> str | None:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_cuda() -> str | None:
    """Return the CUDA version of the installed torch, from one of its files; None for a CPU build."""
    for folder in _torch_folders():
        try:
            text = (folder / "version.py").read_text(encoding="utf-8")
        except OSError:
            continue
        found = re.search(r"^cuda\b.*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
        return found[1] if found else None
    return None


def _torch_folders() -> Iterator[Path]:
    spec = importlib.util.find_spec("torch")
    yield from map(Path, (spec.submodule_search_locations or ()) if spec is not None else ())
