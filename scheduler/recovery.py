"""Returns jobs of dead workers to the queue, resumes downloads that a full disk has stopped, and follows the clock:
start times, windows, latest starts, and pauses that end by themselves."""

import logging

from scheduler.job_reports import JobReports
from shared.cluster import nodes
from shared.database.engine import Database
from shared.errors import FaultKind
from shared.forecast.hosts import read_hosts
from shared.jobs import attempt_spans, attempts, dispatch, download_control
from shared.jobs.attempts import Failure
from shared.jobs.claims import pauses
from shared.jobs.device_faults import Fault
from shared.jobs.lines import holding, windows
from shared.jobs.reading import running_attempts
from shared.settings import Settings
from shared.telemetry.metrics import TAKEOVERS, Meters

log = logging.getLogger("wanworks.dispatcher")


class Recovery:
    """Recovers jobs that cannot continue without help."""

    def __init__(self, settings: Settings, database: Database, reports: JobReports, meters: Meters) -> None:
        self._settings = settings
        self._database = database
        self._reports = reports
        self._meters = meters
        self._window_stored = False

    def run(self) -> None:
        """Return jobs whose lease has expired, and resume downloads that have room again.

        Raises DatabaseUnavailable and StoreFull.
        """
        for job_id, attempt in running_attempts.lapsed(self._database):
            with self._reports.contained(job_id):
                self._return(job_id, attempt)
        self._resume_downloads()
        self._follow_the_clock()

    def _follow_the_clock(self) -> None:
        """Start and end what has a time: held jobs, latest starts, and pauses."""
        if not self._window_stored:  # a setting of the dispatcher that leads
            windows.set_installation(self._database, self._settings.low_priority_window)
            self._window_stored = True
        holding.release_due(self._database)
        holding.follow_windows(self._database, windows.read(self._database))
        for job_id in holding.expired(self._database):
            with self._reports.contained(job_id):
                message = "No device had started the job by its `start_before`. Submit it again with a later one."
                failure = Failure("expired", message, retryable=True)
                if (ended := dispatch.give_up(self._database, job_id, failure)) is not None:
                    log.info("job %s: it had not started by its latest start, and has failed", job_id)
                    self._reports.publish_state(ended)
        for over in pauses.run_out(self._database):
            scope = pauses.scope_of(over)
            log.info("the pause of %s %s is over", scope.kind, scope.value)
            if scope.kind == "node" and scope.value in nodes.drained(self._database):
                nodes.undrain(self._database, scope.value)
            else:
                pauses.resume(self._database, scope)

    def _return(self, job_id: str, attempt: int) -> None:
        backoff, reason = self._settings.retry_backoff_seconds, "The worker died or went silent"
        fault = Fault(FaultKind.PROCESS_DEATH, reason)
        job = attempts.crashed(self._database, job_id, attempt, reason, backoff, lapsed=True, fault=fault)
        if job is not None:
            log.warning("job %s: the lease of attempt %d expired; the job is now %s", job_id, attempt, job.status)
            self._meters.count(TAKEOVERS)
            attempt_spans.report_lost(job, attempt, "worker_lost", "Its lease expired")
            self._reports.publish_state(job)

    def _resume_downloads(self) -> None:
        """Resume downloads stopped by a full disk whose node reports enough free space for the rest."""
        stopped = download_control.stopped_by_full_disk(self._database)
        silence = self._settings.device_silence_seconds
        alive = read_hosts(self._database, {}, silence).nodes if stopped else {}
        for job in stopped:
            node = alive.get(job.target_node or "")
            left_mb = ((job.bytes_total or 0) - (job.bytes_done or 0)) / 1e6
            has_room = node is not None and (node.disk_free_mb or 0.0) > left_mb + self._settings.min_free_disk_mb
            if has_room and download_control.resume_with_room(self._database, job.id):
                log.info("job %s: resumed, its node has enough free space again", job.id)
