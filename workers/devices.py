"""The devices of this node: which there are, which one this process runs on, and how to ask the NVIDIA driver.

Asks the NVIDIA driver through NVML, so no process needs torch for it. A device is one GPU, one MIG slice of a GPU, or a
CPU stand-in. It never decides what runs where.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from shared.errors import ConfigurationError, WanworksError

MB = 1_000_000


@dataclass(frozen=True)
class Device:
    """One place where a model can run. `index` counts within its kind; `uuid` is empty for a CPU."""

    kind: Literal["cpu", "cuda"]
    index: int
    uuid: str
    name: str
    memory_mb: int  # 10^6 bytes: the GPU's own, or the host's for a CPU

    @property
    def label(self) -> str:
        """What `WANWORKS_DEVICE` says: ``cpu:0`` or ``cuda:1``."""
        return f"{self.kind}:{self.index}"

    @property
    def cuda_visible_devices(self) -> str:
        """The environment variable's value that leaves this device alone visible; empty hides all GPUs."""
        return self.uuid


def enumerate_devices(spec: str, environ: Mapping[str, str] = os.environ) -> list[Device]:
    """The devices that `spec` names.

    ``auto``: every GPU that the driver shows (and ``CUDA_VISIBLE_DEVICES`` leaves), else one CPU device.
    ``cpu:N``: N CPU devices. ``cuda:0,1``: those GPUs, by their index in the driver's order.
    Raises ConfigurationError for a spec that cannot be read or a device that is not there.
    """
    if spec == "auto":
        return _visible(_gpus(), environ.get("CUDA_VISIBLE_DEVICES")) or [_cpu(0)]
    if match := re.fullmatch(r"cpu:(\d{1,3})", spec):
        if int(match[1]) == 0:
            raise ConfigurationError("devices: cpu:0 is no device at all; cpu:1 is one CPU device")
        return [_cpu(index) for index in range(int(match[1]))]
    if match := re.fullmatch(r"cuda:(\d{1,3}(?:,\d{1,3})*)", spec):
        indices = [int(index) for index in match[1].split(",")]
        if len(set(indices)) != len(indices):
            raise ConfigurationError(f"devices: {spec} names a GPU twice")
        gpus = {device.index: device for device in _gpus()}
        missing = [str(index) for index in indices if index not in gpus]
        if missing:
            there = ", ".join(map(str, sorted(gpus))) if gpus else "none"
            raise ConfigurationError(f"devices: {spec} names GPU {', '.join(missing)}, but the driver shows: {there}")
        return [gpus[index] for index in indices]
    raise ConfigurationError(f"devices: {spec[:80]!r} is not auto, cpu:N or cuda:0,1,...")


def this_device(environ: Mapping[str, str] = os.environ) -> Device:
    """The device of this process, from ``WANWORKS_DEVICE`` (``cpu:0``, ``cuda:1``) and ``CUDA_VISIBLE_DEVICES``.

    Raises ConfigurationError where they are missing, unreadable, or name a GPU that is not there.
    """
    label = environ.get("WANWORKS_DEVICE", "cpu:0")
    match = re.fullmatch(r"(cpu|cuda):(\d{1,3})", label)
    if match is None:
        raise ConfigurationError(f"WANWORKS_DEVICE: {label[:80]!r} is not cpu:N or cuda:N")
    index = int(match[2])
    if match[1] == "cpu":
        return _cpu(index)
    uuid = environ.get("CUDA_VISIBLE_DEVICES", "")
    for device in _gpus():
        if device.uuid == uuid or (not uuid and device.index == index):
            return device
    raise ConfigurationError(f"WANWORKS_DEVICE: the driver shows no GPU {uuid or index}")


def free_memory_mb(device: Device) -> int:
    """Memory that is free on the device now, in MB: the GPU's, or what the host could still give."""
    if device.kind == "cpu":
        return _host_free_bytes() // MB
    with driver() as nvml:
        if nvml is None:
            raise ConfigurationError(f"{device.label}: the NVIDIA driver does not answer")
        return int(nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(device.uuid)).free) // MB


@contextmanager
def driver() -> Iterator[Any]:
    """NVML, initialised; None where there is no driver. Raises ConfigurationError where a driver is there but ill."""
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
    """The driver's answer, or None where this device does not give one."""
    try:
        return question(*about)
    except nvml.NVMLError:
        return None


def _gpus() -> list[Device]:
    """Every GPU, or in its place its MIG slices where it is cut up, in the driver's order."""
    with driver() as nvml:
        if nvml is None:
            return []
        devices: list[Device] = []
        for number in range(nvml.nvmlDeviceGetCount()):
            whole = asked(nvml, nvml.nvmlDeviceGetHandleByIndex, number)
            if whole is None:  # fallen off the bus, or not ours to see
                continue
            for handle in _slices(nvml, whole):
                memory = asked(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
                if memory is None:
                    continue
                uuid, name = _text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle))
                devices.append(Device("cuda", len(devices), uuid, name, int(memory.total) // MB))
        return devices


def _slices(nvml: Any, whole: Any) -> list[Any]:
    mode = asked(nvml, nvml.nvmlDeviceGetMigMode, whole)
    if mode is None or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        return [whole]
    found = (
        asked(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, whole, number)
        for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(whole))
    )
    return [handle for handle in found if handle is not None]


def _visible(gpus: list[Device], variable: str | None) -> list[Device]:
    """Those that ``CUDA_VISIBLE_DEVICES`` leaves: indices, or (the beginnings of) UUIDs; up to the first unknown."""
    if variable is None:
        return gpus
    chosen: list[Device] = []
    for word in (part.strip() for part in variable.split(",")):
        match = [gpu for gpu in gpus if (word.isdigit() and gpu.index == int(word)) or (word and gpu.uuid == word)]
        match = match or [gpu for gpu in gpus if len(word) >= 8 and gpu.uuid.startswith(word)]
        if len(match) != 1:
            break
        chosen += match
    return chosen


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
    """A figure of this process's memory control group (version 2), in bytes; None where there is no limit."""
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().rpartition(":")[2]
        return int((Path("/sys/fs/cgroup") / group.lstrip("/") / name).read_text(encoding="ascii"))
    except (OSError, ValueError):  # no cgroup v2 here, or the word "max"
        return None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m workers.devices auto|cpu:N|cuda:0,1")
    try:
        found = enumerate_devices(sys.argv[1])
    except WanworksError as error:
        sys.exit(error.message)
    print(json.dumps([{**asdict(device), "cuda_visible_devices": device.cuda_visible_devices} for device in found]))
