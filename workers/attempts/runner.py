"""One attempt at a job, from its dispatch message to its end: claim, run, finish. The same for every job type.

Every write names the attempt's number. A worker that was presumed dead may continue, but its writes change nothing.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from shared.catalogue.job_types import DOWNLOAD
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import (
    AttemptStopped,
    Cancelled,
    ConfigurationError,
    DeviceFailed,
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
from shared.jobs.attempt_spans import AttemptSpan, attempt_span, finishing_span
from shared.jobs.attempts import Claimant, Failure
from shared.jobs.device_faults import Fault
from shared.jobs.download_control import BY_FULL_DISK, BY_OWNER
from shared.messaging import celery
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings
from shared.states import JobState
from shared.telemetry import logs, tracing
from shared.telemetry.metrics import CLAIM_SECONDS, FENCED, Meters, count_end
from workers.attempts.ahead import Ahead
from workers.attempts.heartbeat import Heartbeat
from workers.attempts.persisting import persist

log = logging.getLogger("wanworks.runner")

# A job whose files could not be stored returns to the queue, but must not start elsewhere at once.
_STORE_AWAY_SECONDS = 30.0
# Errors while writing the end after which it is unknown whether the write succeeded.
_UNKNOWN_END = (Unavailable, StoreFull, KeyboardInterrupt, SystemExit)


class Handler(Protocol):
    """Carries out one type of job between its claim and its end."""

    at_most: int | None
    """How many jobs of the type may run on a node at once; None if the devices set the limit."""

    def run(self, job: Job, heartbeat: Heartbeat) -> dict[str, Any] | None:
        """Return the job's result; None if it was handed over to another process.

        Raise JobFailed to fail the job; raises what `heartbeat.check` raises.
        """
        ...

    def undo(self, job: Job) -> None:
        """Remove what an unsuccessful attempt has left."""
        ...

    def after(self, job: Job) -> None:
        """Do what follows the commit of the job's end. Exceptions are logged."""
        ...


class Runner:
    """Runs one job after another in this process."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        claimant: Claimant,
        handlers: Mapping[str, Handler],
        meters: Meters,
        ahead: Ahead | None = None,
        before_claim: Callable[[str], object] = lambda _job_id: None,
    ) -> None:
        """With `ahead`, a job may begin before its message comes. `before_claim` fetches what the job needs."""
        self._settings = settings
        self._database = database
        self._claimant = claimant
        self._handlers = handlers
        self._meters = meters
        self._redis = RestingRedis(settings.redis)
        self._progress = Progress(self._redis)
        self._ahead = ahead
        self._before_claim = before_claim
        if ahead is not None:
            ahead.run = self._claim_and_run

    def run(self, job_type: str, job_id: str) -> bool:
        """Run the job. Return whether it has ended here. It has not if another process finishes it, or if it could not
        be claimed: a stale message, a drained node, a missing model, no free slot.

        Raises JobFailed after the row has failed, Cancelled after it is cancelled, DeviceFailed if this process must
        end, and another AttemptStopped if the job continues elsewhere or later.
        """
        ended = self._ahead.result(job_id) if self._ahead is not None else None
        return bool(self._claim_and_run(job_type, job_id) if ended is None else ended)

    def _claim_and_run(self, job_type: str, job_id: str) -> bool | None:
        """Return None if the job could not be claimed, else what `run` returns."""
        handler = self._handlers[job_type]
        try:
            self._before_claim(job_id)
        except Exception as error:  # the attempt will find the reason again, and fail or return the job
            log.warning("job %s: what it needs could not be fetched before its claim: %s", job_id, error)
        job = attempts.claim(self._database, job_id, self._claimant, self._settings.lease_seconds, handler.at_most)
        if job is None:
            return None
        if job.dispatched_at is not None and job.claimed_at is not None:
            self._meters.observe(CLAIM_SECONDS, job.type, seconds=max(0.0, job.claimed_at - job.dispatched_at))
        try:
            with logs.bound(job_id=job.id, attempt=job.attempt), attempt_span(job) as span:
                celery.wake(self._redis)  # the next job can now be dispatched to this device
                log.info("job %s: attempt %d starts: %s %s", job.id, job.attempt, job.type, job.model_id or "")
                self._report(job)
                try:
                    return self._carry_out(job, handler, span)
                finally:
                    if self._ahead is not None:
                        self._ahead.end_turn(job.id)
        except AttemptStopped:
            tracing.send_now()  # if the worker stops, this process is killed next
            raise

    def finish(self, job: Job, handler: Handler) -> None:
        """Run the rest of an attempt that another process has handed over. Raises what `run` raises."""
        with logs.bound(job_id=job.id, attempt=job.attempt), finishing_span(job) as span:
            self._carry_out(job, handler, span)

    def _carry_out(self, job: Job, handler: Handler, span: AttemptSpan) -> bool:
        """Carry out the attempt. Return whether it has ended; it has not if it was handed over."""
        with Heartbeat(self._settings, self._database, self._progress, job, span, self._meters) as heartbeat:
            made = False
            try:
                result = handler.run(job, heartbeat)
                if result is None:
                    log.info("job %s: attempt %d leaves the device, and is finished beside it", job.id, job.attempt)
                    # The dispatcher is not woken: the next message is there, and would count as lost until its claim.
                    return False
                span.finishing()
                made = True
                ended = persist(self._settings, partial(attempts.succeed, self._database, job.id, job.attempt, result))
            except BaseException as error:
                # The row may already record this attempt's success, although the commit was not confirmed. Then its
                # files stay; the sweep removes them if the row does not name them.
                if not (made and isinstance(error, _UNKNOWN_END)):
                    handler.undo(job)
                stopped = self._stopped(job, handler, error, heartbeat)
                if stopped is error:
                    raise
                raise stopped from error
        if ended.status == JobState.CANCELLED:  # the cancel was accepted while the attempt finished
            handler.undo(job)
            self._after(ended, handler, span)
            raise Cancelled()
        self._after(ended, handler, span)
        return True

    def _stopped(self, job: Job, handler: Handler, error: BaseException, heartbeat: Heartbeat) -> BaseException:
        """Write how the attempt ended to the row. Return what the task raises."""
        ours = (self._database, job.id, job.attempt)
        fetched, span = heartbeat.fetched, heartbeat.span
        if isinstance(error, Fenced):
            log.warning("job %s: attempt %d was superseded", job.id, job.attempt)
            self._meters.count(FENCED, self._claimant.node)
            return error
        if isinstance(error, Cancelled):
            self._end(job, handler, span, lambda: attempts.cancelled(*ours, heartbeat.percent))
            return error
        if isinstance(error, DeviceFailed):
            log.error("job %s: attempt %d: %s", job.id, job.attempt, error, exc_info=error)
            self._crash(job, handler, span, error)
            return error
        if isinstance(error, Paused):
            self._end(job, handler, span, lambda: attempts.paused(*ours, BY_OWNER, fetched))
            return error
        if isinstance(error, AttemptStopped | KeyboardInterrupt | SystemExit | Unavailable):
            delay = 0.0
            if isinstance(error, StoreUnavailable):
                log.warning("job %s: attempt %d returns the job: %s (%r)", job.id, job.attempt, error, error.__cause__)
                delay = _STORE_AWAY_SECONDS
            self._end(job, handler, span, lambda: attempts.give_back(*ours, fetched, delay))
            return error if isinstance(error, AttemptStopped) else Draining(str(error))
        failed = _failure(error)
        if isinstance(error, StoreFull) and job.type == DOWNLOAD:
            self._end(job, handler, span, lambda: attempts.paused(*ours, BY_FULL_DISK, fetched, failed))
            return Paused(failed.message)
        log.error("job %s: attempt %d failed: %s", job.id, job.attempt, failed.message, exc_info=error)
        ended = self._end(job, handler, span, lambda: attempts.fail(*ours, failed, heartbeat.percent))
        if ended is not None and ended.status == JobState.CANCELLED:
            return Cancelled()
        return error if isinstance(error, JobFailed) else JobFailed(failed.message)

    def _end(self, job: Job, handler: Handler, span: AttemptSpan, write: Callable[[], Job | None]) -> Job | None:
        """Write the end. Return the row after it, or None if the job no longer belongs to this attempt."""
        try:
            ended: Job | None = persist(self._settings, write)
        except Fenced:
            log.warning("job %s: attempt %d was superseded at its end", job.id, job.attempt)
            self._meters.count(FENCED, self._claimant.node)
            return None
        if ended is not None:
            self._after(ended, handler, span)
        return ended

    def _crash(self, job: Job, handler: Handler, span: AttemptSpan, error: DeviceFailed) -> None:
        """Count a crash and the device's fault. It is not repeated: the process ends, and that is counted otherwise."""
        fault, backoff = Fault(error.kind, error.detail), self._settings.retry_backoff_seconds
        try:
            ended = attempts.crashed(self._database, job.id, job.attempt, "The device failed", backoff, fault=fault)
        except (Unavailable, StoreFull) as unavailable:
            log.warning("job %s: the fault cannot be stored; the end of the process will be: %s", job.id, unavailable)
            return
        if ended is not None:
            self._after(ended, handler, span)

    def _after(self, job: Job, handler: Handler, span: AttemptSpan) -> None:
        """Do what follows the commit. Nothing here may fail the job: its end is written.

        The main process allows `finishing_limit_seconds` for it.
        """
        span.ended(job)
        log.info("job %s: attempt %d: %s", job.id, job.attempt, _ended(job))
        self._report(job)
        if job.finished_at is not None:
            count_end(self._meters, job)
        try:
            handler.after(job)
        except (Unavailable, StoreFull) as error:
            log.warning("job %s: after its end: %s", job.id, error)
        except Exception:
            log.exception("job %s: after its end", job.id)
        celery.wake(self._redis)

    def _report(self, job: Job) -> None:
        event = {"kind": "state", "attempt": job.attempt, "status": job.status}
        self._progress.report(job.id, event, ended=job.finished_at is not None)


def _ended(job: Job) -> str:
    """Return how an attempt has ended, in the words of a log."""
    state = "returned to the queue" if job.status == JobState.QUEUED else str(job.status)
    if job.finished_at is None or job.started_at is None:
        return state
    return f"{state} after {(job.finished_at - job.started_at).total_seconds():.1f} s"


def _failure(error: BaseException) -> Failure:
    if isinstance(error, MemoryError):
        error = OutOfMemory()
    if isinstance(error, StoreFull):
        return Failure(error.code, error.message, retryable=True)
    if isinstance(error, JobFailed):
        return Failure(error.code, error.message, error.retryable)
    if isinstance(error, ConfigurationError):  # of this worker; another one may be able to run the job
        return Failure(error.code, error.message, retryable=True)
    # The text of an unexpected error may contain paths; it is in the log only.
    return Failure("internal_error", f"The attempt failed with an unexpected {type(error).__name__}", retryable=True)
