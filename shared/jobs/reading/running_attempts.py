"""Read attempts that run: those of a worker, those whose lease has expired."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import func
from sqlmodel import col, select

from shared.database.engine import Database
from shared.database.tables import Job, epoch_now
from shared.states import JobState, Phase

_FINISHING = col(Job.phase).is_not_distinct_from(Phase.FINISHING)
_LAPSED = col(Job.lease_until) < epoch_now()


def lapsed(database: Database) -> list[tuple[str, int]]:
    """Return (id, attempt) of the running jobs whose lease has expired by the database's clock."""
    query = select(Job.id, Job.attempt).where(col(Job.status) == JobState.RUNNING, _LAPSED)
    with database.read() as session:
        return [(job_id, attempt) for job_id, attempt in session.exec(query)]


@dataclass(frozen=True)
class Held:
    """The row of a job that a worker's child runs, as its main process reads it."""

    status: str
    attempt: int
    failures: int
    worker: str | None
    pid: int | None
    lapsed: bool
    cancel_seconds: float | None  # seconds since a cancel was requested
    finishing: bool = False  # it has left the device to the next job


def held(database: Database, job_ids: Collection[str]) -> dict[str, Held]:
    """Return the rows of these jobs by id, for jobs that exist."""
    if not job_ids:
        return {}
    lapsed = func.coalesce(col(Job.lease_until) < epoch_now(), False)
    cancelled_for = epoch_now() - col(Job.cancel_at)
    columns = (
        Job.id, Job.status, Job.attempt, Job.failures, Job.worker, Job.pid, lapsed, cancelled_for, _FINISHING
    )  # fmt: skip
    query = select(*columns).where(col(Job.id).in_(job_ids))  # type: ignore[call-overload]
    with database.read() as session:
        return {row[0]: Held(*row[1:]) for row in session.exec(query)}


@dataclass(frozen=True)
class Running:
    """A running attempt, as other processes of its node read it."""

    job_id: str
    attempt: int
    lapsed: bool
    cancel_seconds: float | None  # seconds since a cancel was requested
    pid: int | None
    model_id: str | None
    mock: bool
    finishing: bool  # it has left the device to the next job
    lease_seconds: float  # until its lease expires
    leased_seconds: float  # from its claim until its lease expires


def running_on(database: Database, worker: str) -> list[Running]:
    """Return the attempts that run on this worker, by the rows."""
    lapsed, cancelled_for = col(Job.lease_until) < epoch_now(), epoch_now() - col(Job.cancel_at)
    left, leased = col(Job.lease_until) - epoch_now(), col(Job.lease_until) - col(Job.claimed_at)
    columns = (Job.id, Job.attempt, lapsed, cancelled_for, Job.pid, Job.model_id, Job.mock, _FINISHING, left, leased)
    query = select(*columns).where(  # type: ignore[call-overload]
        col(Job.worker) == worker, col(Job.status) == JobState.RUNNING
    )
    with database.read() as session:
        return [Running(*row) for row in session.exec(query)]
