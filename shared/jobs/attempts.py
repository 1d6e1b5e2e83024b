"""An attempt at a job, from claim to end: the worker's side of the `jobs` table.

Every UPDATE here names the attempt's number, so a worker whose job was given to another attempt changes nothing. The
number also shows whether an unanswered commit succeeded: if the row has this attempt and the requested end, it did.
Leases are compared with the database's clock only.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Float, bindparam, update
from sqlmodel import Session, col, select

from shared import clock
from shared.database.engine import Database, is_repetition, settled
from shared.database.tables import Job, epoch_now
from shared.errors import DeviceFailed, Fenced
from shared.jobs import device_faults
from shared.jobs.checkpoints import PREEMPT
from shared.jobs.claims.rules import may_run
from shared.jobs.device_faults import Fault
from shared.jobs.download_control import BY_OWNER, PAUSE
from shared.jobs.ending.ends import mark_partials, note_end
from shared.jobs.lines.holding import in_time
from shared.states import JobState, Phase

_HISTORY = 20  # ended attempts in a row
_LAPSED = col(Job.lease_until) < epoch_now()


@dataclass(frozen=True)
class Claimant:
    """The claiming worker: one that is pinned to a device, or a node's io worker."""

    node: str
    worker: str
    device: str | None  # UUID, or cpu-0; None for a node
    device_key: str  # node/index; a node's own key for its io worker
    pid: int = 0  # of the process that will run the job


@dataclass(frozen=True)
class Renewal:
    """What a running attempt reads when it renews its lease."""

    ours: bool  # False: another attempt owns the job, or it has ended
    cancel: bool
    requested_action: str | None = None  # pause or yield
    bandwidth_mbps: float | None = None


@dataclass(frozen=True)
class Failure:
    """Why a job failed, as shown to its owner."""

    code: str
    message: str
    retryable: bool

    def as_dict(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "retryable": self.retryable}


# Built once, because a device waits for its claim.
_CLAIM = (
    update(Job)
    .where(
        col(Job.id) == bindparam("its_job_id"),
        col(Job.status) == JobState.QUEUED,
        col(Job.dispatched_to) == bindparam("its_device_key"),
        col(Job.not_before) <= epoch_now(),
        col(Job.held).is_(None),
        in_time(),
    )
    .values(
        status=JobState.RUNNING,
        attempt=Job.attempt + 1,
        lease_until=epoch_now() + bindparam("its_lease_seconds", type_=Float),
        claimed_at=epoch_now(),
        started_at=bindparam("its_now"),
        released_at=None,
        resumed_from_step=None,
        node=bindparam("its_node"),
        worker=bindparam("its_worker"),
        pid=bindparam("its_pid"),
        device=bindparam("its_device"),
        device_key=bindparam("its_device_key"),
        phase=bindparam("its_first_phase"),
        percent=0.0,
        error=None,
        paused_by=None,
        unplaceable_since=None,
    )
    .returning(Job)
    .execution_options(synchronize_session=False, populate_existing=True)
)


@settled
def claim(
    database: Database, job_id: str, claimant: Claimant, lease_seconds: float, at_most: int | None = None
) -> Job | None:
    """Claim the job if it is queued and dispatched to this device or node, and raise its attempt number by one.

    Return None otherwise. Also return None if the node is drained, the device is quarantined, the node lacks the model,
    or already runs `at_most` jobs of this type. No drain, quarantine or removal can happen during a claim.
    """
    with database.write() as session:
        if is_repetition() and (mine := _claimed_before(session, job_id, claimant)) is not None:
            return mine
        device_key = claimant.device_key if claimant.device is not None else None
        if not may_run(session, job_id, claimant.node, device_key, at_most):
            return None
        claim_of = {**asdict(claimant), "job_id": job_id, "lease_seconds": lease_seconds, "now": clock.now()}
        claim_of["first_phase"] = Phase.LOADING if claimant.device is not None else None
        return session.scalars(_CLAIM, {f"its_{name}": value for name, value in claim_of.items()}).one_or_none()


@settled
def renew(database: Database, job_id: str, attempt: int, lease_seconds: float) -> Renewal:
    """Renew the lease, and read pending requests (cancel, pause, bandwidth) in the same statement."""
    query = (
        update(Job)
        .where(*_held(job_id, attempt))
        .values(lease_until=epoch_now() + lease_seconds)
        .returning(col(Job.cancel_at), col(Job.requested_action), col(Job.bandwidth_mbps))
    )
    with database.write() as session:
        row = session.connection().execute(query).one_or_none()
    if row is None:
        return Renewal(ours=False, cancel=False)
    return Renewal(ours=True, cancel=row[0] is not None, requested_action=row[1], bandwidth_mbps=row[2])


def succeed(database: Database, job_id: str, attempt: int, result: dict[str, Any]) -> Job:
    """End the job as succeeded, or as cancelled if that was requested meanwhile.

    Raises Fenced if the job no longer belongs to this attempt.
    """
    return _end(database, job_id, attempt, JobState.SUCCEEDED, result=result, percent=100.0)


def fail(database: Database, job_id: str, attempt: int, failure: Failure, percent: float = 0.0) -> Job:
    """End the job as failed at `percent`, or as cancelled if that was requested meanwhile. Raises Fenced."""
    return _end(database, job_id, attempt, JobState.FAILED, error=failure.as_dict(), percent=percent)


def cancelled(database: Database, job_id: str, attempt: int, percent: float = 0.0) -> Job:
    """End the job as cancelled at `percent`. Raises Fenced."""
    return _end(database, job_id, attempt, JobState.CANCELLED, percent=percent)


@dataclass(frozen=True)
class Fetched:
    """The progress of a download."""

    bytes_done: int | None = None
    bytes_total: int | None = None
    percent: float = 0.0


@settled
def give_back(
    database: Database, job_id: str, attempt: int, fetched: Fetched | None = None, delay_seconds: float = 0.0
) -> Job | None:
    """Return the job to the queue without counting a failure (after a stop, a drain or a yielded slot).

    It does not start again before `delay_seconds`. A cancel or pause that was requested meanwhile takes effect. Return
    None if the job no longer belongs to this attempt.
    """
    with database.write() as session:
        job = _locked(session, job_id, attempt)
        if job is None:
            return _settled(session, job_id, attempt)
        if job.cancel_at is not None:
            return _close(session, job, JobState.CANCELLED)
        _note(job, fetched)
        preempted = job.requested_action == PREEMPT
        job.preempted += preempted
        _note_attempt(job, "preempted" if preempted else "returned")
        return _put_back(session, job, failures=job.failures, delay=delay_seconds)


@settled
def paused(
    database: Database, job_id: str, attempt: int, by: str, fetched: Fetched, failure: Failure | None = None
) -> Job | None:
    """Pause the job until it is resumed: by its `owner`, or once the disk has room (`disk_full`, with the reason).

    If the owner has withdrawn the pause meanwhile, the job returns to the queue instead. Return None if the job no
    longer belongs to this attempt.
    """
    with database.write() as session:
        job = _locked(session, job_id, attempt)
        if job is None:
            return _settled(session, job_id, attempt)
        if job.cancel_at is not None:
            return _close(session, job, JobState.CANCELLED)
        _note(job, fetched)
        _note_attempt(job, "paused", failure.message if failure is not None else None)
        if by == BY_OWNER or job.requested_action == PAUSE:
            return _put_back(session, job, failures=job.failures, delay=0.0)
        return _pause(session, job, by, failure)


@settled
def crashed(
    database: Database,
    job_id: str,
    attempt: int,
    reason: str,
    backoff_seconds: float,
    *,
    lapsed: bool = False,
    fault: Fault | None = None,
) -> Job | None:
    """Count a crash or an expired lease: return the job to the queue after a delay, or fail it at `max_failures`.

    `backoff_seconds` is the delay after the first one, unless the job has its own; it doubles with each. A cancel or
    pause that was requested meanwhile takes effect. `fault` is recorded against the device, unless the attempt had left
    it to the next job, and a job that has taken down two devices fails.
    Return None if the attempt has ended already or, with `lapsed`, has renewed its lease.
    """
    with database.write() as session:
        job = _locked(session, job_id, attempt, *((_LAPSED,) if lapsed else ()))
        if job is None:
            return _settled(session, job_id, attempt)
        failures = job.failures + 1
        fault = None if job.phase == Phase.FINISHING else fault
        taken_down = device_faults.record(session, job, fault, cancelled=job.cancel_at is not None)
        if job.cancel_at is not None:
            return _close(session, job, JobState.CANCELLED, failures=failures)
        if len(taken_down) >= device_faults.DEVICES_PER_JOB:
            message = f"The job took down {len(taken_down)} devices ({', '.join(taken_down)}), so it has failed"
            failure = Failure(DeviceFailed.code, message, retryable=False)
            return _close(session, job, JobState.FAILED, failures=failures, error=failure.as_dict())
        if failures >= job.max_failures:
            message = f"{reason} {failures} times, so the job has failed"
            failure = Failure("worker_lost", message, retryable=True)
            job.failures = failures
            return _close(session, job, JobState.FAILED, error=failure.as_dict())
        first = backoff_seconds if job.retry_backoff_seconds is None else job.retry_backoff_seconds
        _note_attempt(job, "lost", reason)
        return _put_back(session, job, failures=failures, delay=first * 2 ** (failures - 1))


def _note_attempt(job: Job, outcome: str, reason: str | None = None) -> None:
    """Add the attempt that ends now to the row, whose lock the caller holds; the newest ones stay."""
    entry = {
        "attempt": job.attempt,
        "started_at": clock.iso(job.started_at),
        "ended_at": clock.iso(clock.now()),
        "node": job.node,
        "device": job.device,
        "outcome": outcome,
        "reason": reason,
        "resumed_from_step": job.resumed_from_step,
        "checkpoint_step": job.checkpoint_step,
    }
    history = job.attempt_history or []
    # The first one stays, because the whole time counts from it.
    job.attempt_history = [*history[:1], *history[1:][-(_HISTORY - 2) :], entry]


def _note(job: Job, fetched: Fetched | None) -> None:
    if fetched is not None:
        job.bytes_done, job.bytes_total, job.percent = fetched.bytes_done, fetched.bytes_total, fetched.percent


def _held(job_id: str, attempt: int) -> tuple[ColumnElement[bool], ...]:
    return (col(Job.id) == job_id, col(Job.attempt) == attempt, col(Job.status) == JobState.RUNNING)


def _locked(session: Session, job_id: str, attempt: int, *besides: ColumnElement[bool]) -> Job | None:
    return session.exec(select(Job).where(*_held(job_id, attempt), *besides).with_for_update()).one_or_none()


def _claimed_before(session: Session, job_id: str, claimant: Claimant) -> Job | None:
    """Return the job if an earlier call claimed it. A process runs one job at a time, so its pid suffices."""
    job = session.get(Job, job_id)
    mine = job is not None and job.status == JobState.RUNNING
    return job if job and mine and (job.worker, job.pid) == (claimant.worker, claimant.pid) else None


def _settled(session: Session, job_id: str, attempt: int) -> Job | None:
    """Return the job if an earlier call with an unanswered commit ended this attempt, and no other attempt began."""
    job = session.get(Job, job_id) if is_repetition() else None
    return job if job is not None and job.attempt == attempt and job.status != JobState.RUNNING else None


@settled
def _end(database: Database, job_id: str, attempt: int, state: JobState, **values: Any) -> Job:
    with database.write() as session:
        job = _locked(session, job_id, attempt)
        if job is not None:
            if job.cancel_at is not None:
                return _close(session, job, JobState.CANCELLED, percent=values["percent"])
            if state == JobState.SUCCEEDED:
                device_faults.clear_after_success(session, job)
            return _close(session, job, state, **values)
        job = session.get(Job, job_id)
        # If `worker` is None, the job was returned to the queue and ended there, not in this attempt.
        if job is None or job.attempt != attempt or job.worker is None or not _is_as_requested(job, state, values):
            raise Fenced()
        return job


def _is_as_requested(job: Job, state: JobState, values: dict[str, Any]) -> bool:
    """Return whether the row has exactly the requested end, which shows that this attempt wrote it."""
    if job.status == JobState.CANCELLED:
        return state == JobState.CANCELLED or job.cancel_at is not None
    wanted = json.loads(json.dumps(values))
    stored = all(getattr(job, name) == value for name, value in wanted.items() if name in ("result", "error"))
    return job.status == state and stored


def _close(session: Session, job: Job, state: JobState, **values: Any) -> Job:
    """End the job: set its state and result, store its usage record, and add its webhook message."""
    for name, value in values.items():
        setattr(job, name, value)
    job.status = state
    job.finished_at = clock.now()
    if job.attempt_history:  # of a job with one attempt, the row itself says everything
        error = job.error if state == JobState.FAILED else None
        _note_attempt(job, state.value, error["message"] if error else None)
    job.lease_until = job.dispatched_to = job.dispatched_at = job.phase = job.requested_action = None
    job.checkpoint_node = job.checkpoint_step = job.checkpoint_at = None
    mark_partials(job)
    session.add(job)
    note_end(session, job)
    return job


def _put_back(session: Session, job: Job, failures: int, delay: float) -> Job:
    """Return the job to the queue, or pause it if its owner has requested that: a crash must not lose the request."""
    if job.requested_action == PAUSE:
        job.failures = failures
        return _pause(session, job, BY_OWNER, None)
    return _queue_again(session, job, failures, delay)


def _pause(session: Session, job: Job, by: str, failure: Failure | None) -> Job:
    _queue_again(session, job, failures=job.failures, delay=0.0)
    job.status = JobState.PAUSED
    job.paused_by = by
    job.error = failure.as_dict() if failure is not None else None
    session.add(job)
    return job


def _queue_again(session: Session, job: Job, failures: int, delay: float) -> Job:
    job.status = JobState.QUEUED
    job.failures = failures
    job.not_before = epoch_now() + delay  # type: ignore[assignment]
    job.released_at = None
    job.started_at = job.lease_until = job.dispatched_to = job.dispatched_at = job.phase = job.requested_action = None
    job.node = job.worker = job.pid = job.device = job.device_key = None
    session.add(job)
    session.flush()
    session.refresh(job)
    return job
