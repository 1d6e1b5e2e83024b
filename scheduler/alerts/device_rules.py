"""The alert rules about devices: pure functions, listed in `scheduler/alerts/rules.py`."""

from collections.abc import Collection, Iterable

from scheduler.alerts.fact_types import Facts
from scheduler.alerts.found import Found, limit, span
from shared.cluster.nodes import is_heard
from shared.insight.samples import SLOWDOWNS
from shared.settings import Settings


def worker_lost(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    """Find devices whose workers are silent without having deregistered."""
    for device in facts.devices:
        if not device.stopped and not is_heard(device.silent_seconds, settings.device_silence_seconds):
            yield Found(
                device.key,
                f"The worker of {device.key} is lost",
                f"{device.key} ({device.name}) has not sent a heartbeat for {span(device.silent_seconds)}. "
                "Its job is given to another device.",
                "Check whether the host is up, and read the worker's log",
            )


def too_hot(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    """Find devices at or above the highest temperature."""
    for device in facts.devices:
        threshold = limit(settings.alert_temperature_celsius, device.key in open)
        if device.temperature_celsius is not None and device.temperature_celsius >= threshold:
            yield Found(
                device.key,
                f"{device.key} is too hot",
                f"{device.name} is at {device.temperature_celsius:.0f} degrees Celsius; "
                f"the limit is {settings.alert_temperature_celsius:g}.",
                "Check its fans and the air flow; a hot GPU reduces its clock rate",
            )


def memory_full(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    """Find devices whose memory is nearly full."""
    for device in facts.devices:
        threshold = limit(settings.alert_memory_percent, device.key in open)
        if device.memory_percent is not None and device.memory_percent >= threshold:
            yield Found(
                device.key,
                f"The memory of {device.key} is nearly full",
                f"{device.memory_percent:.0f} % of the memory of {device.name} is in use.",
                "Check whether another program uses this device; a leaner WANWORKS_MEMORY_PROFILE or fewer loaded "
                "models need less",
            )


def quarantined(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    """Find quarantined devices."""
    for device in facts.devices:
        if device.quarantine_reason is not None:
            yield Found(
                device.key,
                f"{device.key} is quarantined",
                f"{device.name} is faulty and accepts no jobs: {device.quarantine_reason}.",
                "Check the device (nvidia-smi, the kernel's log), reset or replace it, then: wanworks release "
                + device.key,
            )


def throttled(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    """Find devices that the driver slows down to protect them."""
    for device in facts.devices:
        reasons = [reason for reason in device.throttle_reasons if reason in SLOWDOWNS]
        if reasons:
            yield Found(
                device.key,
                f"{device.key} runs slower to protect itself",
                f"The driver reduces the clock rate of {device.name}: {', '.join(reasons)}.",
                "Check its fans, the air flow and the power supply",
            )


def memory_errors(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    """Find devices with uncorrectable memory errors."""
    for device in facts.devices:
        if device.ecc_uncorrected:
            yield Found(
                device.key,
                f"{device.key} has had memory errors",
                f"{device.name} has had {device.ecc_uncorrected} uncorrectable memory errors since its driver was "
                "loaded.",
                "Drain the node and reset the GPU; if the errors return, replace it",
            )
