"""Attempts that have left their device: another process of the worker finishes them beside the next job.

The row stays `running` with the phase `finishing`, and its lease is renewed, so at most two rows of one device run, one
of them finishing. Like `attempts.py`, every UPDATE names the attempt's number. The row keeps the id of the process that
has decoded it, which runs the next job meanwhile.
"""

from typing import Any

from sqlalchemy import ColumnElement, and_, update
from sqlmodel import col

from shared import clock
from shared.database.engine import Database, is_repetition, settled
from shared.database.tables import Job, epoch_now
from shared.errors import Fenced
from shared.states import JobState, Phase

ON_DEVICE: ColumnElement[bool] = and_(col(Job.phase).is_distinct_from(Phase.FINISHING), col(Job.held).is_(None))
"""The condition that a running job holds its device or node. One that is still held runs in a web process."""


@settled
def release_device(database: Database, job_id: str, attempt: int, lease_seconds: float) -> None:
    """Record that the attempt has left its device to the next job, and renew its lease. Raises Fenced."""
    leaving = update(Job).where(*_of_attempt(job_id, attempt), col(Job.status) == JobState.RUNNING)
    values: dict[str, Any] = {
        "phase": Phase.FINISHING, "released_at": clock.now(), "lease_until": epoch_now() + lease_seconds
    }  # fmt: skip
    with database.write() as session:
        if session.connection().execute(leaving.values(values)).rowcount:
            return
        # The first call may have been carried out, and the attempt may have ended since.
        job = session.get(Job, job_id) if is_repetition() else None
        if job is None or job.attempt != attempt or job.released_at is None:
            raise Fenced()


@settled
def take_up(database: Database, job_id: str, attempt: int, lease_seconds: float) -> Job | None:
    """Renew the lease of an attempt that is finishing, and return its job; None if it is not, or no longer."""
    query = (
        update(Job)
        .where(*_of_attempt(job_id, attempt), col(Job.status) == JobState.RUNNING, col(Job.phase) == Phase.FINISHING)
        .values(lease_until=epoch_now() + lease_seconds)
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    with database.write() as session:
        return session.scalars(query).one_or_none()


def is_running(database: Database, job_id: str, attempt: int) -> bool:
    """Return whether the job still belongs to this attempt, which has not ended."""
    with database.read() as session:
        job = session.get(Job, job_id)
    return job is not None and job.attempt == attempt and job.status == JobState.RUNNING


def _of_attempt(job_id: str, attempt: int) -> tuple[ColumnElement[bool], ...]:
    return (col(Job.id) == job_id, col(Job.attempt) == attempt)
