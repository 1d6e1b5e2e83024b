"""The progress of jobs: from Redis while they run, else from their rows.

The last progress is remembered, so that it does not go back while Redis is unavailable.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from api.schemas.jobs.jobs import JobProgress
from shared.database.tables import Job
from shared.messaging.progress import Progress
from shared.states import JobState

_MAX_CACHED = 4096


class Live:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, tuple[int, JobProgress]] = OrderedDict()

    def of(self, jobs: Sequence[Job]) -> dict[str, JobProgress]:
        """Return the progress of the jobs by id. Reads Redis once, for the running ones."""
        running = [job.id for job in jobs if job.status == JobState.RUNNING]
        events = self._progress.latest(running)
        return {job.id: self._one(job, events.get(job.id)) for job in jobs}

    def _one(self, job: Job, event: dict[str, Any] | None) -> JobProgress:
        with self._lock:
            attempt, seen = self._seen.get(job.id, (0, stored(job)))
            if attempt != job.attempt:
                seen = stored(job)
            if job.status != JobState.RUNNING:
                # The row of an attempt that was lost may have less progress than was seen.
                return stored(job).model_copy(update={"percent": max(job.percent, seen.percent)})
            if event is not None and event.get("kind") == "progress" and event.get("attempt") == job.attempt:
                seen = read(event, at_least=seen.percent)
            self._seen[job.id] = (job.attempt, seen)
            self._seen.move_to_end(job.id)
            if len(self._seen) > _MAX_CACHED:
                self._seen.popitem(last=False)
        return seen


def stored(job: Job) -> JobProgress:
    """Return the progress in the row."""
    return JobProgress(percent=job.percent, phase=job.phase, bytes_done=job.bytes_done, bytes_total=job.bytes_total)


def read(event: dict[str, Any], at_least: float) -> JobProgress:
    """Convert a worker's progress event. The percentage is at least `at_least`."""
    return JobProgress(
        percent=max(float(event.get("percent") or 0.0), at_least),
        phase=event.get("phase"),
        step=event.get("step"),
        steps=event.get("steps"),
        eta_seconds=event.get("eta_seconds"),
        bytes_done=event.get("bytes_done"),
        bytes_total=event.get("bytes_total"),
        bytes_per_second=event.get("bytes_per_second"),
        files=event.get("files") or [],
    )
