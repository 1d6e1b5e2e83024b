"""Which errors show that a device failed, and the probe that decides the others. Kernels of the CPU stand in."""

import threading
from collections.abc import Callable

import pytest
import torch

from shared.errors import BadInput, Cancelled, DeviceFailed, FaultKind, ModelUnavailable
from tests.support.devices.poisoned import ILLEGAL_ACCESS, poisoned, replaced
from workers.devices.discovery import Device
from workers.generation import device_errors
from workers.generation.pipelines import device_health
from workers.generation.pipelines.memory.freeing import ran_out

CPU = Device("cpu", 0, "", "CPU", 1000)
STICKY = (
    torch.AcceleratorError(ILLEGAL_ACCESS),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
)
OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    MemoryError(),
)


def outcome(error: BaseException) -> BaseException:
    """Return what leaves the block in place of the error."""
    with pytest.raises(BaseException) as raised, device_errors.reported(lambda: CPU):  # noqa: PT011
        raise error
    return raised.value


@pytest.mark.parametrize("error", STICKY, ids=str)
def test_a_cuda_error_is_a_fault_of_the_device_whatever_the_probe_says(error: Exception) -> None:
    failed = outcome(error)
    assert isinstance(failed, DeviceFailed)
    assert (failed.kind, failed.detail) == (FaultKind.CUDA_ERROR, str(error).splitlines()[0])


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_out_of_memory_is_none(error: Exception) -> None:
    assert ran_out(error)
    with poisoned():
        assert outcome(error) is error


def test_a_cuda_error_is_found_behind_the_error_that_it_led_to() -> None:
    unavailable = ModelUnavailable("The files cannot be loaded.")
    unavailable.__cause__ = STICKY[0]
    assert isinstance(outcome(unavailable), DeviceFailed)


@pytest.mark.parametrize("error", [BadInput("no picture"), Cancelled(), ModelUnavailable()], ids=repr)
def test_errors_with_a_known_cause_need_no_probe(error: Exception) -> None:
    with poisoned():
        assert outcome(error) is error


@pytest.mark.parametrize("error", [ValueError("odd"), RuntimeError("CUDNN_STATUS_INTERNAL_ERROR")], ids=repr)
def test_after_an_unforeseen_error_the_probe_decides(error: Exception) -> None:
    assert outcome(error) is error
    with poisoned():
        failed = outcome(error)
    assert isinstance(failed, DeviceFailed)
    assert failed.kind == FaultKind.FAILED_PROBE
    assert failed.detail == "the probe failed: CUDA error: an illegal memory access was encountered"


def probe_with(mm: Callable[..., torch.Tensor], seconds: float = 60.0) -> str | None:
    library = replaced({"mm": mm})
    try:
        return device_health.probe("cpu", seconds)
    finally:
        library._destroy()


def test_the_probe_compares_what_is_computed() -> None:
    assert device_health.probe("cpu") is None
    assert probe_with(lambda left, right: torch.zeros(64, 64)) == "the probe computed wrong results"


def test_a_device_without_room_for_the_probe_is_not_faulty() -> None:
    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert probe_with(full) is None


def test_a_device_that_hangs_fails_the_probe() -> None:
    ended = threading.Event()

    def hang(*_: object) -> torch.Tensor:
        ended.wait(30)
        return torch.zeros(64, 64)

    try:
        assert probe_with(hang, seconds=0.2) == "the probe did not finish within 0.2 s"
    finally:
        ended.set()
