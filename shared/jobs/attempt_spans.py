"""A job's attempts as its trace shows them: the wait before each, the attempt, and its phases.

Who writes an attempt's end into its row tells of the attempt, and nobody else. So an attempt that died is told of once
as well, by who noticed; its phases find it, since an attempt's span has the id that follows from its job and number.
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

_FINISHING = "finishing"  # after the last phase: the end is being written


class AttemptSpan:
    """The attempt that this process runs. Safe to call from any thread."""

    def __init__(self, job: Job) -> None:
        self._lock = threading.Lock()
        self._phase: Span | None = None
        self._phase_name = ""
        self._span = _begin(job, job.attempt, time.time())
        self._span.note(_place(job))

    def enter(self, phase: str, step: int | None = None) -> None:
        """The attempt is in that phase now, and has done that many of its steps."""
        with self._lock:
            if phase != self._phase_name:
                self._leave()
                self._phase, self._phase_name = self._span.child(phase), phase
            if step is not None and self._phase is not None:
                self._phase.event("step", {"wanworks.step": step})

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Something worth its own name within the phase that the attempt is in."""
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
        """What the job is for is done; its end is being written."""
        self.enter(_FINISHING)

    def ended(self, job: Job) -> None:
        """The row says how: ended, or back in the queue. An attempt that was fenced off is not told of here."""
        failure = job.error or {}
        with self._lock:
            if failure and self._phase is not None:
                self._phase.failed(failure["code"], failure["message"])
            self._leave()
            _end(self._span, job)

    def leave(self) -> None:
        """Whatever became of it, its last phase is over."""
        with self._lock:
            self._leave()

    def _leave(self) -> None:
        if self._phase is not None:
            self._phase.end()
        self._phase, self._phase_name = None, ""


@contextmanager
def attempt_span(job: Job) -> Iterator[AttemptSpan]:
    """Of the attempt that has just been claimed. The wait that is over is told of at once."""
    _tell_wait(job)
    span = AttemptSpan(job)
    with span._span.current():
        try:
            yield span
        finally:
            span.leave()


def tell_lost(job: Job, attempt: int, code: str, reason: str) -> None:
    """Of an attempt that died or was taken away, told by who put its row right: the row as it is now."""
    span = _begin_at_claim(job, attempt)
    if job.error is None:
        span.failed(code, reason)
    _end(span, job)


def tell_given_back(job: Job, attempt: int) -> None:
    """Of an attempt whose job was put back by the worker that stops."""
    _end(_begin_at_claim(job, attempt), job)


def _tell_wait(job: Job) -> None:
    if job.claimed_at is None:
        return
    # How long is measured by the database's clock; when it ended, by this node's, like all that follows.
    now = time.time()
    waited = max(0.0, job.claimed_at - max(job.queued_at, job.not_before))
    about: Attributes = {"wanworks.job.id": job.id, "wanworks.attempt": job.attempt, "wanworks.priority": job.priority}
    span = tracing.begin("queue", about, parent=job.traceparent, began=now - waited, keys=(job.id, None))
    if job.dispatched_at is not None:
        span.event("bell", {}, at=now - min(waited, max(0.0, job.claimed_at - job.dispatched_at)))
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
    """The claim's time is of the database's clock, and must not be after the end, which is of ours."""
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
