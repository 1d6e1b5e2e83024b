"""Checkpoints of generations as their rows know them, and requests to give a device back after the next step.

The files are on a node's disk (`workers/generation/checkpoints.py`); the row says on which node, and after which step.
With `checkpoints_in_store` a copy is in the store; the row has the number of the attempt that made it.
Like `attempts.py`, every UPDATE of an attempt names its number.
"""

from collections.abc import Collection

from sqlalchemy import Update, update
from sqlmodel import Session, col, select

from shared.catalogue.job_types import GENERATION
from shared.database.engine import Database, is_repetition, settled
from shared.database.tables import Job, epoch_now
from shared.jobs.download_control import YIELD
from shared.jobs.finishing import ON_DEVICE
from shared.states import JOB_ENDS, JobState

PREEMPT = "preempt"
"""Like a yield, and counted in the row when the job is given back."""
MOST_PREEMPTIONS = 2


@settled
def note(database: Database, job_id: str, attempt: int, node: str, step: int) -> None:
    """Record that the attempt has a checkpoint after `step` steps on the node. Changes nothing if it was superseded."""
    with database.write() as session:
        values = {"checkpoint_node": node, "checkpoint_step": step, "checkpoint_at": epoch_now()}
        session.connection().execute(_of_attempt(job_id, attempt).values(values))


@settled
def note_stored(database: Database, job_id: str, attempt: int) -> bool:
    """Record that the attempt's latest checkpoint is in the store. Return False if the attempt was superseded."""
    with database.write() as session:
        stored = _of_attempt(job_id, attempt).values(checkpoint_stored_attempt=attempt)
        return bool(session.connection().execute(stored).rowcount)


@settled
def note_resumed(database: Database, job_id: str, attempt: int, step: int) -> None:
    """Record that the attempt has continued after `step` steps. Changes nothing if it was superseded."""
    with database.write() as session:
        session.connection().execute(_of_attempt(job_id, attempt).values(resumed_from_step=step))


@settled
def ask_generation_to_yield(database: Database, job_ids: Collection[str]) -> list[str]:
    """Request that running generations take a checkpoint after their present step and go back to the queue.

    Return those that will: they run on one device, hold it, and no other request is pending. Wake them afterwards with
    `Progress.hint`, else they notice at their next heartbeat.
    """
    with database.write() as session:
        return [job_id for job_id in sorted(job_ids) if _ask(session, job_id, YIELD)]


@settled
def preempt(database: Database, job_id: str) -> bool:
    """Request the same because a more urgent job needs the device. Return whether the job will do so.

    A job is preempted at most `MOST_PREEMPTIONS` times.
    """
    with database.write() as session:
        return _ask(session, job_id, PREEMPT)


def may_continue(database: Database, node: str, job_ids: Collection[str]) -> set[str]:
    """Return those of the jobs that have not ended, and that run on the node or have no checkpoint on another one."""
    wanted = (col(Job.id).in_(job_ids), col(Job.status).not_in(JOB_ENDS))
    with database.read() as session:
        found = session.exec(select(Job.id, Job.checkpoint_node, Job.node).where(*wanted))
        return {job_id for job_id, at, runs_on in found if at in (None, node) or runs_on == node}


def _ask(session: Session, job_id: str, action: str) -> bool:
    where = [
        col(Job.id) == job_id,
        col(Job.type) == GENERATION,
        col(Job.status) == JobState.RUNNING,
        ON_DEVICE,
        col(Job.devices) == 1,
        col(Job.cancel_at).is_(None),
    ]
    if action == PREEMPT:
        where.append(col(Job.preempted) < MOST_PREEMPTIONS)
    pending = col(Job.requested_action)
    asking = update(Job).where(*where, pending.is_(None)).values(requested_action=action)
    if session.connection().execute(asking).rowcount:
        return True
    before = select(Job.id).where(*where, pending == action)
    return is_repetition() and session.exec(before).first() is not None


def _of_attempt(job_id: str, attempt: int) -> Update:
    return update(Job).where(col(Job.id) == job_id, col(Job.attempt) == attempt, col(Job.status) == JobState.RUNNING)
