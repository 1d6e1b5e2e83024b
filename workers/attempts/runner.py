"""A job's attempt, from bell to end: claim, run, finish. One pipeline for every job.

The attempt's number fences everything. A worker that was given up for dead may go on, but nothing it does counts.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from shared.catalogue.job_types import DOWNLOAD
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import (
    AttemptStopped,
    Cancelled,
    ConfigurationError,
    DatabaseUnavailable,
    Draining,
    Fenced,
    JobFailed,
    OutOfMemory,
    Paused,
    StoreFull,
    StoreUnavailable,
    Unavailable,
)
from shared.jobs import attempts
from shared.jobs.attempt_spans import AttemptSpan, attempt_span
from shared.jobs.attempts import Claimant, Failure
from shared.jobs.download_control import BY_FULL_DISK, BY_OWNER
from shared.messaging import celery
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings
from shared.states import JobState
from shared.telemetry import logs
from shared.telemetry.metrics import CLAIM_SECONDS, FENCED, Meters, count_end
from workers.attempts.heartbeat import Heartbeat

log = logging.getLogger("wanworks.runner")

_RETRY_SECONDS = 1.0
# A job that could not be stored goes back to the queue, but not to the next device at once.
_STORE_AWAY_SECONDS = 30.0
# What may be raised while the end is being written without telling whether it was.
_UNKNOWN_END = (Unavailable, StoreFull, KeyboardInterrupt, SystemExit)


class Work(Protocol):
    """What one type of job does between its claim and its end."""

    at_most: int | None
    """How many of its type may run on a node at once; None where devices set the limit."""

    def run(self, job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
        """The job's result. Raises JobFailed to fail it, and what `pulse.check` raises."""
        ...

    def undo(self, job: Job) -> None:
        """Removes what an attempt that did not succeed has left."""
        ...

    def after(self, job: Job) -> None:
        """What follows the commit of the job's end. Whatever it raises is logged."""
        ...


class Runner:
    """Runs jobs one after the other in this process."""

    def __init__(
        self, settings: Settings, database: Database, claimant: Claimant, works: Mapping[str, Work], meters: Meters
    ) -> None:
        self._settings = settings
        self._database = database
        self._claimant = claimant
        self._works = works
        self._meters = meters
        self._redis = RestingRedis(settings.redis)
        self._progress = Progress(self._redis)

    def run(self, job_type: str, job_id: str) -> bool:
        """Carries the job to its end. False: the bell was stale and nothing was done.

        Raises JobFailed after the row says failed, Cancelled after it says cancelled, and another AttemptStopped where
        the job goes on elsewhere or later.
        """
        work = self._works[job_type]
        job = attempts.claim(self._database, job_id, self._claimant, self._settings.lease_seconds, work.at_most)
        if job is None:
            return False
        if job.dispatched_at is not None and job.claimed_at is not None:
            self._meters.observe(CLAIM_SECONDS, job.type, seconds=max(0.0, job.claimed_at - job.dispatched_at))
        with logs.bound(job_id=job.id, attempt=job.attempt), attempt_span(job) as span:
            self._carry_out(job, work, span)
        return True

    def _carry_out(self, job: Job, work: Work, span: AttemptSpan) -> None:
        celery.wake(self._redis)  # the place ahead of this device is free
        self._tell(job)
        with Heartbeat(self._settings, self._database, self._progress, job, span, self._meters) as heartbeat:
            made = False
            try:
                result = work.run(job, heartbeat)
                span.finishing()
                made = True
                ended = self._persist(lambda: attempts.succeed(self._database, job.id, job.attempt, result))
            except BaseException as error:
                # The row may name this attempt as the winner although nobody has confirmed it: then its files stay,
                # and the sweep removes them where the row does not.
                if not (made and isinstance(error, _UNKNOWN_END)):
                    work.undo(job)
                stopped = self._stopped(job, work, error, heartbeat)
                if stopped is error:
                    raise
                raise stopped from error
        if ended.status == JobState.CANCELLED:  # it was promised while the last of the work was done
            work.undo(job)
            self._after(ended, work, span)
            raise Cancelled()
        self._after(ended, work, span)

    def _stopped(self, job: Job, work: Work, error: BaseException, heartbeat: Heartbeat) -> BaseException:
        """Says in the row how the attempt ended; returns what the task raises."""
        ours = (self._database, job.id, job.attempt)
        fetched, span = heartbeat.fetched, heartbeat.span
        if isinstance(error, Fenced):
            log.warning("job %s: attempt %d was fenced off", job.id, job.attempt)
            self._meters.count(FENCED, self._claimant.node)
            return error
        if isinstance(error, Cancelled):
            self._end(job, work, span, lambda: attempts.cancelled(*ours, heartbeat.percent))
            return error
        if isinstance(error, Paused):
            self._end(job, work, span, lambda: attempts.paused(*ours, BY_OWNER, fetched))
            return error
        if isinstance(error, AttemptStopped | KeyboardInterrupt | SystemExit | Unavailable):
            delay = 0.0
            if isinstance(error, StoreUnavailable):
                log.warning("job %s: attempt %d is given back: %s (%r)", job.id, job.attempt, error, error.__cause__)
                delay = _STORE_AWAY_SECONDS
            self._end(job, work, span, lambda: attempts.give_back(*ours, fetched, delay))
            return error if isinstance(error, AttemptStopped) else Draining(str(error))
        failed = _failure(error)
        if isinstance(error, StoreFull) and job.type == DOWNLOAD:
            self._end(job, work, span, lambda: attempts.paused(*ours, BY_FULL_DISK, fetched, failed))
            return Paused(failed.message)
        log.error("job %s: attempt %d failed: %s", job.id, job.attempt, failed.message, exc_info=error)
        ended = self._end(job, work, span, lambda: attempts.fail(*ours, failed, heartbeat.percent))
        if ended is not None and ended.status == JobState.CANCELLED:
            return Cancelled()
        return error if isinstance(error, JobFailed) else JobFailed(failed.message)

    def _end(self, job: Job, work: Work, span: AttemptSpan, write: Callable[[], Job | None]) -> Job | None:
        """Writes the end; the row after it, or None where the job is not this attempt's any more."""
        try:
            ended: Job | None = self._persist(write)
        except Fenced:
            log.warning("job %s: attempt %d was fenced off at its end", job.id, job.attempt)
            self._meters.count(FENCED, self._claimant.node)
            return None
        if ended is not None:
            self._after(ended, work, span)
        return ended

    def _persist(self, write: Callable[[], Any]) -> Any:
        """Waits for a database that is away: the work is done, and the fence decides whether it still counts."""
        deadline = time.monotonic() + 10 * self._settings.lease_seconds
        while True:
            try:
                return write()
            except (DatabaseUnavailable, StoreFull):
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)

    def _after(self, job: Job, work: Work, span: AttemptSpan) -> None:
        """What follows the commit. Nothing here may fail the job: its end is written.

        The main process allows it `finishing_limit_seconds`.
        """
        span.ended(job)
        self._tell(job)
        if job.finished_at is not None:
            count_end(self._meters, job)
        try:
            work.after(job)
        except (Unavailable, StoreFull) as error:
            log.warning("job %s: after its end: %s", job.id, error)
        except Exception:
            log.exception("job %s: after its end", job.id)
        celery.wake(self._redis)

    def _tell(self, job: Job) -> None:
        event = {"kind": "state", "attempt": job.attempt, "status": job.status}
        self._progress.report(job.id, event, ended=job.finished_at is not None)


def _failure(error: BaseException) -> Failure:
    if isinstance(error, MemoryError):
        error = OutOfMemory()
    if isinstance(error, StoreFull):
        return Failure(error.code, error.message, retryable=True)
    if isinstance(error, JobFailed):
        return Failure(error.code, error.message, error.retryable)
    if isinstance(error, ConfigurationError):  # of this worker's; another may do better
        return Failure(error.code, error.message, retryable=True)
    # The text of an unforeseen error may hold paths; the log has it.
    return Failure("internal_error", f"The attempt stopped with an unforeseen {type(error).__name__}", retryable=True)
