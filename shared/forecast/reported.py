"""When running jobs end, by what they have reported of their own steps: better than by how long others have taken."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence

from shared.catalogue.job_types import GENERATION
from shared.errors import DatabaseUnavailable
from shared.forecast.durations import MeasuredDurations
from shared.jobs.dispatch import Busy, Queue
from shared.messaging.progress import Progress

log = logging.getLogger("wanworks.reported")

_KEEP_SECONDS = 1.0
_KEEP_TIMES_COST = 50  # reading uses at most a fiftieth of one core


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
    """When running jobs leave their devices. Reads the reports in a thread of its own, so that no pass waits for Redis.

    An end is a point in time, so one that was read some seconds ago is hardly less true.
    """

    def __init__(self, progress: Progress, durations: MeasuredDurations) -> None:
        self._progress = progress
        self._durations = durations
        self._reading = threading.Lock()
        self._due_at = float("-inf")  # by `time.monotonic`
        self._ends: Mapping[tuple[str, int], float] = {}  # by job id and attempt

    def of(self, queue: Queue) -> dict[str, float]:
        """Return the known ends of the running jobs, by id, in seconds of the database's clock."""
        known = self._ends
        if queue.busy and time.monotonic() >= self._due_at and not self._reading.locked():
            threading.Thread(target=self._read_quietly, args=(queue,), name="reported-ends", daemon=True).start()
        ends = ((job.job_id, known.get((job.job_id, job.attempt))) for job in queue.busy)
        return {job_id: end for job_id, end in ends if end is not None}

    def read(self, queue: Queue) -> None:
        """Read the reports of the running jobs, as `queue` has just been read. Raises DatabaseUnavailable."""
        with self._reading:
            began = time.monotonic()
            left = seconds_left(queue.busy, self._progress)
            self._ends = {
                (job.job_id, job.attempt): queue.now + left[job.job_id] - self._beside(job)
                for job in queue.busy
                if job.job_id in left
            }
            now = time.monotonic()
            self._due_at = now + max(_KEEP_SECONDS, _KEEP_TIMES_COST * (now - began))

    def _read_quietly(self, queue: Queue) -> None:
        try:
            self.read(queue)
        except DatabaseUnavailable as error:
            log.debug("the reports of running jobs are not read: %s", error)
        except Exception:  # the next pass tries again
            log.exception("the reports of running jobs are not read")

    def _beside(self, job: Busy) -> float:
        """Return how long the job takes after it has left its device."""
        measured = self._durations.of(job)
        seconds = measured.seconds(job.work, job.volume)
        held = measured.device_seconds(job.work, job.volume)
        return 0.0 if seconds is None or held is None else seconds - held
