"""Read flows: one with its jobs, or pages of them with counts."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlmodel import Session, case, col, func, select

from shared.database.engine import Database
from shared.database.tables import Flow, FlowNode, Job
from shared.jobs.ending.flow_marks import SKIPPED
from shared.jobs.flows.advancing import nodes_of
from shared.jobs.flows.changing import visible
from shared.states import JobState


@dataclass(frozen=True)
class Whole:
    """A flow with its nodes, and their jobs by id, as far as they exist."""

    flow: Flow
    nodes: Sequence[FlowNode]
    jobs: Mapping[str, Job]


@dataclass(frozen=True)
class Counted:
    """A flow with the number of its jobs by state: those of jobs, `held` and `skipped`, and their mean percentage."""

    flow: Flow
    counts: Mapping[str, int]
    percent: float


@dataclass(frozen=True)
class Page:
    flows: list[Counted]
    has_more: bool


HELD: Literal["held"] = "held"  # queued, but waiting for other jobs of the flow


def get(database: Database, flow_id: str, *, only: str | None = None) -> Whole:
    """Return the flow. `only`: the owner that may see it; None: any. Raises NotFound."""
    with database.read(snapshot=True) as session:
        flow = visible(session, flow_id, only)
        nodes = nodes_of(session, flow_id)
        rows = session.exec(select(Job).where(col(Job.id).in_([node.job_id for node in nodes])))
        return Whole(flow, nodes, {job.id: job for job in rows if not job.deleted})


def owner_of(database: Database, flow_id: str, *, only: str | None = None) -> str | None:
    """Return the flow's owner. Raises NotFound."""
    with database.read() as session:
        return visible(session, flow_id, only).owner


def awaited(database: Database, job_ids: Collection[str]) -> dict[str, list[str]]:
    """Return the names that these held jobs wait for, by job id."""
    if not job_ids:
        return {}
    found: dict[str, list[str]] = {}
    with database.read() as session:
        held = list(session.exec(select(FlowNode).where(col(FlowNode.job_id).in_(job_ids))))
        of_flows = col(FlowNode.flow_id).in_({node.flow_id for node in held})
        open_ones = set(
            session.exec(select(FlowNode.flow_id, FlowNode.name).where(of_flows, col(FlowNode.outcome).is_(None)))
        )
    for node in held:
        found[node.job_id] = [name for name in node.depends_on if (node.flow_id, name) in open_ones]
    return found


def page(
    database: Database, *, only: str | None, limit: int, after: str | None = None, state: str | None = None
) -> Page:
    """Return a page of flows, newest first. `after`: id of the last one seen."""
    query = select(Flow).order_by(col(Flow.id).desc()).limit(limit + 1)
    if only is not None:
        query = query.where(Flow.owner == only)
    if state is not None:
        query = query.where(Flow.state == state)
    if after is not None:
        query = query.where(col(Flow.id) < after)
    with database.read(snapshot=True) as session:
        found = list(session.exec(query))
        counted = _counts(session, [flow.id for flow in found[:limit]])
    return Page(
        [Counted(flow, counted[flow.id].counts, counted[flow.id].percent) for flow in found[:limit]],
        has_more=len(found) > limit,
    )


@dataclass
class _Sum:
    counts: dict[str, int]
    percents: float = 0.0

    @property
    def percent(self) -> float:
        return round(self.percents / max(1, sum(self.counts.values())), 1)


def _counts(session: Session, flow_ids: Collection[str]) -> Mapping[str, _Sum]:
    """Return the counts of these flows: one row for each state, however many jobs they have."""
    status = case(
        (col(FlowNode.outcome) == SKIPPED, SKIPPED),
        (col(FlowNode.released).is_(False) & (col(Job.status) == JobState.QUEUED), HELD),
        else_=func.coalesce(col(Job.status), col(FlowNode.outcome)),
    )
    percent = case((col(FlowNode.outcome).is_not(None), 100.0), else_=func.coalesce(col(Job.percent), 0.0))
    query = (
        select(FlowNode.flow_id, status, func.count(), func.sum(percent))
        .join(Job, col(Job.id) == col(FlowNode.job_id), isouter=True)
        .where(col(FlowNode.flow_id).in_(flow_ids))
        .group_by(col(FlowNode.flow_id), status)
    )
    found: dict[str, _Sum] = defaultdict(lambda: _Sum({}))
    for flow_id, state, count, percents in session.connection().execute(query):
        found[flow_id].counts[state] = count
        found[flow_id].percents += percents or 0.0
    return found
