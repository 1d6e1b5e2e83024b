"""The ends of batches: a batch ends in the transaction that ends the last of its jobs.

Each end of a job subtracts one from its batch's row, whose lock makes jobs that end together do so one after the other.
So exactly one of them finds that it is the last, and adds the message to the batch's webhook.

Locks are taken in one order everywhere: rows of jobs that have not ended, by id, then rows of batches, by id.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import bindparam, delete, exists, func, update
from sqlmodel import Session, col, select

from shared import clock
from shared.database.engine import Database
from shared.database.tables import Batch, Job
from shared.jobs.ending import webhooks
from shared.states import JobState

_UNENDED = (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED)
_COLUMNS = {
    JobState.SUCCEEDED: col(Batch.succeeded),
    JobState.FAILED: col(Batch.failed),
    JobState.CANCELLED: col(Batch.cancelled),
}
# Built once, because every end of a job of a batch executes it.
_COUNT = (
    update(Batch)
    .where(col(Batch.id) == bindparam("its_id"), col(Batch.finished_at).is_(None))
    .values(
        {
            col(Batch.unended): col(Batch.unended) - bindparam("ended"),
            **{column: column + bindparam(f"more_{state.value}") for state, column in _COLUMNS.items()},
        }
    )
    .returning(col(Batch.unended))
)
_AT_ONCE = 100


def end_of(batch: Batch) -> JobState | None:
    """Return the state in which the batch has ended: failed if one of its jobs failed, else cancelled if one was."""
    if batch.finished_at is None:
        return None
    if batch.failed:
        return JobState.FAILED
    return JobState.CANCELLED if batch.cancelled else JobState.SUCCEEDED


def note(session: Session, batch_id: str, ends: Mapping[JobState, int], finished_at: datetime, message_id: str) -> None:
    """Count the ends of jobs of the batch, and end the batch with the last one.

    Call it in the transaction that ends the jobs.
    """
    counted = {f"more_{state.value}": ends.get(state, 0) for state in _COLUMNS}
    values = {**counted, "its_id": batch_id, "ended": sum(ends.values())}
    left = session.connection().execute(_COUNT, values).scalar_one_or_none()
    if left is not None and left <= 0:
        batch = session.get(Batch, batch_id, populate_existing=True)
        assert batch is not None, "its row is locked"
        _end(session, batch, finished_at, message_id)


def end_forgotten(database: Database, message_id: Callable[[], str]) -> int:
    """End batches whose jobs have all ended without having been counted. Return how many.

    A process of a version before batches ends jobs without counting them. `message_id` makes ids of messages.
    """
    left = exists().where(col(Job.batch_id) == col(Batch.id), col(Job.status).in_(_UNENDED))
    query = select(Batch.id).where(col(Batch.finished_at).is_(None), ~left).order_by(col(Batch.id)).limit(_AT_ONCE)
    with database.read() as session:
        forgotten = list(session.exec(query))
    ended = 0
    for batch_id in forgotten:
        with database.write() as session:
            batch = session.get(Batch, batch_id, with_for_update=True)
            if batch is None or batch.finished_at is not None:
                continue
            # Read after the lock: an end that was under way has been counted by now.
            states = select(Job.status, func.count()).where(Job.batch_id == batch_id).group_by(col(Job.status))
            found = dict(session.exec(states).all())
            if any(found.get(state) for state in _UNENDED):
                continue
            for state in _COLUMNS:
                setattr(batch, state.value, max(getattr(batch, state.value), found.get(state, 0)))
            batch.unended = 0
            _end(session, batch, clock.now(), message_id())
            ended += 1
    return ended


def locked_of(session: Session, job_ids: Sequence[str]) -> list[str]:
    """Lock the batches of these jobs, and return their ids. Jobs that may still end are locked before."""
    named = select(Job.batch_id).where(col(Job.id).in_(job_ids), col(Job.batch_id).is_not(None)).distinct()
    ids = [batch_id for batch_id in session.exec(named) if batch_id is not None]
    if ids:
        session.exec(select(Batch.id).where(col(Batch.id).in_(ids)).order_by(col(Batch.id)).with_for_update()).all()
    return ids


def drop_empty(session: Session, batch_ids: Collection[str]) -> None:
    """Remove those of the batches, which are locked, that have ended and whose last job is gone."""
    if not batch_ids:
        return
    empty = select(Batch.id).where(
        col(Batch.id).in_(batch_ids),
        col(Batch.finished_at).is_not(None),
        ~exists().where(col(Job.batch_id) == col(Batch.id)),
    )
    if gone := list(session.exec(empty)):
        webhooks.drop(session, gone)
        session.connection().execute(delete(Batch).where(col(Batch.id).in_(gone)))


def _end(session: Session, batch: Batch, finished_at: datetime, message_id: str) -> None:
    batch.finished_at = finished_at
    session.add(batch)
    state = end_of(batch)
    assert state is not None
    webhooks.add_end_of_batch(session, batch, state, message_id)
