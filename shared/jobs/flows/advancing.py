"""Follow the ends of a flow's jobs: release their dependants or skip them, and end the flow with its last job.

`advance` locks the flow first and decides by the committed outcomes of its nodes. Of two jobs that end at once, the
call that comes second sees both. A mark that no call has followed stays in an index, and the dispatcher follows it,
whatever was killed after the job's end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session, col, select

from shared import clock
from shared.catalogue.job_types import frame_file
from shared.database.engine import Database, settled
from shared.database.tables import Flow, FlowNode, Job, epoch_now
from shared.jobs import ids
from shared.jobs.ending import ends, flow_marks, webhooks
from shared.jobs.ending.flow_marks import SKIPPED
from shared.jobs.flows import plan
from shared.jobs.lines import holding
from shared.states import JOB_ENDS, JobState

_AT_ONCE = 100
_NO_FRAME = "The frame of the job {!r}, which is its input picture, does not exist any more"


@dataclass
class Advanced:
    """What a call has done: the jobs that it skipped, how many it released, and the flow if it has ended."""

    skipped: list[Job] = field(default_factory=list)
    released: int = 0
    ended: Flow | None = None


def unsettled(database: Database) -> list[str]:
    """Return flows with ends that were not followed yet, up to 100. Reads an index that has only these."""
    query = select(FlowNode.flow_id).where(col(FlowNode.settled).is_(False)).distinct().limit(_AT_ONCE)
    with database.read() as session:
        return list(session.exec(query))


def mark_missed(database: Database) -> int:
    """Mark ends that a process of an earlier version has not marked, which knows no flows. Return how many.

    It reads the open jobs of all open flows, so it is for once a minute.
    """
    missed = (
        select(FlowNode.flow_id)
        .join(Flow, col(Flow.id) == col(FlowNode.flow_id))
        .join(Job, col(Job.id) == col(FlowNode.job_id))
        .where(col(Flow.state).in_((plan.QUEUED, plan.RUNNING)), col(FlowNode.outcome).is_(None))
        .where(col(Job.status).in_(JOB_ENDS))
    )
    with database.read() as session:
        flow_ids = sorted(set(session.exec(missed.limit(_AT_ONCE))))
    marked = 0
    for flow_id in flow_ids:
        with database.write() as session:
            session.get(Flow, flow_id, with_for_update=True)
            open_ones = [node for node in nodes_of(session, flow_id) if node.outcome is None]
            for job in locked_jobs(session, [node.job_id for node in open_ones]).values():
                if job.status in JOB_ENDS:
                    flow_marks.note_end(session, job)
                    marked += 1
    return marked


@settled
def advance(database: Database, flow_id: str) -> Advanced:
    """Follow the ends that were not followed yet. Idempotent."""
    with database.write() as session:
        flow = session.get(Flow, flow_id, with_for_update=True)
        return Advanced() if flow is None else advance_locked(session, flow)


def advance_locked(session: Session, flow: Flow) -> Advanced:
    """Do what `advance` does, for a flow whose row is locked."""
    nodes = nodes_of(session, flow.id)
    done = Advanced()
    while True:
        if flow.cancel_at is None:
            _follow(session, flow, nodes, done)
        # A frame that is gone has turned a release into a skip, which has its own consequences.
        if not any(node.outcome is not None and not node.settled for node in nodes):
            break
        for node in nodes:
            if node.outcome is not None and not node.settled:
                node.settled = True
                session.add(node)
    if flow.state == plan.QUEUED and any(node.outcome not in (None, SKIPPED) for node in nodes):
        flow.state = plan.RUNNING
        flow.started_at = flow.started_at or clock.now()
        session.add(flow)
    state = plan.final_state(nodes, cancelled=flow.cancel_at is not None)
    if state is not None and flow.finished_at is None:
        _end(session, flow, nodes, state)
        done.ended = flow
    return done


@settled
def note_started(database: Database) -> int:
    """Mark flows as running of which a job runs. Return how many. Few jobs run, so few rows are read."""
    running = select(Job.flow_id).where(Job.status == JobState.RUNNING, col(Job.flow_id).is_not(None))
    with database.read() as session:
        # Two queries, because PostgreSQL joins them by reading all jobs of all flows.
        of_running = sorted({flow_id for flow_id in session.exec(running) if flow_id is not None})
        waiting = select(Flow.id).where(col(Flow.id).in_(of_running), col(Flow.state) == plan.QUEUED)
        flow_ids = sorted(session.exec(waiting)) if of_running else []
    for flow_id in flow_ids:
        with database.write() as session:
            flow = session.get(Flow, flow_id, with_for_update=True)
            if flow is not None and flow.state == plan.QUEUED:
                flow.state, flow.started_at = plan.RUNNING, flow.started_at or clock.now()
                session.add(flow)
    return len(flow_ids)


def nodes_of(session: Session, flow_id: str) -> list[FlowNode]:
    query = select(FlowNode).where(FlowNode.flow_id == flow_id).order_by(col(FlowNode.position))
    return list(session.exec(query.execution_options(populate_existing=True)))


def locked_jobs(session: Session, job_ids: Sequence[str]) -> dict[str, Job]:
    """Lock these jobs in the order of their ids, as every writer of several does, and return those that exist."""
    query = select(Job).where(col(Job.id).in_(job_ids)).order_by(col(Job.id)).with_for_update()
    return {job.id: job for job in session.exec(query.execution_options(populate_existing=True))}


def _follow(session: Session, flow: Flow, nodes: Sequence[FlowNode], done: Advanced) -> None:
    following = plan.following(nodes)
    if not following.release and not following.skip:
        return
    by_name = {node.name: node for node in nodes}
    skipping = [by_name[name] for name in following.skip]
    jobs = locked_jobs(session, [node.job_id for node in (*skipping, *following.release)])
    now = session.connection().execute(select(epoch_now())).scalar_one()
    reasons = dict(following.skip)
    for node in following.release:
        job = jobs.get(node.job_id)
        if job is None or job.status != JobState.QUEUED:
            continue  # it was cancelled meanwhile, and its end is marked
        if (lacking := _take_frames(session, job, node, by_name)) is not None:
            reasons[node.name] = _NO_FRAME.format(lacking)
            continue
        holding.release_dependant(session, job, now)
        node.released = True
        session.add(node)
        done.released += 1
    for name, reason in reasons.items():
        node = by_name[name]
        job = jobs.get(node.job_id)
        if job is not None and job.status == JobState.QUEUED:
            _skip(session, job, reason)
            done.skipped.append(job)
            session.flush()
            session.refresh(node)


def _take_frames(session: Session, job: Job, node: FlowNode, by_name: Mapping[str, FlowNode]) -> str | None:
    """Set kept frames of other jobs as the job's pictures. Return the name of a job that has not kept its frame."""
    for picture, frame in node.frames_taken.items():
        made = session.get(Job, by_name[frame["job"]].job_id)
        name = frame_file(frame["frame"])
        kept = next(
            (one for one in ((made.result if made else None) or {}).get("artifacts", ()) if one["name"] == name), None
        )
        if made is None or kept is None:
            return str(frame["job"])
        reference = f"artifacts/{made.id}/{made.attempt}/{name}"
        job.params = {**job.params, picture: reference, f"{picture}_sha256": kept["sha256"]}
        session.add(job)
    return None


def _skip(session: Session, job: Job, reason: str) -> None:
    """Cancel a held job that can never run. Its row is locked."""
    job.error = {"code": SKIPPED, "message": f"{reason}, so this job was skipped", "retryable": False}
    ends.cancel_locked(session, job)


def _end(session: Session, flow: Flow, nodes: Sequence[FlowNode], state: str) -> None:
    flow.state = state
    flow.finished_at = clock.now()
    session.add(flow)
    webhooks.add_flow_end(session, flow, f"msg_{ids.new_id()}", _summary(flow, nodes))


def _summary(flow: Flow, nodes: Sequence[FlowNode]) -> dict[str, Any]:
    """Return a summary of the flow's end. The URLs have the rest."""
    return {
        "id": flow.id,
        "name": flow.name,
        "state": flow.state,
        "retries": flow.retries,
        "created_at": clock.iso(flow.created_at),
        "started_at": clock.iso(flow.started_at),
        "finished_at": clock.iso(flow.finished_at),
        "url": f"/api/v1/flows/{flow.id}",
        "jobs": [
            {"name": node.name, "id": node.job_id, "outcome": node.outcome, "url": f"/api/v1/jobs/{node.job_id}"}
            for node in nodes
        ],
        "metadata": flow.labels,
    }
