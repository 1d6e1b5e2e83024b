"""How long loading and running take, from measured durations."""

import time
from collections.abc import Callable, Hashable
from functools import cache

from shared.database.engine import Database
from shared.forecast.slots import Estimates
from shared.jobs.dispatch import Busy, Waiting
from shared.jobs.usage import durations as job_durations
from shared.jobs.usage.durations import Durations

_KEEP_SECONDS = 20.0
# Used until something is measured. It is never shown to users.
UNKNOWN_SECONDS = 30.0


class MeasuredDurations:
    """Caches the measured durations of each model cache key and speed tier."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[Hashable, tuple[float, Durations]] = {}

    def estimates(self) -> Estimates:
        """Return estimates for one pass, within which they do not change."""
        return Estimates(cache(self._load_seconds), cache(self._run_seconds))

    def of(self, job: Waiting | Busy) -> Durations:
        """Return what was measured of the job's model, tier and number of devices."""
        key = (job.model_cache_key, job.model_id, job.speed, job.devices)
        return self._kept(key, lambda: job_durations.measured(self._database, *key))

    def _load_seconds(self, model_cache_key: str) -> float:
        measured = self._measured(model_cache_key).load_seconds
        return UNKNOWN_SECONDS if measured is None else measured

    def _run_seconds(self, timing_key: str, work: float, volume: float) -> float:
        measured = self._measured(timing_key).device_seconds(work, volume)
        return UNKNOWN_SECONDS if measured is None else measured

    def _measured(self, timing_key: str) -> Durations:
        return self._kept(timing_key, lambda: job_durations.of_timing_key(self._database, timing_key))

    def _kept(self, key: Hashable, read: Callable[[], Durations]) -> Durations:
        read_at, durations = self._known.get(key, (float("-inf"), None))
        if durations is None or time.monotonic() - read_at > _KEEP_SECONDS:
            durations = read()
            self._known[key] = (time.monotonic(), durations)
        return durations
