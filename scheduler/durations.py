"""Estimates of how long loading and running take, from measured durations."""

import time
from functools import cache

from scheduler.placement.slots import Estimates
from shared.database.engine import Database
from shared.jobs.usage import durations as job_durations

_KEEP_SECONDS = 20.0
# Used until something is measured. It is never shown to users.
_UNKNOWN_SECONDS = 30.0


class MeasuredDurations:
    """Caches the measured durations of each model cache key and speed tier."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, tuple[float, job_durations.Durations]] = {}

    def estimates(self) -> Estimates:
        """Return estimates for one pass, within which they do not change."""
        return Estimates(cache(self._load_seconds), cache(self._run_seconds))

    def _load_seconds(self, model_cache_key: str) -> float:
        measured = self._measured(model_cache_key).load_seconds
        return _UNKNOWN_SECONDS if measured is None else measured

    def _run_seconds(self, timing_key: str, work: float) -> float:
        measured = self._measured(timing_key).seconds_per_work
        return _UNKNOWN_SECONDS if measured is None else measured * work

    def _measured(self, timing_key: str) -> job_durations.Durations:
        read_at, durations = self._known.get(timing_key, (float("-inf"), None))
        if durations is None or time.monotonic() - read_at > _KEEP_SECONDS:
            durations = job_durations.of_timing_key(self._database, timing_key)
            self._known[timing_key] = (time.monotonic(), durations)
        return durations
