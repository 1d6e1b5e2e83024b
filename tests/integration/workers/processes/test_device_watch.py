"""The loop that watches for Xid errors, with a fake of the driver's library functions."""

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from shared import clock
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Device as DeviceRow
from shared.errors import DatabaseUnavailable
from shared.jobs import device_faults
from shared.settings import Settings
from shared.telemetry.loops import LoopReporter
from tests.support import working
from tests.support.jobs import UNCOUNTED
from workers.devices.discovery import Device
from workers.processes import process
from workers.processes.device_watch import DeviceWatch


@pytest.fixture
def xids(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list of the errors that the fake driver reports next."""
    pending: list[int] = []

    def wait(events: object, milliseconds: int) -> SimpleNamespace:
        assert milliseconds == 0, "the loop must not hang"
        if not pending:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        return SimpleNamespace(
            eventType=pynvml.nvmlEventTypeXidCriticalError, eventData=pending.pop(0), gpuInstanceId=0xFFFFFFFF
        )

    def no_slice(handle: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)

    fakes: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": no_slice,
        "nvmlEventSetCreate": object,
        "nvmlEventSetFree": lambda events: None,
        "nvmlDeviceRegisterEvents": lambda handle, types, events: None,
        "nvmlEventSetWait_v2": wait,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(pynvml, name, fake)
    return pending


@pytest.fixture
def watch(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch, xids: list[int]) -> DeviceWatch:
    """Of the worker of ``here/0``, a GPU."""
    device = Device("cuda", 0, "GPU-a", "a GPU", 80_000)
    for name, value in {
        "settings": settings, "database": database, "device": device, "claimant": working.HERE, "device_id": "GPU-a",
        "meters": UNCOUNTED, "reporter": LoopReporter(database, "gpu-0@here", "here"),
    }.items():  # fmt: skip
        monkeypatch.setattr(process, name, lambda value=value: value)
    row = DeviceRow(
        key=working.HERE.device_key, node="here", index=0, kind="cuda", uuid="GPU-a", name="a GPU", memory_mb=80_000,
        worker="gpu-0@here", pid=1, started_at=clock.now(), seen_at=0.0, warm=[],
    )  # fmt: skip
    nodes.register_device(database, row)
    return DeviceWatch()


def reason(database: Database) -> str | None:
    (seen,) = nodes.devices(database)
    assert (seen.device.quarantined_at is None) == (seen.device.quarantine_reason is None)
    return seen.device.quarantine_reason


def test_a_critical_xid_quarantines_the_device_at_once(
    watch: DeviceWatch, database: Database, xids: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    watch.watch()
    assert reason(database) is None
    xids += [79, 48]
    with caplog.at_level(logging.ERROR):
        watch.watch()
    assert reason(database) == "The driver reports Xid 79: it has fallen off the bus"
    assert "GPU-a reports Xid 79: it has fallen off the bus" in caplog.text
    device_faults.release(database, working.HERE.device_key)
    watch.watch()
    assert reason(database) is None, "only new errors count after a release"


@pytest.mark.parametrize("number", [13, 31, 43, 45, 63, 92, 94, 9999])
def test_an_error_of_an_application_is_only_logged(
    watch: DeviceWatch, database: Database, xids: list[int], caplog: pytest.LogCaptureFixture, number: int
) -> None:
    xids.append(number)
    with caplog.at_level(logging.WARNING):
        watch.watch()
    assert reason(database) is None
    assert f"GPU-a reports Xid {number}: " in caplog.text


def test_a_critical_xid_is_kept_until_the_database_stores_it(
    watch: DeviceWatch, database: Database, xids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> bool:
        raise DatabaseUnavailable()

    xids.append(95)
    with monkeypatch.context() as patch:
        patch.setattr(device_faults, "quarantine", away)
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                watch.watch()
    watch.watch()
    assert reason(database) == "The driver reports Xid 95: an uncontained memory error"
