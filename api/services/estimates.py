"""Estimate how long a generation takes and waits: the medians of measured jobs, scaled to its size.

The estimate of the page and the dry run use the same functions.
"""

from dataclasses import dataclass

from shared.database.engine import Database
from shared.jobs.usage import durations, gpu_time
from shared.management.library import Library
from wanworks.requests import Quantization


@dataclass(frozen=True)
class Wanted:
    """A possible generation."""

    model_id: str
    weights_id: str
    quantization: Quantization
    speed: str
    work: float  # megapixels x frames x steps
    devices: int = 1
    rank: int = 2  # of its priority

    @property
    def model_cache_key(self) -> str:
        return f"{self.weights_id}:{self.quantization}"


@dataclass(frozen=True)
class Estimate:
    """The times of a generation in seconds. None: never measured."""

    generation_seconds: float | None
    loading_seconds: float | None
    warm: bool  # whether a device has loaded the model
    samples: int
    queue_seconds: float | None

    def device_seconds(self, devices: int) -> float | None:
        """Return how long it holds its devices, summed over them, with loading where no device has the model."""
        if self.generation_seconds is None or (not self.warm and self.loading_seconds is None):
            return None
        return devices * (self.generation_seconds + (0.0 if self.warm else self.loading_seconds or 0.0))


def estimate(database: Database, library: Library, wanted: Wanted) -> Estimate:
    """Return the estimate. Raises DatabaseUnavailable."""
    measured = durations.measured(
        database, wanted.model_cache_key, wanted.model_id, wanted.speed, devices=wanted.devices
    )
    rate = measured.seconds_per_work
    loaded = (wanted.weights_id, wanted.quantization)
    return Estimate(
        generation_seconds=round(rate * wanted.work, 1) if rate is not None else None,
        loading_seconds=round(measured.load_seconds, 1) if measured.load_seconds is not None else None,
        warm=any(
            (one.get("model_id"), one.get("quantization", "none")) == loaded
            for device in library.devices
            for one in device.warm
        ),
        samples=measured.samples,
        queue_seconds=queue_seconds(database, len(library.devices), wanted.rank),
    )


def queue_seconds(database: Database, devices: int, rank: int) -> float | None:
    """Return how long a generation of that rank would wait for one of so many devices.

    0 if a device is free; else the expected device time of the jobs before it, divided by the number of devices. None
    without devices, or if one of these jobs uses a model that was never measured.
    """
    if not devices:
        return None
    ahead = gpu_time.ahead(database, rank)
    if ahead.queued + ahead.running < devices:
        return 0.0
    return None if ahead.device_seconds is None else round(ahead.device_seconds / devices, 1)
