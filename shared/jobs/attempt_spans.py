"""A job's attempts in its trace: the wait before each attempt, the attempt, and its phases.

Only the process that writes an attempt's end to its row reports the attempt's span. So each is reported once, also when
the worker died. The spans of phases find their parent, because its id is derived from the job and the attempt number.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from shared.database.tables import Job
from shared.errors import StoreFull, Unavailable
from shared.states import JobState
from shared.telemetry import tracing
from shared.telemetry.span import Attributes, Span

_FINISHING = "finishing"  # after the last phase, while the end is written


class AttemptSpan:
    """The attempt that this process runs. Safe to call from any thread."""

    def __init__(self, job: Job, began: float | None = None) -> None:
        self._lock = threading.Lock()
        self._phase: Span | None = None
        self._phase_name = ""
        self._span = _begin(job, job.attempt, time.time() if began is None else began)
        self._span.note(_place(job))

    def enter(self, phase: str, step: int | None = None) -> None:
        """Record that the attempt has entered this phase, or finished this step of it."""
        with self._lock:
            if phase != self._phase_name:
                self._leave()
                self._phase, self._phase_name = self._span.child(phase), phase
            if step is not None and self._phase is not None:
                self._phase.event("step", {"wanworks.step": step})

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a named part of the current phase."""
        with self._lock:
            span = (self._phase or self._span).child(name)
        try:
            yield
        except (Unavailable, StoreFull) as error:
            span.failed(error.code, error.message)
            raise
        finally:
            span.end()

    def finishing(self) -> None:
        """Record that the work is done and the end is being written."""
        self.enter(_FINISHING)

    def ended(self, job: Job) -> None:
        """Report the attempt with the outcome in the row. Do not call it for a fenced attempt."""
        failure = job.error or {}
        with self._lock:
            if failure and self._phase is not None:
                self._phase.failed(failure["code"], failure["message"])
            self._leave()
            _end(self._span, job)

    def leave(self) -> None:
        """End the current phase, whatever the outcome."""
        with self._lock:
            self._leave()

    def _leave(self) -> None:
        if self._phase is not None:
            self._phase.end()
        self._phase, self._phase_name = None, ""


@contextmanager
def attempt_span(job: Job) -> Iterator[AttemptSpan]:
    """Report the wait of a claimed attempt, and yield its span."""
    _report_wait(job)
    with _current(AttemptSpan(job)) as span:
        yield span


@contextmanager
def finishing_span(job: Job) -> Iterator[AttemptSpan]:
    """Yield the span of an attempt that another process has begun and this one ends."""
    with _current(AttemptSpan(job, began=min(time.time(), job.claimed_at or time.time()))) as span:
        yield span


@contextmanager
def _current(span: AttemptSpan) -> Iterator[AttemptSpan]:
    with span._span.current():
        try:
            yield span
        finally:
            span.leave()


def report_lost(job: Job, attempt: int, code: str, reason: str) -> None:
    """Report an attempt that died or lost its job. `job`: the row after it was corrected."""
    span = _begin_at_claim(job, attempt)
    if job.error is None:
        span.failed(code, reason)
    _end(span, job)


def report_returned(job: Job, attempt: int) -> None:
    """Report an attempt whose job a stopping worker has returned to the queue."""
    _end(_begin_at_claim(job, attempt), job)


def _report_wait(job: Job) -> None:
    if job.claimed_at is None:
        return
    # The duration is measured by the database's clock; the end, like all later spans, by this node's clock. It is never
    # after the claim, with which the attempt begins where another process reports it.
    now = min(time.time(), job.claimed_at)
    waited = max(0.0, job.claimed_at - max(job.queued_at, job.not_before))
    about: Attributes = {"wanworks.job.id": job.id, "wanworks.attempt": job.attempt, "wanworks.priority": job.priority}
    span = tracing.begin("queue", about, parent=job.traceparent, began=now - waited, keys=(job.id, None))
    if job.dispatched_at is not None:
        span.event("dispatched", {}, at=now - min(waited, max(0.0, job.claimed_at - job.dispatched_at)))
    span.end(now)


def _begin(job: Job, attempt: int, began: float | None) -> Span:
    about: Attributes = {
        "wanworks.job.id": job.id,
        "wanworks.job.type": job.type,
        "wanworks.model.id": job.model_id or "",
        "wanworks.mock": job.mock,
        "wanworks.attempt": attempt,
    }
    keys = (job.id, f"{job.id}/{attempt}")
    return tracing.begin("attempt", about, kind="consumer", parent=job.traceparent, began=began, keys=keys)


def _begin_at_claim(job: Job, attempt: int) -> Span:
    """Begin at the time of the claim. That is by the database's clock, and must not be after the present here."""
    now = time.time()
    return _begin(job, attempt, min(now, job.claimed_at or now))


def _place(job: Job) -> dict[str, str]:
    place = {"wanworks.node": job.node, "wanworks.worker": job.worker, "wanworks.device": job.device}
    return {name: value for name, value in place.items() if value is not None}


def _end(span: Span, job: Job) -> None:
    made = job.result or {} if job.status == JobState.SUCCEEDED else {}
    span.note({f"wanworks.{name}": made[name] for name in ("warm", "profile") if made.get(name) is not None})
    span.note({"wanworks.outcome": str(job.status)})
    if job.error is not None:
        span.failed(job.error["code"], job.error["message"])
    span.end()
