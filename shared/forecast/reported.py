"""When running jobs end, by what they have reported of their own steps: better than by how long others have taken."""

from collections.abc import Mapping, Sequence

from shared.catalogue.job_types import GENERATION
from shared.forecast.durations import MeasuredDurations
from shared.jobs.dispatch import Busy, Queue
from shared.messaging.progress import Progress

_KEEP_SECONDS = 1.0


def seconds_left(busy: Sequence[Busy], progress: Progress) -> dict[str, float]:
    """Return how many seconds running generations still take to their ends, by id, as their attempts have reported it.

    Those that have not said it, and all while Redis is unavailable, are left out.
    """
    attempts = {job.job_id: job.attempt for job in busy if job.type == GENERATION and not job.mock}
    found = {}
    for job_id, (age, event) in ((progress.reports(list(attempts)) if attempts else None) or {}).items():
        left = event.get("eta_seconds")
        if event.get("kind") == "progress" and event.get("attempt") == attempts[job_id] and left is not None:
            found[job_id] = max(0.0, float(left) - age)
    return found


class ReportedEnds:
    """When running jobs leave their devices. Reads the reports at most once a second."""

    def __init__(self, progress: Progress, durations: MeasuredDurations) -> None:
        self._progress = progress
        self._durations = durations
        self._read_at = float("-inf")
        self._ends: Mapping[str, float] = {}

    def of(self, queue: Queue) -> Mapping[str, float]:
        """Return the times by the database's clock, in seconds, by job id."""
        if abs(queue.now - self._read_at) >= _KEEP_SECONDS:
            left = seconds_left(queue.busy, self._progress)
            self._ends = {
                job.job_id: queue.now + left[job.job_id] - self._beside(job) for job in queue.busy if job.job_id in left
            }
            self._read_at = queue.now
        return self._ends

    def _beside(self, job: Busy) -> float:
        """Return how long the job takes after it has left its device."""
        measured = self._durations.of(job)
        seconds = measured.seconds(job.work, job.volume)
        held = measured.device_seconds(job.work, job.volume)
        return 0.0 if seconds is None or held is None else seconds - held
