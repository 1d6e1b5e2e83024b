"""Reports on single jobs: publishes their states, and contains the errors that one job's row causes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from shared.database.tables import Job
from shared.errors import DatabaseUnavailable, StoreFull
from shared.messaging.progress import Progress
from shared.telemetry.loop_reports import DISPATCHER
from shared.telemetry.loops import RepeatedErrors
from shared.telemetry.metrics import LOOP_ERRORS, Meters, count_end

log = logging.getLogger("wanworks.dispatcher")


class JobReports:
    """Publishes changed states of jobs, and logs and counts errors by job."""

    def __init__(self, progress: Progress, meters: Meters) -> None:
        self._progress = progress
        self._meters = meters
        self._errors = RepeatedErrors()

    def publish_state(self, job: Job) -> None:
        """Publish the job's state to its watchers, and count its end."""
        ended = job.finished_at is not None
        self._progress.report(job.id, {"kind": "state", "attempt": job.attempt, "status": job.status}, ended=ended)
        if ended:
            count_end(self._meters, job)

    @contextmanager
    def contained(self, job_id: str) -> Iterator[None]:
        """Log and count what one job's row raises, so that it stops neither the other jobs nor the pass.

        Raises DatabaseUnavailable and StoreFull, which concern all jobs.
        """
        try:
            yield
        except (DatabaseUnavailable, StoreFull):
            raise
        except Exception as error:
            self._meters.count(LOOP_ERRORS, DISPATCHER)
            if self._errors.is_news(error):
                log.exception("job %s is left out of this pass", job_id)
