"""Watches a GPU for Xid errors, which the NVIDIA driver reports through NVML.

What each number means, and which of them leave the GPU unusable until it is reset or replaced, follows NVIDIA's Xid
catalogue. The others concern only the application that ran: its own error shows what they did. This module must not
depend on jobs or the database.
"""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from shared.errors import ConfigurationError
from shared.telemetry.loops import RepeatedErrors
from workers.devices import discovery
from workers.devices.discovery import Device

log = logging.getLogger("wanworks.xids")

FALLEN_OFF = 79
CRITICAL: Mapping[int, str] = {
    48: "an uncorrectable memory error (double bit)",
    62: "its micro-controller has halted",
    64: "faulty memory could not be retired",
    74: "an NVLink error",
    FALLEN_OFF: "it has fallen off the bus",
    95: "an uncontained memory error",
    119: "its system processor (GSP) does not answer",
    120: "an error of its system processor (GSP)",
    140: "an unrecovered memory error",
}
_OTHERS: Mapping[int, str] = {
    13: "an exception in a kernel",
    31: "an invalid memory access",
    43: "a process's channel was reset",
    45: "a process was ended",
    63: "faulty memory will be retired at the next reset",
    92: "many corrected memory errors",
    94: "a memory error that only one process suffered from",
}
_EVENTS_PER_PASS = 64
_ANY_INSTANCE = 0xFFFFFFFF


@dataclass(frozen=True)
class Xid:
    """One Xid error of the watched GPU."""

    number: int

    @property
    def critical(self) -> bool:
        """Return whether the GPU is unusable until it is reset or replaced."""
        return self.number in CRITICAL

    def __str__(self) -> str:
        return f"Xid {self.number}: {CRITICAL.get(self.number) or _OTHERS.get(self.number) or 'another error'}"


class XidWatch:
    """Receives the Xid errors of one GPU, or of the GPU that a MIG slice belongs to. Use from one thread.

    A device on the CPU, or a driver that does not report events, has none.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._open = ExitStack()
        self._nvml: Any = None
        self._events: Any = None
        self._instance: int | None = None  # of a MIG slice
        self._unsupported = device.kind != "cuda"
        self._lost = False
        self._errors = RepeatedErrors()

    def read(self) -> list[Xid]:
        """Return the errors since the last call. Does not wait for one."""
        if self._unsupported or not self._is_open():
            return []
        found: list[Xid] = []
        nvml = self._nvml
        for _ in range(_EVENTS_PER_PASS):
            try:
                event = nvml.nvmlEventSetWait_v2(self._events, 0)
            except nvml.NVMLError as error:
                if error.value == nvml.NVML_ERROR_TIMEOUT:
                    break
                found += self._after_failure(error)
                break
            if event.eventType == nvml.nvmlEventTypeXidCriticalError and self._concerns_us(event):
                found.append(Xid(int(event.eventData)))
        return found

    def close(self) -> None:
        """Release the driver."""
        self._open.close()
        self._nvml = self._events = None

    def _is_open(self) -> bool:
        if self._events is not None:
            return True
        try:
            self._nvml = self._open.enter_context(discovery.driver())
        except ConfigurationError as error:
            if self._errors.is_news(error):
                log.warning("%s: %s", self._device.label, error)
        if self._nvml is None:
            return False
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(self._device.uuid)
            whole = discovery.asked(nvml, nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle)
            if whole is not None:
                self._instance = discovery.asked(nvml, nvml.nvmlDeviceGetGpuInstanceId, handle)
            events = nvml.nvmlEventSetCreate()
            self._open.callback(discovery.asked, nvml, nvml.nvmlEventSetFree, events)
            nvml.nvmlDeviceRegisterEvents(whole or handle, nvml.nvmlEventTypeXidCriticalError, events)
        except nvml.NVMLError as error:
            self.close()
            if error.value == nvml.NVML_ERROR_NOT_SUPPORTED:
                self._unsupported = True
                log.info("%s: the driver does not report Xid errors of this device", self._device.label)
            elif self._errors.is_news(error):
                log.warning("%s: cannot watch for Xid errors: %s", self._device.label, error)
            return False
        self._events, self._lost = events, False
        return True

    def _concerns_us(self, event: Any) -> bool:
        """Return whether the error is of our MIG slice or of the whole GPU."""
        return self._instance is None or event.gpuInstanceId in (self._instance, _ANY_INSTANCE)

    def _after_failure(self, error: Any) -> list[Xid]:
        """Open the driver again in the next pass. A GPU that it has lost counts as fallen off the bus, once."""
        is_lost, was_lost = error.value == self._nvml.NVML_ERROR_GPU_IS_LOST, self._lost
        if self._errors.is_news(error):
            log.warning("%s: cannot read Xid errors: %s", self._device.label, error)
        self.close()
        self._lost = self._lost or is_lost
        return [Xid(FALLEN_OFF)] if is_lost and not was_lost else []
