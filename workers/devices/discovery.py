"""Discover this node's devices, and the one that this process runs on.

It queries the NVIDIA driver through NVML, so no process needs torch for it. A device is one GPU, one MIG slice of a
GPU, or a CPU device. This module does not decide what runs where.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from shared.errors import ConfigurationError, WanworksError

MB = 1_000_000


@dataclass(frozen=True)
class Device:
    """A device that can run a model. `index` counts within its kind; `uuid` is empty for a CPU."""

    kind: Literal["cpu", "cuda"]
    index: int
    uuid: str
    name: str
    memory_mb: int  # 10^6 bytes: the GPU's own, or the host's for a CPU
    compute_capability: int | None = None  # of a GPU, times ten: 89 is 8.9

    @property
    def label(self) -> str:
        """Return the value of `WANWORKS_DEVICE`: ``cpu:0`` or ``cuda:1``."""
        return f"{self.kind}:{self.index}"

    @property
    def cuda_visible_devices(self) -> str:
        """Return the ``CUDA_VISIBLE_DEVICES`` under which only this device is visible; empty hides all GPUs."""
        return self.uuid


@dataclass(frozen=True)
class _Place:
    """A GPU or a slice of one, with the names that ``CUDA_VISIBLE_DEVICES`` may use for it."""

    device: Device
    number: int  # of the whole GPU, in nvidia-smi's numbering
    names: tuple[str, ...]
    sliced: bool


_HIDDEN = ("", "-1", "none", "void", "nodevfiles")


def enumerate_devices(spec: str, environ: Mapping[str, str] = os.environ) -> list[Device]:
    """Return the devices that `spec` names.

    ``auto``: every GPU that the driver reports and ``CUDA_VISIBLE_DEVICES`` selects, else one CPU device.
    ``cpu:N``: N CPU devices. ``cuda:0,1``: those of the selected GPUs, in CUDA's numbering.
    Raises ConfigurationError if the spec cannot be read, a device does not exist, or ``CUDA_VISIBLE_DEVICES`` names a
    device that the driver does not report.
    """
    if spec == "auto":
        return _visible(_gpus(), environ) or [_cpu(0)]
    if match := re.fullmatch(r"cpu:([0-9]{1,3})", spec):
        if int(match[1]) == 0:
            raise ConfigurationError("devices: cpu:0 names no device; cpu:1 is one CPU device")
        return [_cpu(index) for index in range(int(match[1]))]
    if match := re.fullmatch(r"cuda:([0-9]{1,3}(?:,[0-9]{1,3})*)", spec):
        indices = [int(index) for index in match[1].split(",")]
        if len(set(indices)) != len(indices):
            raise ConfigurationError(f"devices: {spec} names a GPU twice")
        gpus = _visible(_gpus(), environ)
        missing = [str(index) for index in indices if index >= len(gpus)]
        if missing:
            there = ", ".join(map(str, range(len(gpus)))) if gpus else "none"
            variable = environ.get("CUDA_VISIBLE_DEVICES")
            where = "the driver reports" if variable is None else f"CUDA_VISIBLE_DEVICES={variable[:200]!r} selects"
            raise ConfigurationError(f"devices: {spec} names GPU {', '.join(missing)}, but {where}: {there}")
        return [gpus[index] for index in indices]
    raise ConfigurationError(f"devices: {spec[:80]!r} is not auto, cpu:N or cuda:0,1,...")


def this_device(environ: Mapping[str, str] = os.environ) -> Device:
    """Return this process's device, from ``WANWORKS_DEVICE`` (``cpu:0``, ``cuda:1``) and ``CUDA_VISIBLE_DEVICES``.

    If ``CUDA_VISIBLE_DEVICES`` is set, it must select exactly one GPU.
    Raises ConfigurationError if they cannot be read or name a GPU that does not exist.
    """
    label = environ.get("WANWORKS_DEVICE", "cpu:0")
    match = re.fullmatch(r"(cpu|cuda):([0-9]{1,3})", label)
    if match is None:
        raise ConfigurationError(f"WANWORKS_DEVICE: {label[:80]!r} is not cpu:N or cuda:N")
    index = int(match[2])
    if match[1] == "cpu":
        return _cpu(index)
    variable = environ.get("CUDA_VISIBLE_DEVICES", "")
    visible = _visible(_gpus(), environ if variable else {})
    if variable and len(visible) != 1:
        raise ConfigurationError(
            f"WANWORKS_DEVICE: {label} is one GPU, but CUDA_VISIBLE_DEVICES={variable[:200]!r} selects {len(visible)}; "
            "set it to this worker's GPU only"
        )
    if variable:
        return visible[0]
    if index >= len(visible):
        raise ConfigurationError(f"WANWORKS_DEVICE: the driver reports no GPU {index}")
    return visible[index]


def free_memory_mb(device: Device) -> int:
    """Return the free memory of the device in MB: the GPU's own, or what the host has available."""
    if device.kind == "cpu":
        return _host_free_bytes() // MB
    with driver() as nvml:
        if nvml is None:
            raise ConfigurationError(f"{device.label}: the NVIDIA driver does not answer")
        return int(nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(device.uuid)).free) // MB


def host_memory_mb() -> int:
    """Return the memory of this host, or of this process's control group if that is less, in MB."""
    return _host_total_bytes() // MB


def free_host_memory_mb() -> int:
    """Return what this process could still use of the host's memory, in MB."""
    return _host_free_bytes() // MB


@contextmanager
def driver() -> Iterator[Any]:
    """Yield NVML, initialised, or None without a driver. Raises ConfigurationError if a driver does not respond."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded, pynvml.NVMLError_NoPermission):
        yield None
        return
    except pynvml.NVMLError as error:
        raise ConfigurationError(f"the NVIDIA driver does not answer: {error}") from None
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise ConfigurationError(f"the NVIDIA driver does not answer: {error}") from None
    finally:
        asked(pynvml, pynvml.nvmlShutdown)


def asked(nvml: Any, question: Callable[..., Any], *about: Any) -> Any:
    """Return the driver's answer, or None if this device does not provide one."""
    try:
        return question(*about)
    except nvml.NVMLError:
        return None


def _gpus() -> list[_Place]:
    """Return every GPU, or the MIG slices of a divided one, in the driver's order."""
    with driver() as nvml:
        if nvml is None:
            return []
        found: list[_Place] = []
        for number in range(nvml.nvmlDeviceGetCount()):
            whole = asked(nvml, nvml.nvmlDeviceGetHandleByIndex, number)
            if whole is None:  # it has dropped off the bus, or this process may not access it
                continue
            slices = _slices(nvml, whole)
            version = asked(nvml, nvml.nvmlDeviceGetCudaComputeCapability, whole)
            capability = None if version is None else 10 * version[0] + version[1]
            for handle in [whole] if slices is None else slices:
                memory = asked(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
                if memory is None:
                    continue
                uuid, name = _text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle))
                device = Device("cuda", len(found), uuid, name, int(memory.total) // MB, capability)
                names = (uuid, *([] if slices is None else _older_names(nvml, whole, handle)))
                found.append(_Place(device, number, names, slices is not None))
        return found


def _slices(nvml: Any, whole: Any) -> list[Any] | None:
    """Return the MIG slices of a GPU; None if it is not divided."""
    mode = asked(nvml, nvml.nvmlDeviceGetMigMode, whole)
    if mode is None or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        return None
    found = (
        asked(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, whole, number)
        for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(whole))
    )
    return [handle for handle in found if handle is not None]


def _older_names(nvml: Any, whole: Any, part: Any) -> list[str]:
    """Return a slice's names before driver 470, which CUDA accepts: ``MIG-<GPU>/<instance>/<compute instance>``."""
    instances = [
        asked(nvml, question, part)
        for question in (nvml.nvmlDeviceGetGpuInstanceId, nvml.nvmlDeviceGetComputeInstanceId)
    ]
    uuid = asked(nvml, nvml.nvmlDeviceGetUUID, whole)
    return [] if uuid is None or None in instances else [f"MIG-{_text(uuid)}/{instances[0]}/{instances[1]}"]


def _visible(places: Sequence[_Place], environ: Mapping[str, str]) -> list[Device]:
    """Return the devices that ``CUDA_VISIBLE_DEVICES`` selects, in its order: by number, or by UUID or its prefix.

    CUDA itself stops at the first name that it cannot read, and then runs on fewer GPUs or on none. Here that raises
    ConfigurationError; hiding every GPU on purpose does not.
    """
    variable = environ.get("CUDA_VISIBLE_DEVICES")
    if variable is None:
        return [place.device for place in places]
    chosen: list[Device] = []
    for word in (part.strip() for part in variable.strip().removesuffix(",").split(",")):
        if word.casefold() in _HIDDEN and (word == "-1" or variable.count(",") == 0):
            break  # -1 hides what comes after it
        device = _named(word, places, environ)
        if device in chosen:
            raise _not_visible(environ, f"{word!r} names {device.uuid} a second time", places)
        chosen.append(device)
    return chosen


def _named(word: str, places: Sequence[_Place], environ: Mapping[str, str]) -> Device:
    if re.fullmatch(r"[0-9]{1,4}", word):
        found = [place for place in places if place.number == int(word)]
        kinds = {place.device.name for place in places}
        if found and environ.get("CUDA_DEVICE_ORDER") == "FASTEST_FIRST" and len(kinds) > 1:
            reason = (
                f"{word!r} is a number, and CUDA_DEVICE_ORDER=FASTEST_FIRST numbers different GPUs in an unknown order"
            )
            raise _not_visible(environ, f"{reason}; set it to PCI_BUS_ID, the order of nvidia-smi", places)
        if any(place.sliced for place in found):
            raise _not_visible(environ, f"GPU {word} is divided into MIG slices, which are named by UUID", places)
    else:
        lower = word.casefold()
        found = [place for place in places if lower in (name.casefold() for name in place.names)]
        if not found and re.match(r"(?:gpu|mig)-.", lower):
            found = [place for place in places if place.device.uuid.casefold().startswith(lower)]
    if not found:
        raise _not_visible(environ, f"{word!r} matches none of them", places)
    if len(found) > 1:
        raise _not_visible(environ, f"{word!r} is the prefix of {len(found)} of them", places)
    return found[0].device


def _not_visible(environ: Mapping[str, str], reason: str, places: Sequence[_Place]) -> ConfigurationError:
    there = ", ".join(f"{place.number} ({place.device.uuid})" for place in places) or "none"
    return ConfigurationError(
        f"CUDA_VISIBLE_DEVICES={environ['CUDA_VISIBLE_DEVICES'][:200]!r}: {reason}. The driver reports: {there}. "
        "Name GPUs by number or UUID, unset it to use all of them, or set it empty to run on the CPU."
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _cpu(index: int) -> Device:
    return Device("cpu", index, "", _cpu_name(), _host_total_bytes() // MB)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None) or os.uname().machine


def _host_total_bytes() -> int:
    return min(_meminfo()["MemTotal"], _cgroup("memory.max") or sys.maxsize)


def _host_free_bytes() -> int:
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    room = max(0, limit - used) if limit is not None and used is not None else sys.maxsize
    return min(_meminfo()["MemAvailable"], room)


def _meminfo() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return {key: int(rest.split()[0]) * 1024 for key, _, rest in (line.partition(":") for line in lines)}


def _cgroup(name: str) -> int | None:
    """Return a figure of this process's memory control group (version 2), in bytes; None without a limit."""
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().rpartition(":")[2]
        return int((Path("/sys/fs/cgroup") / group.lstrip("/") / name).read_text(encoding="ascii"))
    except (OSError, ValueError):  # no cgroup v2 here, or the word "max"
        return None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m workers.devices.discovery auto|cpu:N|cuda:0,1")
    try:
        found = enumerate_devices(sys.argv[1])
    except WanworksError as error:
        sys.exit(error.message)
    print(json.dumps([{**asdict(device), "cuda_visible_devices": device.cuda_visible_devices} for device in found]))
