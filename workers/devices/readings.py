"""The present readings of a device: of a GPU through NVML, of a CPU device from its worker's processes.

Values that cannot be measured are None. This module must not depend on jobs, the database or torch.
"""

import logging
import os
import time
from contextlib import ExitStack
from typing import Any, Protocol

import psutil

from shared.errors import ConfigurationError
from shared.insight.samples import Reading
from workers.devices import discovery
from workers.devices.discovery import MB, Device

log = logging.getLogger("wanworks.readings")

UNKNOWN = Reading(None, None, None, None, None)


class Gauge(Protocol):
    """Reads one device repeatedly."""

    def read(self) -> Reading: ...

    def close(self) -> None: ...


def gauge(device: Device) -> Gauge:
    """Return the gauge for this kind of device."""
    return GpuGauge(device) if device.kind == "cuda" else ProcessGauge(device)


class GpuGauge:
    """A GPU, or a MIG slice of one, by its UUID.

    NVML stays open between readings: if nothing else holds the driver open (no persistence daemon, no model loaded),
    opening it wakes the GPU for a second or two each time.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._open = ExitStack()
        self._nvml: Any = None

    def read(self) -> Reading:
        """Return memory, utilisation, temperature, power, memory errors and slowdowns; None if not reported."""
        try:
            if self._nvml is None:
                self._nvml = self._open.enter_context(discovery.driver())
        except ConfigurationError as error:
            log.warning("%s: %s", self._device.label, error)
        found = _read(self._nvml, self._device.uuid) if self._nvml is not None else UNKNOWN
        if found == UNKNOWN:
            self.close()  # the driver may have been restarted; the next reading opens it again
        return found

    def close(self) -> None:
        self._open.close()
        self._nvml = None


class ProcessGauge:
    """A CPU device: the processes of its worker, this one and its children.

    `utilization_percent` is their CPU time since the last reading, of one core (two busy cores are 200);
    `memory_used_mb` the sum of their resident sets, in which shared pages count for each process;
    `memory_total_mb` what the device may use. No temperature or power, because the host's do
    not describe the job.
    """

    def __init__(self, device: Device) -> None:
        self._total = float(device.memory_mb)
        self._main = psutil.Process(os.getpid())
        self._read_at = time.monotonic()
        self._spent = {key: seconds for key, (seconds, _) in self._usage().items()}

    def read(self) -> Reading:
        now, found = time.monotonic(), self._usage()
        # A new process began after the last reading, so all its time belongs to this one.
        worked = sum(max(0.0, seconds - self._spent.get(key, 0.0)) for key, (seconds, _) in found.items())
        elapsed = now - self._read_at
        self._read_at, self._spent = now, {key: seconds for key, (seconds, _) in found.items()}
        return Reading(
            utilization_percent=round(100 * worked / elapsed, 1) if elapsed > 0 else None,
            memory_used_mb=round(sum(resident for _, resident in found.values()) / MB, 1),
            memory_total_mb=self._total,
            temperature_celsius=None,
            power_watts=None,
        )

    def close(self) -> None:
        """Do nothing: no resource is held open."""

    def _usage(self) -> dict[tuple[int, float], tuple[float, int]]:
        """Return (CPU seconds, resident bytes) of each process by (pid, start time), because pids are reused."""
        found = {}
        for one in [self._main, *self._main.children(recursive=True)]:
            try:
                with one.oneshot():
                    times = one.cpu_times()
                    found[one.pid, one.create_time()] = (times.user + times.system, one.memory_info().rss)
            except psutil.Error:  # it has just ended
                continue
        return found


def _read(nvml: Any, uuid: str) -> Reading:
    handle = discovery.asked(nvml, nvml.nvmlDeviceGetHandleByUUID, uuid)
    if handle is None:
        return UNKNOWN
    memory = discovery.asked(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    # A MIG slice has no sensors: it reports those of its GPU. Its utilisation is not available.
    whole = discovery.asked(nvml, nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle) or handle
    utilization = discovery.asked(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    temperature = discovery.asked(nvml, nvml.nvmlDeviceGetTemperature, whole, nvml.NVML_TEMPERATURE_GPU)
    power = discovery.asked(nvml, nvml.nvmlDeviceGetPowerUsage, whole)
    errors = discovery.asked(
        nvml, nvml.nvmlDeviceGetTotalEccErrors, whole, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
    )
    reasons = discovery.asked(nvml, nvml.nvmlDeviceGetCurrentClocksEventReasons, whole)
    return Reading(
        utilization_percent=None if utilization is None else float(utilization.gpu),
        memory_used_mb=None if memory is None else round(memory.used / MB, 1),
        memory_total_mb=None if memory is None else round(memory.total / MB, 1),
        temperature_celsius=None if temperature is None else float(temperature),
        power_watts=None if power is None else round(power / 1000, 1),
        ecc_uncorrected=None if errors is None else int(errors),
        throttle_reasons=None if reasons is None else _reasons(nvml, int(reasons)),
    )


def _reasons(nvml: Any, bits: int) -> str:
    """Return the names of the reasons for a reduced clock rate, comma-separated. An idle GPU has none."""
    names = {
        nvml.nvmlClocksEventReasonHwSlowdown: "hw_slowdown",
        nvml.nvmlClocksEventReasonHwThermalSlowdown: "hw_thermal_slowdown",
        nvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "hw_power_brake_slowdown",
        nvml.nvmlClocksEventReasonSwThermalSlowdown: "sw_thermal_slowdown",
        nvml.nvmlClocksEventReasonSwPowerCap: "sw_power_cap",
        nvml.nvmlClocksEventReasonApplicationsClocksSetting: "applications_clocks_setting",
        nvml.nvmlClocksEventReasonSyncBoost: "sync_boost",
    }
    return ",".join(name for bit, name in names.items() if bits & bit)
