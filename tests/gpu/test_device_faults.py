"""Fault drills on a GPU: a poisoned context in a process of its own, and what the driver reports."""

import pytest

from tests.gpu.conftest import Recorder
from tests.gpu.faults import PROBE_SECONDS, poisoned
from workers.devices import readings
from workers.devices.discovery import Device
from workers.devices.xids import XidWatch
from workers.generation.pipelines import device_health

pytestmark = pytest.mark.gpu


def test_a_poisoned_context_is_recognised_and_stays_in_its_process(device: Device, record: Recorder) -> None:
    healthy, found, after, seconds = poisoned()
    assert healthy is None
    assert found[0] == "cuda_error"
    assert "CUDA error" in found[1]
    assert after is not None
    record("the probe on a poisoned context", seconds, "s", at_most=PROBE_SECONDS)
    assert device_health.probe("cuda") is None, "another process is not affected"


def test_out_of_memory_is_no_fault(device: Device) -> None:
    import torch

    with pytest.raises(torch.OutOfMemoryError) as raised:
        torch.empty(2 * device.memory_mb * 10**6, dtype=torch.uint8, device="cuda")
    assert device_health.lacks_memory(raised.value)
    assert device_health.cuda_error(raised.value) is None
    assert device_health.probe("cuda") is None


def test_the_driver_reports_health(device: Device) -> None:
    gauge, watch = readings.gauge(device), XidWatch(device)
    try:
        reading = gauge.read()
        assert reading.throttle_reasons is not None
        assert watch.read() == []
    finally:
        gauge.close()
        watch.close()
