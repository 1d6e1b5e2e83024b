"""Flows for tests: built from short descriptions, and advanced as the dispatcher does it."""

from dataclasses import dataclass
from typing import Any

from shared.database.engine import Database
from shared.database.tables import Flow, FlowNode, Job
from shared.jobs import attempts, ids
from shared.jobs.attempts import Failure
from shared.jobs.flows import accepting, advancing, reading
from shared.jobs.flows.accepting import NewFlow, NewNode
from tests.support.jobs import claimed, new_job

FAILURE = Failure("bad_output", "no picture", retryable=False)


@dataclass(frozen=True)
class Node:
    """A job of a flow: what it depends on, and whether its dependants run if it fails."""

    after: tuple[str, ...] = ()
    on_failure: str = "skip"
    frame_of: dict[str, Any] | None = None
    last_frame_of: dict[str, Any] | None = None


def new_flow(webhook_url: str | None = None, owner: str | None = None, **nodes: Node) -> NewFlow:
    """Return a flow of generations of the demo catalogue, one for each name."""
    flow_id = ids.new_id()
    made = []
    for name, node in nodes.items():
        job = new_job(prompt=name, flow_id=flow_id, depends=bool(node.after), owner=owner)
        made.append(NewNode(name, job, node.after, node.frame_of, node.last_frame_of, node.on_failure))
    return NewFlow(flow_id, tuple(made), webhook_url=webhook_url, owner=owner)


def accepted_flow(database: Database, webhook_url: str | None = None, **nodes: Node) -> Flow:
    return accepting.accept(database, new_flow(webhook_url, **nodes)).flow


def follow(database: Database) -> None:
    """Follow the ends as a pass of the dispatcher does."""
    for flow_id in advancing.unsettled(database):
        advancing.advance(database, flow_id)


def node_of(database: Database, flow_id: str, name: str) -> FlowNode:
    return next(node for node in reading.get(database, flow_id).nodes if node.name == name)


def job_of(database: Database, flow_id: str, name: str) -> Job:
    whole = reading.get(database, flow_id)
    return whole.jobs[next(node.job_id for node in whole.nodes if node.name == name)]


def run(database: Database, flow_id: str, name: str, *, fails: bool = False, **result: Any) -> Job:
    """Claim the job of that name and end it, without following its end."""
    job = claimed(database, job_of(database, flow_id, name).id)
    if fails:
        return attempts.fail(database, job.id, job.attempt, FAILURE)
    return attempts.succeed(database, job.id, job.attempt, {"timings": {}, **result})


def states(database: Database, flow_id: str) -> dict[str, str]:
    """Return by name what each job is: its state, `held`, or `skipped`."""
    whole = reading.get(database, flow_id)
    found = {}
    for node in whole.nodes:
        job = whole.jobs[node.job_id]
        found[node.name] = node.outcome or ("held" if job.held == "dependency" else job.status)
    return found
