"""Control of downloads by their owners: pause, resume, priority and bandwidth.

It writes to the `jobs` table, and locks a row before it decides by its state.
"""

from collections.abc import Sequence

from sqlalchemy import func, update
from sqlmodel import Session, col, select

from shared.catalogue.job_types import DOWNLOAD
from shared.database.engine import Database, is_repetition, settled
from shared.database.tables import Job, epoch_now
from shared.errors import Conflict
from shared.jobs.ordering import give_priority
from shared.states import JOB_ENDS, JobState, Phase, Priority

PAUSE = "pause"
YIELD = "yield"
BY_OWNER = "owner"
BY_FULL_DISK = "disk_full"

# The condition on the node is always true for downloads. It lets the database use the index of node jobs.
_SHOWN = (col(Job.type) == DOWNLOAD, col(Job.target_node).is_not(None), col(Job.deleted).is_(False))


def active(database: Database, model_id: str | None = None, node: str | None = None) -> list[Job]:
    """Return the downloads that have not ended, oldest first."""
    query = select(Job).where(*_SHOWN, col(Job.status).not_in(JOB_ENDS))
    if model_id is not None:
        query = query.where(Job.model_id == model_id)
    if node is not None:
        query = query.where(Job.target_node == node)
    with database.read() as session:
        return list(session.exec(query.order_by(col(Job.id))))


def latest(database: Database, model_id: str | None = None) -> dict[tuple[str, str], Job]:
    """Return the newest download of each (node, model), ended or not."""
    newest = select(func.max(Job.id)).where(*_SHOWN).group_by(col(Job.target_node), col(Job.model_id))
    if model_id is not None:
        newest = newest.where(Job.model_id == model_id)
    with database.read() as session:
        found = session.exec(select(Job).where(col(Job.id).in_(newest)))
        return {(job.target_node or "", job.model_id or ""): job for job in found}


@settled
def pause(database: Database, job_id: str) -> Job:
    """Pause a waiting download, or request that a running one stops. Idempotent. Raises Conflict if it has ended."""
    with database.write() as session:
        job = _locked(session, job_id, "paused")
        if job.status == JobState.RUNNING:
            job.requested_action = PAUSE
        else:
            job.status = JobState.PAUSED
            job.paused_by = BY_OWNER
            job.dispatched_to = job.dispatched_at = job.unplaceable_since = None
        session.add(job)
        return job


@settled
def resume(database: Database, job_id: str) -> Job:
    """Return a paused download to the queue, or withdraw a pause that has not taken effect yet.

    Raises Conflict if the download is neither.
    """
    with database.write() as session:
        job = _locked(session, job_id, "resumed")
        if job.status == JobState.PAUSED:
            job.status = JobState.QUEUED
            job.paused_by = job.requested_action = job.error = None
            job.not_before = 0.0
            job.queued_at = epoch_now()  # type: ignore[assignment]
        elif job.status == JobState.RUNNING and job.requested_action == PAUSE:
            job.requested_action = None
        elif not is_repetition():
            raise Conflict("The download is not paused")
        session.add(job)
        session.flush()
        session.refresh(job)
        return job


@settled
def resume_with_room(database: Database, job_id: str) -> bool:
    """Return a download that a full disk stopped to the queue, unless its owner has paused it since.

    Return whether this call did it.
    """
    with database.write() as session:
        query = update(Job).where(
            col(Job.id) == job_id, col(Job.status) == JobState.PAUSED, col(Job.paused_by) == BY_FULL_DISK
        )
        back = query.values(
            status=JobState.QUEUED,
            paused_by=None,
            requested_action=None,
            error=None,
            not_before=0.0,
            queued_at=epoch_now(),
        )
        return bool(session.connection().execute(back).rowcount)


@settled
def set_priority(database: Database, job_id: str, priority: Priority) -> Job:
    """Set the priority. Raises Conflict if the download has ended."""
    with database.write() as session:
        return give_priority(session, _locked(session, job_id, "given a priority"), priority)


@settled
def set_bandwidth(database: Database, job_id: str, mbps: float | None) -> Job:
    """Set the limit in Mbps (10^6 bits/s); None removes it. Raises Conflict if the download has ended."""
    with database.write() as session:
        _change(session, job_id, _UNENDED, bandwidth_mbps=mbps)
        return _unended(session, job_id, "limited")


@settled
def ask_to_yield(database: Database, job_ids: Sequence[str]) -> None:
    """Request that running downloads yield their slots. They wait again and keep their bytes."""
    with database.write() as session:
        for job_id in job_ids:
            query = update(Job).where(
                col(Job.id) == job_id, col(Job.status) == JobState.RUNNING, col(Job.requested_action).is_(None)
            )
            session.connection().execute(query.values(requested_action=YIELD))


@settled
def keep_commit(database: Database, job_id: str, attempt: int, sha: str) -> None:
    """Store the commit that the hub has named in the row, for all later attempts."""
    with database.write() as session:
        query = select(Job).where(Job.id == job_id, Job.attempt == attempt).with_for_update()
        job = session.exec(query).one_or_none()
        if job is not None:
            job.params = {**job.params, "sha": sha}
            session.add(job)


def stopped_by_full_disk(database: Database) -> list[Job]:
    """Return the downloads that wait for free space on their node's disk."""
    query = select(Job).where(Job.status == JobState.PAUSED, Job.paused_by == BY_FULL_DISK)
    with database.read() as session:
        return list(session.exec(query))


def with_partials(database: Database, node: str) -> list[Job]:
    """Return the node's cancelled downloads whose partial files remain to be removed, including deleted ones."""
    query = select(Job).where(
        Job.type == DOWNLOAD, Job.target_node == node, Job.status == JobState.CANCELLED, Job.phase == Phase.REMOVING
    )
    with database.read() as session:
        return list(session.exec(query))


def unended(database: Database, node: str) -> list[Job]:
    """Return the node's downloads that have not ended, including deleted ones that are about to stop."""
    query = select(Job).where(Job.type == DOWNLOAD, Job.target_node == node, col(Job.status).not_in(JOB_ENDS))
    with database.read() as session:
        return list(session.exec(query))


@settled
def partials_removed(database: Database, job_ids: Sequence[str]) -> None:
    """Record that their partial files are removed, or belong to another download."""
    with database.write() as session:
        done = update(Job).where(col(Job.id).in_(job_ids), col(Job.phase) == Phase.REMOVING)
        session.connection().execute(done.values(phase=None))


_UNENDED = [JobState.QUEUED, JobState.RUNNING, JobState.PAUSED]


def _change(session: Session, job_id: str, states: Sequence[JobState], **values: object) -> int:
    query = update(Job).where(col(Job.id) == job_id, col(Job.type) == DOWNLOAD, col(Job.status).in_(states))
    return int(session.connection().execute(query.values(**values)).rowcount)


def _locked(session: Session, job_id: str, what: str) -> Job:
    """Return the download's row, locked until the transaction ends. Raises Conflict if the download has ended."""
    query = select(Job).where(Job.id == job_id, Job.type == DOWNLOAD).with_for_update()
    job = session.exec(query).one_or_none()
    if job is None or job.status in JOB_ENDS:
        raise Conflict(f"The download has ended; it can no longer be {what}")
    return job


def _unended(session: Session, job_id: str, what: str) -> Job:
    job = session.get(Job, job_id, populate_existing=True)
    if job is None or job.status in JOB_ENDS:
        raise Conflict(f"The download has ended; it can no longer be {what}")
    return job
