"""Estimate how long a generation takes and when it would start: the measured times of its parts, scaled to its size.

The estimate of the page, the dry run and the check of `start_before` use the same functions. So do the estimates of
queued jobs (`shared/forecast/`).
"""

from dataclasses import dataclass

from shared.catalogue.job_types import GenerationParams
from shared.database.engine import Database
from shared.jobs.accepting import NewJob
from shared.jobs.dispatch import Waiting
from shared.jobs.usage import durations
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
    volume: float  # megapixels x frames
    devices: int = 1

    @property
    def model_cache_key(self) -> str:
        return f"{self.weights_id}:{self.quantization}"


@dataclass(frozen=True)
class Estimate:
    """The times of a generation in seconds. None: never measured."""

    generation_seconds: float | None
    held_seconds: float | None  # of them, for which it holds its devices
    loading_seconds: float | None
    warm: bool  # whether a device has loaded the model
    samples: int

    def device_seconds(self, devices: int, count: int = 1) -> float | None:
        """Return how long it holds its devices, summed over them, with loading where no device has the model.

        `count`: of so many such generations, of which the first one loads.
        """
        if self.held_seconds is None or (not self.warm and self.loading_seconds is None):
            return None
        return devices * (count * self.held_seconds + (0.0 if self.warm else self.loading_seconds or 0.0))


def estimate(database: Database, library: Library, wanted: Wanted) -> Estimate:
    """Return the estimate. Raises DatabaseUnavailable."""
    measured = durations.measured(
        database, wanted.model_cache_key, wanted.model_id, wanted.speed, devices=wanted.devices
    )
    loaded = (wanted.weights_id, wanted.quantization)
    return Estimate(
        generation_seconds=_rounded(measured.seconds(wanted.work, wanted.volume)),
        held_seconds=_rounded(measured.device_seconds(wanted.work, wanted.volume)),
        loading_seconds=_rounded(measured.load_seconds),
        warm=any(
            (one.get("model_id"), one.get("quantization", "none")) == loaded
            for device in library.devices
            for one in device.warm
        ),
        samples=measured.samples(wanted.volume),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def as_waiting(new: NewJob) -> Waiting:
    """Return the job as it would wait in the queue."""
    params = new.params
    assert isinstance(params, GenerationParams)
    return Waiting(
        job_id=new.id,
        type=new.type,
        model_id=params.model_id,
        model_cache_key=params.model_cache_key,
        target_node=None,
        priority=new.priority.rank,
        owner=new.owner,
        queued_at=new.start_after or 0.0,
        not_before=0.0,
        work=params.work,
        mock=new.mock,
        min_vram_mb=new.min_vram_mb,
        min_ram_mb=new.min_ram_mb,
        phase=None,
        dispatched_to=None,
        dispatched_at=None,
        memory_needs=new.memory_needs,
        speed=params.speed,
        devices=1 if new.mock else params.devices_per_job,
        volume=params.volume,
    )
