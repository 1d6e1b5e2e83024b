"""Device discovery, with a fake of the driver's library functions."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pynvml
import pytest

from shared.errors import ConfigurationError
from shared.insight.samples import Reading
from workers.devices import discovery, readings

GIB = 2**30


@dataclass
class Gpu:
    uuid: str
    name: str = "NVIDIA H200"
    total: int = 141 * 10**9
    slices: list["Gpu"] = field(default_factory=list)
    parent: "Gpu | None" = None


class Driver:
    """Fake responses of NVML's functions."""

    def __init__(self, *gpus: Gpu) -> None:
        self.gpus = gpus
        for gpu in gpus:
            for part in gpu.slices:
                part.parent = gpu

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in dir(self):
            if name.startswith("nvml"):
                monkeypatch.setattr(pynvml, name, getattr(self, name))

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Gpu:
        for gpu in self.gpus:
            for one in (gpu, *gpu.slices):
                if one.uuid == uuid:
                    return one
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetGpuInstanceId(self, gpu: Gpu) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    nvmlDeviceGetComputeInstanceId = nvmlDeviceGetGpuInstanceId

    def nvmlDeviceGetMigMode(self, gpu: Gpu) -> tuple[int, int]:
        if gpu.name == "NVIDIA GeForce RTX 4090":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        mode = pynvml.NVML_DEVICE_MIG_ENABLE if gpu.slices else pynvml.NVML_DEVICE_MIG_DISABLE
        return mode, mode

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: Gpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: Gpu, index: int) -> Gpu:
        if index >= len(gpu.slices):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return gpu.slices[index]

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, gpu: Gpu) -> Gpu:
        if gpu.parent is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return gpu.parent

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetName(self, gpu: Gpu) -> str:
        return gpu.name

    def nvmlDeviceGetCudaComputeCapability(self, gpu: Gpu) -> tuple[int, int]:
        assert gpu.parent is None
        return (8, 9) if gpu.name == "NVIDIA GeForce RTX 4090" else (9, 0)

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> SimpleNamespace:
        return SimpleNamespace(total=gpu.total, used=gpu.total // 4, free=gpu.total - gpu.total // 4)

    def nvmlDeviceGetUtilizationRates(self, gpu: Gpu) -> SimpleNamespace:
        if gpu.parent is not None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=83, memory=40)

    def nvmlDeviceGetTemperature(self, gpu: Gpu, sensor: int) -> int:
        assert gpu.parent is None
        return 61

    def nvmlDeviceGetPowerUsage(self, gpu: Gpu) -> int:
        assert gpu.parent is None
        return 512_300


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return lambda *gpus: Driver(*gpus).install(monkeypatch)


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def init() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", init)


@pytest.mark.usefixtures("no_driver")
def test_without_a_gpu_there_is_one_cpu_device() -> None:
    (device,) = discovery.enumerate_devices("auto")
    assert (device.kind, device.index, device.uuid, device.label) == ("cpu", 0, "", "cpu:0")
    assert device.memory_mb > 100
    assert device.name


def test_the_requested_number_of_cpu_devices() -> None:
    assert [device.label for device in discovery.enumerate_devices("cpu:3")] == ["cpu:0", "cpu:1", "cpu:2"]


def test_every_gpu_by_default(driver: Callable[..., None]) -> None:
    driver(Gpu("GPU-aaaaaaaa-1"), Gpu("GPU-bbbbbbbb-2", "NVIDIA GeForce RTX 4090", 24 * GIB))
    found = discovery.enumerate_devices("auto", {})
    assert [(gpu.label, gpu.uuid, gpu.memory_mb) for gpu in found] == [
        ("cuda:0", "GPU-aaaaaaaa-1", 141_000),
        ("cuda:1", "GPU-bbbbbbbb-2", 25_769),
    ]
    assert found[1].cuda_visible_devices == "GPU-bbbbbbbb-2"
    assert [gpu.compute_capability for gpu in found] == [90, 89]


def test_chosen_gpus_keep_their_index(driver: Callable[..., None]) -> None:
    driver(Gpu("GPU-a"), Gpu("GPU-b"), Gpu("GPU-c"))
    assert [gpu.uuid for gpu in discovery.enumerate_devices("cuda:2,0")] == ["GPU-c", "GPU-a"]


def test_a_gpu_that_is_cut_up_is_its_slices(driver: Callable[..., None]) -> None:
    cut = Gpu("GPU-a", slices=[Gpu("MIG-1", "NVIDIA H200 MIG 3g.71gb", 70 * 10**9), Gpu("MIG-2", total=70 * 10**9)])
    driver(cut, Gpu("GPU-b"))
    found = discovery.enumerate_devices("auto", {})
    assert [(gpu.index, gpu.uuid) for gpu in found] == [(0, "MIG-1"), (1, "MIG-2"), (2, "GPU-b")]
    read = readings.gauge(found[0]).read()
    assert read.utilization_percent is None
    assert (read.temperature_celsius, read.power_watts) == (61.0, 512.3)


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("1", ["GPU-bbbbbbbb"]),
        ("1,0", ["GPU-bbbbbbbb", "GPU-aaaaaaaa"]),
        ("GPU-bbbbbbbb", ["GPU-bbbbbbbb"]),
        ("GPU-bbbb", ["GPU-bbbbbbbb"]),
        ("gpu-B", ["GPU-bbbbbbbb"]),
        (" 0 , GPU-b ", ["GPU-aaaaaaaa", "GPU-bbbbbbbb"]),
        ("1,", ["GPU-bbbbbbbb"]),
        ("0,-1,1", ["GPU-aaaaaaaa"]),
    ],
)
def test_what_is_hidden_from_us_is_not_taken(driver: Callable[..., None], variable: str, expected: list[str]) -> None:
    driver(Gpu("GPU-aaaaaaaa"), Gpu("GPU-bbbbbbbb"))
    found = discovery.enumerate_devices("auto", {"CUDA_VISIBLE_DEVICES": variable})
    assert [gpu.uuid for gpu in found] == expected


@pytest.mark.parametrize("variable", ["", " ", "-1", "-1,0", "none", "void", "NoDevFiles"])
def test_with_every_gpu_hidden_the_cpu_is_left(driver: Callable[..., None], variable: str) -> None:
    driver(Gpu("GPU-a"))
    assert [one.label for one in discovery.enumerate_devices("auto", {"CUDA_VISIBLE_DEVICES": variable})] == ["cpu:0"]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("cuda:1", "names GPU 1, but the driver reports: 0"),
        ("cuda:\u0661", "is not auto"),
        ("cuda:0,0", "names a GPU twice"),
        ("cpu:0", "names no device"),
        ("gpu:0", "is not auto, cpu:N or cuda"),
        ("", "is not auto"),
        ("cuda:", "is not auto"),
        ("cpu:-1", "is not auto"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(driver: Callable[..., None], spec: str, reason: str) -> None:
    driver(Gpu("GPU-a"))
    with pytest.raises(ConfigurationError, match=reason):
        discovery.enumerate_devices(spec)


@pytest.mark.usefixtures("no_driver")
def test_a_gpu_without_a_driver_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the driver reports: none"):
        discovery.enumerate_devices("cuda:0")


def test_a_driver_that_is_ill_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    monkeypatch.setattr(pynvml, "nvmlInit", init)
    with pytest.raises(ConfigurationError, match="driver does not answer"):
        discovery.enumerate_devices("auto")


def test_this_process_knows_its_device_by_uuid(driver: Callable[..., None]) -> None:
    driver(Gpu("GPU-a"), Gpu("GPU-b", total=80 * 10**9))
    device = discovery.this_device({"WANWORKS_DEVICE": "cuda:1", "CUDA_VISIBLE_DEVICES": "GPU-b"})
    assert (device.label, device.uuid) == ("cuda:1", "GPU-b")
    assert discovery.free_memory_mb(device) == 60_000
    with pytest.raises(ConfigurationError, match="'GPU-z' matches none of them"):
        discovery.this_device({"WANWORKS_DEVICE": "cuda:1", "CUDA_VISIBLE_DEVICES": "GPU-z"})


def test_this_process_on_a_cpu_device() -> None:
    device = discovery.this_device({"WANWORKS_DEVICE": "cpu:1", "CUDA_VISIBLE_DEVICES": ""})
    assert device.label == "cpu:1"
    assert 0 < discovery.free_memory_mb(device) <= device.memory_mb
    with pytest.raises(ConfigurationError, match="WANWORKS_DEVICE"):
        discovery.this_device({"WANWORKS_DEVICE": "tpu"})


def test_readings_of_a_gpu(driver: Callable[..., None]) -> None:
    driver(Gpu("GPU-a", total=100 * 10**9))
    read = readings.gauge(discovery.enumerate_devices("auto", {})[0]).read()
    assert read == Reading(83.0, 25_000.0, 100_000.0, 61.0, 512.3)


@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        ("7", "'7' matches none of them"),
        ("0,9,1", "'9' matches none of them"),
        ("MIG-00000000-0000", "'MIG-00000000-0000' matches none of them"),
        ("GPU-", "'GPU-' matches none of them"),
        ("GPU-a", "'GPU-a' is the prefix of 2 of them"),
        ("0,0", "'0' names GPU-aaaaaaaa a second time"),
        ("0,GPU-aaaaaaaa", "'GPU-aaaaaaaa' names GPU-aaaaaaaa a second time"),
        ("all", "'all' matches none of them"),
        ("0;1", "'0;1' matches none of them"),
        ("0,,1", "'' matches none of them"),
        ("\u00b2", "matches none of them"),
        ("2", "GPU 2 is divided into MIG slices, which are named by UUID"),
    ],
)
@pytest.mark.parametrize("spec", ["auto", "cuda:0"])
def test_names_that_the_driver_does_not_show_are_an_error_not_the_cpu(
    driver: Callable[..., None], spec: str, variable: str, reason: str
) -> None:
    driver(Gpu("GPU-aaaaaaaa"), Gpu("GPU-aabbbbbb"), Gpu("GPU-cccccccc", slices=[Gpu("MIG-1")]))
    with pytest.raises(ConfigurationError, match=reason) as caught:
        discovery.enumerate_devices(spec, {"CUDA_VISIBLE_DEVICES": variable})
    assert "The driver reports: 0 (GPU-aaaaaaaa), 1 (GPU-aabbbbbb), 2 (MIG-1)." in caught.value.message


@pytest.mark.usefixtures("no_driver")
def test_a_gpu_that_is_named_where_there_is_no_driver_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="The driver reports: none"):
        discovery.enumerate_devices("auto", {"CUDA_VISIBLE_DEVICES": "GPU-a"})


def test_indices_count_what_is_left_to_us(driver: Callable[..., None]) -> None:
    driver(Gpu("GPU-a"), Gpu("GPU-b"), Gpu("GPU-c"))
    left = {"CUDA_VISIBLE_DEVICES": "2,GPU-a"}
    assert [gpu.uuid for gpu in discovery.enumerate_devices("cuda:0", left)] == ["GPU-c"]
    assert [gpu.uuid for gpu in discovery.enumerate_devices("cuda:1,0", left)] == ["GPU-a", "GPU-c"]
    assert [gpu.label for gpu in discovery.enumerate_devices("cuda:0", left)] == ["cuda:2"], "workers keep their names"
    with pytest.raises(ConfigurationError, match="names GPU 2, but CUDA_VISIBLE_DEVICES='2,GPU-a' selects: 0, 1"):
        discovery.enumerate_devices("cuda:2", left)
    with pytest.raises(ConfigurationError, match="CUDA_VISIBLE_DEVICES='' selects: none"):
        discovery.enumerate_devices("cuda:0", {"CUDA_VISIBLE_DEVICES": ""})


@pytest.mark.parametrize("variable", ["1", "GPU-b", "GPU-bb"])
def test_a_worker_started_by_hand_may_name_its_gpu_in_any_way(driver: Callable[..., None], variable: str) -> None:
    driver(Gpu("GPU-aa"), Gpu("GPU-bb"))
    assert discovery.this_device({"WANWORKS_DEVICE": "cuda:0", "CUDA_VISIBLE_DEVICES": variable}).uuid == "GPU-bb"


def test_a_worker_that_sees_two_gpus_is_refused(driver: Callable[..., None]) -> None:
    driver(Gpu("GPU-aa"), Gpu("GPU-bb"))
    with pytest.raises(ConfigurationError, match="selects 2; set it to this worker's GPU only"):
        discovery.this_device({"WANWORKS_DEVICE": "cuda:0", "CUDA_VISIBLE_DEVICES": "0,1"})


def test_the_command_prints_json() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workers.devices.discovery", "cpu:2"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    listed = json.loads(done.stdout)
    assert [(one["kind"], one["index"], one["cuda_visible_devices"]) for one in listed] == [
        ("cpu", 0, ""),
        ("cpu", 1, ""),
    ]
    refused = subprocess.run(
        [sys.executable, "-m", "workers.devices.discovery", "tpu:1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert refused.returncode == 1
    assert "'tpu:1' is not auto" in refused.stderr
