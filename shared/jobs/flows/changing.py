"""Cancel a flow, or retry it from its failed jobs on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlmodel import Session, col, select

from shared.database.engine import Database, is_repetition, settled
from shared.database.tables import Flow, FlowNode, Job, epoch_now
from shared.errors import Conflict, NotFound
from shared.jobs.accepting import NewJob
from shared.jobs.ending import ends
from shared.jobs.flows import plan
from shared.jobs.flows.accepting import insert_jobs
from shared.jobs.flows.advancing import advance_locked, locked_jobs, nodes_of
from shared.jobs.records import Stopped
from shared.states import JOB_ENDS


@dataclass(frozen=True)
class CancelledFlow:
    """A flow after a cancel, and its jobs that this cancel ended or asked to stop."""

    flow: Flow
    jobs: tuple[Stopped, ...]


@settled
def cancel(database: Database, flow_id: str, *, only: str | None = None) -> CancelledFlow:
    """Cancel every job that has not ended: waiting ones at once, running ones are asked to stop. Idempotent.

    Raises NotFound, and Conflict if the flow has succeeded or failed.
    """
    with database.write() as session:
        flow = visible(session, flow_id, only, lock=True)
        if flow.state in (plan.SUCCEEDED, plan.FAILED):
            raise Conflict(f"The flow has already {flow.state}; only a queued or running flow can be cancelled")
        if flow.state == plan.CANCELLED:
            return CancelledFlow(flow, ())
        if flow.cancel_at is None:
            flow.cancel_at = epoch_now()  # type: ignore[assignment]
            session.add(flow)
            session.flush()
            session.refresh(flow)
        nodes = nodes_of(session, flow_id)
        jobs = locked_jobs(session, [node.job_id for node in nodes if node.outcome is None])
        going = [job for job in jobs.values() if job.status not in JOB_ENDS]
        stopped = tuple(Stopped(job, ends.cancel_locked(session, job)) for job in going)
        session.flush()
        advance_locked(session, flow)
    return CancelledFlow(flow, stopped)


@dataclass(frozen=True)
class Retriable:
    """A flow that has ended, as it was read, and the jobs of the nodes that a retry would repeat, by node name."""

    flow: Flow
    jobs: Mapping[str, Job]


def retriable(database: Database, flow_id: str, *, only: str | None = None) -> Retriable:
    """Return what a retry would repeat. Raises NotFound, and Conflict if a retry is not possible."""
    with database.read(snapshot=True) as session:
        flow = visible(session, flow_id, only)
        nodes = nodes_of(session, flow_id)
        _check_retriable(flow)
        rows = _rows(session, nodes)
    _check_jobs(nodes, rows)
    return Retriable(flow, {node.name: rows[node.job_id] for node in nodes if not plan.is_done(node.outcome)})


@settled
def retry(database: Database, was: Retriable, new: Mapping[str, NewJob]) -> Flow:
    """Queue new jobs for the nodes that have not succeeded. `new`: the jobs by node name.

    Raises Conflict if the flow has changed since `was` was read, and LimitReached as `accepting.accept` does.
    """
    flow_id = was.flow.id
    with database.write() as session:
        flow = session.get(Flow, flow_id, with_for_update=True)
        if flow is None:
            raise NotFound("flow", flow_id)
        nodes = nodes_of(session, flow_id)
        if is_repetition() and any(node.job_id in {job.id for job in new.values()} for node in nodes):
            return flow
        if flow.retries != was.flow.retries or flow.finished_at is None:
            raise Conflict("The flow was retried by another request meanwhile")
        # With their locks no job is deleted while it is decided whether a retry needs it.
        _check_jobs(nodes, locked_jobs(session, [node.job_id for node in nodes]))
        again = [node for node in nodes if node.name in new]
        # All that depend on others are held first. `advance` below releases those whose dependencies have ended.
        jobs = [replace(new[node.name], flow_id=flow_id, depends=bool(node.depends_on)) for node in again]
        insert_jobs(session, jobs)
        for node in again:
            node.earlier_jobs = [*node.earlier_jobs, node.job_id]
            node.job_id = new[node.name].id
            node.outcome, node.settled = None, True
            node.released = not node.depends_on
            session.add(node)
        flow.state, flow.finished_at, flow.cancel_at = plan.QUEUED, None, None
        flow.retries += 1
        session.add(flow)
        session.flush()
        advance_locked(session, flow)
    return flow


def visible(session: Session, flow_id: str, only: str | None, *, lock: bool = False) -> Flow:
    """Return the flow; with `lock`, locked until the transaction ends. Raises NotFound."""
    flow = session.get(Flow, flow_id, with_for_update=lock)
    if flow is None or (only is not None and flow.owner != only):
        raise NotFound("flow", flow_id)
    return flow


def _check_retriable(flow: Flow) -> None:
    if flow.finished_at is None:
        raise Conflict(f"The flow is {flow.state}; only a flow that has failed or was cancelled can be retried")
    if flow.state == plan.SUCCEEDED:
        raise Conflict("The flow has succeeded; only a flow that has failed or was cancelled can be retried")


def _rows(session: Session, nodes: Sequence[FlowNode]) -> dict[str, Job]:
    return {job.id: job for job in session.exec(select(Job).where(col(Job.id).in_([node.job_id for node in nodes])))}


def _check_jobs(nodes: Sequence[FlowNode], rows: Mapping[str, Job]) -> None:
    """Raise Conflict if a job was deleted that the retry repeats, or whose frame it needs."""
    by_name = {node.name: node for node in nodes}
    needed = {}
    for node in nodes:
        if plan.is_done(node.outcome):
            continue
        needed[node.name] = node
        needed |= {frame["job"]: by_name[frame["job"]] for frame in node.frames_taken.values()}
    gone = sorted(name for name, node in needed.items() if node.job_id not in rows or rows[node.job_id].deleted)
    if gone:
        names = ", ".join(gone)
        raise Conflict(f"The flow cannot be retried, because jobs that it needs were deleted: {names}. Submit it again")
