"""What follows in a flow from the ends of its jobs. Pure functions.

A flow's states:

- `queued`: no job has started; `running`: one has, and not all have ended.
- `succeeded`: every job has succeeded, except those that failed or were cancelled under `on_failure: continue`.
- `cancelled`: the flow was cancelled before it succeeded, or jobs were cancelled and none failed.
- `failed`: otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from shared.database.tables import FlowNode
from shared.jobs.ending.flow_marks import SKIPPED
from shared.states import JobState

CONTINUE = "continue"
SKIP = "skip"
QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = "queued", "running", "succeeded", "failed", "cancelled"
ENDS = (SUCCEEDED, FAILED, CANCELLED)
_SAID = {FAILED: "failed", CANCELLED: "was cancelled", SKIPPED: "was skipped"}
FlowState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@dataclass
class Following:
    """What follows now: the nodes whose jobs may start, and those that are skipped, each with the reason."""

    release: list[FlowNode] = field(default_factory=list)
    skip: dict[str, str] = field(default_factory=dict)  # reasons by the node's name


def following(nodes: Sequence[FlowNode]) -> Following:
    """Return what follows from the outcomes. Skipped nodes count for their own dependants at once."""
    outcomes = {node.name: node.outcome for node in nodes}
    by_name = {node.name: node for node in nodes}
    found = Following()
    changed = True
    while changed:
        changed = False
        for node in nodes:
            if outcomes[node.name] is not None or node.released:
                continue
            reason = _why_skipped(node, by_name, outcomes)
            if reason is not None:
                found.skip[node.name] = reason
                outcomes[node.name] = SKIPPED
                changed = True
    found.release = [
        node
        for node in nodes
        if outcomes[node.name] is None
        and not node.released
        and all(outcomes[name] is not None for name in node.depends_on)
    ]
    return found


def waits_for(node: FlowNode, outcomes: Mapping[str, str | None]) -> list[str]:
    """Return the names that the node's job still waits for."""
    return [name for name in node.depends_on if outcomes.get(name) is None]


def final_state(nodes: Sequence[FlowNode], *, cancelled: bool) -> str | None:
    """Return the state in which the flow has ended; None: a job has not ended. `cancelled`: that was requested."""
    if any(node.outcome is None for node in nodes):
        return None
    bad = [node for node in nodes if node.outcome != SUCCEEDED]
    if cancelled and bad:
        return CANCELLED
    bad = [node for node in bad if node.on_failure != CONTINUE or node.outcome == SKIPPED]
    if not bad:
        return SUCCEEDED
    return FAILED if any(node.outcome == FAILED for node in nodes) else CANCELLED


def is_done(outcome: str | None) -> bool:
    """Return whether a retry leaves the node as it is."""
    return outcome == JobState.SUCCEEDED


def _why_skipped(node: FlowNode, by_name: Mapping[str, FlowNode], outcomes: Mapping[str, str | None]) -> str | None:
    """Return why the node can never run; None: it can."""
    for name in node.depends_on:
        outcome = outcomes[name]
        if outcome is None or outcome == SUCCEEDED:
            continue
        if by_name[name].on_failure != CONTINUE:
            return f"The job {name!r}, on which it depends, {_SAID[outcome]}"
        if any(frame["job"] == name for frame in node.frames_taken.values()):
            return f"The job {name!r}, of which it takes a frame, {_SAID[outcome]}"
    return None


def depth_order(depends_on: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """Return the names in an order in which each follows what it depends on, and those that cannot be placed.

    The others are in a circle, or depend on one that is. Every name in a dependency must be a key.
    """
    left = {name: set(names) for name, names in depends_on.items()}
    dependants: dict[str, list[str]] = {name: [] for name in depends_on}
    for name, names in left.items():
        for other in names:
            dependants[other].append(name)
    ready = [name for name, names in left.items() if not names]
    order: list[str] = []
    while ready:
        name = ready.pop()
        order.append(name)
        for other in dependants[name]:
            left[other].discard(name)
            if not left[other]:
                ready.append(other)
    placed = set(order)
    return order, [name for name in depends_on if name not in placed]


def circle(depends_on: Mapping[str, Sequence[str]], among: Sequence[str]) -> list[str]:
    """Return the names of one circle, each depending on the next, within names that `depth_order` could not place."""
    inside = set(among)
    path, seen = [among[0]], {among[0]: 0}
    while True:
        following_name = next(name for name in depends_on[path[-1]] if name in inside)
        if following_name in seen:
            return path[seen[following_name] :]
        seen[following_name] = len(path)
        path.append(following_name)
