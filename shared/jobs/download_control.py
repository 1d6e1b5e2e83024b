"""A download as its owner steers it: paused, resumed, made more or less urgent, given more or less bandwidth.

Another side of the `jobs` table: it locks a row before it decides by its state.
"""

from collections.abc import Sequence

from sqlalchemy import func, update
from sqlmodel import Session, col, select

from shared.catalogue.job_types import DOWNLOAD
from shared.database.engine import Database, is_repetition, settled
from shared.database.tables import Job, epoch_now
from shared.errors import Conflict
from shared.states import JOB_ENDS, JobState, Phase, Priority

PAUSE = "pause"
YIELD = "yield"
BY_OWNER = "owner"
BY_FULL_DISK = "disk_full"

# That the node is known says nothing new: it lets the database use the index of such jobs alone.
_SHOWN = (col(Job.type) == DOWNLOAD, col(Job.target_node).is_not(None), col(Job.deleted).is_(False))


def active(database: Database, model_id: str | None = None, node: str | None = None) -> list[Job]:
    """Downloads that have not ended, oldest first."""
    query = select(Job).where(*_SHOWN, col(Job.status).not_in(JOB_ENDS))
    if model_id is not None:
        query = query.where(Job.model_id == model_id)
    if node is not None:
        query = query.where(Job.target_node == node)
    with database.read() as session:
        return list(session.exec(query.order_by(col(Job.id))))


def latest(database: Database, model_id: str | None = None) -> dict[tuple[str, str], Job]:
    """The newest download of each (node, model), ended or not."""
    newest = select(func.max(Job.id)).where(*_SHOWN).group_by(col(Job.target_node), col(Job.model_id))
    if model_id is not None:
        newest = newest.where(Job.model_id == model_id)
    with database.read() as session:
        found = session.exec(select(Job).where(col(Job.id).in_(newest)))
        return {(job.target_node or "", job.model_id or ""): job for job in found}


@settled
def pause(database: Database, job_id: str) -> Job:
    """Pauses a waiting download at once, asks a running one to stop. Idempotent. Raises Conflict once it has ended."""
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
    """Puts a paused download back into the queue; a pause that has not taken effect yet is taken back.

    Raises Conflict where the download is neither.
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
    """Puts a download that a full disk stopped back into the queue; one that its owner has paused since stays paused.

    Returns whether this call did it.
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
    """Raises Conflict once the download has ended."""
    with database.write() as session:
        _change(session, job_id, _UNENDED, priority=priority.rank)
        return _unended(session, job_id, "given a priority")


@settled
def set_bandwidth(database: Database, job_id: str, mbps: float | None) -> Job:
    """In Mbps (10^6 bits a second); None lifts the limit. Raises Conflict once the download has ended."""
    with database.write() as session:
        _change(session, job_id, _UNENDED, bandwidth_mbps=mbps)
        return _unended(session, job_id, "limited")


@settled
def ask_to_yield(database: Database, job_ids: Sequence[str]) -> None:
    """Asks running downloads to make place for more urgent ones; they go back to waiting with their bytes kept."""
    with database.write() as session:
        for job_id in job_ids:
            query = update(Job).where(
                col(Job.id) == job_id, col(Job.status) == JobState.RUNNING, col(Job.requested_action).is_(None)
            )
            session.connection().execute(query.values(requested_action=YIELD))


@settled
def keep_commit(database: Database, job_id: str, attempt: int, sha: str) -> None:
    """Writes the commit into the row, once the hub has said which it is, for all attempts to come."""
    with database.write() as session:
        query = select(Job).where(Job.id == job_id, Job.attempt == attempt).with_for_update()
        job = session.exec(query).one_or_none()
        if job is not None:
            job.params = {**job.params, "sha": sha}
            session.add(job)


def stopped_by_full_disk(database: Database) -> list[Job]:
    """Downloads that wait for room on their node's disk."""
    query = select(Job).where(Job.status == JobState.PAUSED, Job.paused_by == BY_FULL_DISK)
    with database.read() as session:
        return list(session.exec(query))


def with_partials(database: Database, node: str) -> list[Job]:
    """Downloads to the node that were cancelled and whose partial files are still to be removed; deleted ones too."""
    query = select(Job).where(
        Job.type == DOWNLOAD, Job.target_node == node, Job.status == JobState.CANCELLED, Job.phase == Phase.REMOVING
    )
    with database.read() as session:
        return list(session.exec(query))


def unended(database: Database, node: str) -> list[Job]:
    """Downloads to the node that have not ended, also those that were deleted and are about to stop."""
    query = select(Job).where(Job.type == DOWNLOAD, Job.target_node == node, col(Job.status).not_in(JOB_ENDS))
    with database.read() as session:
        return list(session.exec(query))


@settled
def partials_removed(database: Database, job_ids: Sequence[str]) -> None:
    """Their partial files are gone, or another download's."""
    with database.write() as session:
        done = update(Job).where(col(Job.id).in_(job_ids), col(Job.phase) == Phase.REMOVING)
        session.connection().execute(done.values(phase=None))


_UNENDED = [JobState.QUEUED, JobState.RUNNING, JobState.PAUSED]


def _change(session: Session, job_id: str, states: Sequence[JobState], **values: object) -> int:
    query = update(Job).where(col(Job.id) == job_id, col(Job.type) == DOWNLOAD, col(Job.status).in_(states))
    return int(session.connection().execute(query.values(**values)).rowcount)


def _locked(session: Session, job_id: str, what: str) -> Job:
    """The download's row, held until the transaction ends. Raises Conflict once it has ended."""
    query = select(Job).where(Job.id == job_id, Job.type == DOWNLOAD).with_for_update()
    job = session.exec(query).one_or_none()
    if job is None or job.status in JOB_ENDS:
        raise Conflict(f"The download has ended; it cannot be {what} any more")
    return job


def _unended(session: Session, job_id: str, what: str) -> Job:
    job = session.get(Job, job_id, populate_existing=True)
    if job is None or job.status in JOB_ENDS:
        raise Conflict(f"The download has ended; it cannot be {what} any more")
    return job
