"""The heartbeat of a running attempt: a loop that renews the lease and checks for a cancel.

It stops renewing once a phase has exceeded its time limit, so an attempt that hangs loses its job like one that died.
"""

import logging
import time
from types import TracebackType
from typing import Self

from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import AttemptStopped, Cancelled, Fenced, Paused, Preempted, StoreFull, Unavailable
from shared.jobs import attempts
from shared.jobs.attempt_spans import AttemptSpan
from shared.jobs.attempts import Fetched
from shared.jobs.checkpoints import PREEMPT
from shared.jobs.download_control import PAUSE, YIELD
from shared.messaging.progress import Progress
from shared.settings import Settings
from shared.states import Phase
from shared.telemetry.loops import Loop, RepeatedErrors
from shared.telemetry.metrics import Meters

log = logging.getLogger("wanworks.heartbeat")

# How often Redis is read between two reports; one round trip each.
_LISTEN_SECONDS = 0.3
# How often the row is read instead while Redis does not answer.
_LISTEN_IN_SQL_SECONDS = 2.0
_STOPS: dict[str, type[AttemptStopped]] = {PAUSE: Paused, YIELD: Preempted, PREEMPT: Preempted}


class Heartbeat:
    """Runs as long as the attempt: ``with Heartbeat(...) as heartbeat``."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        progress: Progress,
        job: Job,
        span: AttemptSpan,
        meters: Meters,
    ) -> None:
        self._settings = settings
        self._database = database
        self._progress = progress
        self._job_id = job.id
        self._attempt = job.attempt
        self._limits = {
            Phase.LOADING: settings.loading_limit_seconds,
            Phase.ENCODING: settings.encoding_limit_seconds,
        }
        self.span = span
        self.percent = 0.0  # progress of the attempt
        self.fetched = Fetched(job.bytes_done, job.bytes_total, job.percent)  # progress of a download
        self.bandwidth_mbps = job.bandwidth_mbps
        self._work_factor = 1.0
        self._phase = Phase.LOADING
        self._moved_at = time.monotonic()
        self._renewed_at = time.monotonic()
        self._stop: type[AttemptStopped] | None = None
        self._yields_between_steps = False
        self.asked_to_yield = False  # after the present step
        self.is_preempted = False  # so asked because another job waits for the device
        self._asked_sql_at = 0.0
        self._errors = RepeatedErrors()
        self._overdue: tuple[Phase, float] | None = None  # the phase over its limit, and when it last progressed
        self._loop = Loop("attempt", _LISTEN_SECONDS, self._listen, meters=meters, first_after_seconds=_LISTEN_SECONDS)

    def __enter__(self) -> Self:
        self._loop.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.stop(timeout=5)

    @property
    def phase(self) -> Phase:
        return self._phase

    def moved(self, phase: Phase, percent: float, step: int | None = None) -> None:
        """Record progress of the attempt. The phase's time limit counts from here."""
        self._phase = phase
        self.span.enter(phase, step)
        self.percent = percent
        self._moved_at = time.monotonic()

    def expect_work(self, factor: float) -> None:
        """Multiply the time limits of steps, encoding and decoding: a job larger than usual takes longer for each."""
        self._work_factor = max(1.0, factor)

    def yield_between_steps(self) -> None:
        """From now on, leave a request to yield to the caller, who reads `asked_to_yield` after each step.

        Before the first step `check` answers it, because nothing is lost there.
        """
        self._yields_between_steps = True

    def cancel(self) -> None:
        self._stop = self._stop or Cancelled

    def check(self) -> None:
        """Raise Cancelled, Paused, Preempted or Fenced if the attempt must stop. Does no I/O."""
        if self._stop is not None:
            raise self._stop()
        if self.asked_to_yield and self._phase in (Phase.LOADING, Phase.ENCODING):
            raise Preempted()

    def _listen(self) -> None:
        now = time.monotonic()
        heard = self._progress.listen(self._job_id)
        cancel, hint = heard or (False, False)
        if cancel:
            self.cancel()
        due = now - self._renewed_at >= self._settings.heartbeat_seconds
        if due or hint or (heard is None and now - self._asked_sql_at >= _LISTEN_IN_SQL_SECONDS):
            self._asked_sql_at = now
            self._renew(now)

    def _renew(self, now: float) -> None:
        if self._is_overdue(now):
            return
        try:
            renewal = attempts.renew(self._database, self._job_id, self._attempt, self._settings.lease_seconds)
        except (Unavailable, StoreFull) as error:
            if self._errors.is_news(error):
                log.warning("job %s: the lease could not be renewed: %s", self._job_id, error)
            return
        self._renewed_at = now
        if not renewal.ours:
            self._stop = Fenced
            return
        self.bandwidth_mbps = renewal.bandwidth_mbps
        if renewal.cancel:
            self.cancel()
        elif self._yields_between_steps and renewal.requested_action in (YIELD, PREEMPT):
            self.is_preempted = renewal.requested_action == PREEMPT
            self.asked_to_yield = True
        elif renewal.requested_action is not None:
            self._stop = self._stop or _STOPS.get(renewal.requested_action)

    def _is_overdue(self, now: float) -> bool:
        """Return whether the present phase has exceeded its limit. Log it once."""
        limit = self._limits.get(self._phase, self._settings.step_limit_seconds)
        limit *= 1.0 if self._phase is Phase.LOADING else self._work_factor
        if now - self._moved_at <= limit:
            return False
        overdue = (self._phase, self._moved_at)
        if self._overdue != overdue:
            self._overdue = overdue
            log.error(
                "job %s: %s has exceeded its limit of %g s; the lease is no longer renewed",
                self._job_id,
                self._phase,
                limit,
            )
        return True
