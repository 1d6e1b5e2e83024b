"""What every end of a job tells its flow, and what a flow means for the removal of its jobs.

The end of a job marks its node here, in the same transaction, and locks no flow. The flow follows the mark in a
transaction of its own (`flows/advancing.py`), which the dispatcher repeats until it has: so an end and the release of
those that wait for it may be any time apart, and the locks are always taken in one order: flow, jobs, nodes.
"""

from collections.abc import Collection

from sqlalchemy import ColumnElement, and_, delete, exists, not_, or_, update
from sqlmodel import Session, col, select

from shared.database.tables import Flow, FlowNode, Job
from shared.errors import Conflict
from shared.states import JobState

SKIPPED = "skipped"  # an outcome of a node, and the error code of its job
_GONE_AT_ONCE = 500


def note_end(session: Session, job: Job) -> None:
    """Mark the end of a flow's job, for its flow to follow. Call it in the transaction that ends the job."""
    if job.flow_id is None:
        return
    skipped = job.status == JobState.CANCELLED and (job.error or {}).get("code") == SKIPPED
    mark = update(FlowNode).where(col(FlowNode.job_id) == job.id)
    outcome = SKIPPED if skipped else JobState(job.status).value
    session.connection().execute(mark.values(outcome=outcome, settled=False))


def check_removable(session: Session, job_id: str) -> None:
    """Lock the job's flow, if it has one, before the job's row. Raises Conflict while the flow has not ended."""
    flow_id = session.exec(select(Job.flow_id).where(Job.id == job_id)).one_or_none()
    if flow_id is None:
        return
    flow = session.get(Flow, flow_id, with_for_update=True)
    if flow is not None and flow.finished_at is None:
        raise Conflict(
            f"The job belongs to flow {flow_id}, which has not ended. Cancel the job or the flow; it can be deleted "
            "once the flow has ended"
        )


def locked_open_flows(session: Session, job_ids: Collection[str]) -> set[str]:
    """Lock the flows that these jobs belong to, before the jobs. Return those that have not ended."""
    flow_ids = lock_flows_of(session, job_ids)
    still_open = select(Flow.id).where(col(Flow.id).in_(flow_ids), col(Flow.finished_at).is_(None))
    return set(session.exec(still_open)) if flow_ids else set()


def of_no_open_flow() -> ColumnElement[bool]:
    """Return the condition that no flow may still need the job or its files."""
    still_open = exists().where(col(Flow.id) == col(Job.flow_id), col(Flow.finished_at).is_(None))
    return or_(col(Job.flow_id).is_(None), not_(still_open))


def lock_flows_of(session: Session, job_ids: Collection[str]) -> list[str]:
    """Lock the flows that these jobs belong to, so that none is retried meanwhile. Return their ids."""
    of_flows = select(Job.flow_id).where(col(Job.id).in_(job_ids), col(Job.flow_id).is_not(None)).distinct()
    flow_ids = list(session.exec(of_flows))
    if not flow_ids:
        return []
    locking = select(Flow.id).where(col(Flow.id).in_(flow_ids)).order_by(col(Flow.id)).with_for_update()
    return list(session.exec(locking))


def drop_empty(session: Session, flow_ids: Collection[str]) -> None:
    """Remove those of the flows that have ended and whose last job was removed."""
    if not flow_ids:
        return
    no_job = not_(exists().where(col(Job.flow_id) == col(Flow.id)))
    gone = select(Flow.id).where(and_(col(Flow.id).in_(flow_ids), col(Flow.finished_at).is_not(None), no_job))
    empty = list(session.exec(gone.limit(_GONE_AT_ONCE)))
    if empty:
        session.connection().execute(delete(FlowNode).where(col(FlowNode.flow_id).in_(empty)))
        session.connection().execute(delete(Flow).where(col(Flow.id).in_(empty)))
