"""Guarantees of flows. Pure."""

from collections.abc import Iterator

from tests.soak.history import History
from tests.soak.rules.violations import ENDS, Violation, rows_of, violated


def every_flow_ends_as_its_jobs_did(history: History) -> Iterator[Violation]:
    """A flow whose jobs have all ended has ended, and no flow has ended before its jobs."""
    rows = rows_of(history)
    for flow in history.remains.flows:
        jobs = [rows[node["job_id"]] for node in flow["nodes"] if node["job_id"] in rows]
        over = all(job["status"] in ENDS for job in jobs)
        if over != (flow["state"] in ENDS):
            said = f"the flow is {flow['state']}, and its jobs are {sorted({job['status'] for job in jobs})}"
            yield violated(every_flow_ends_as_its_jobs_did, history, flow["id"], said)


def a_dependant_starts_after_its_parents(history: History) -> Iterator[Violation]:
    """No job of a flow has started before those that it depends on had ended."""
    rows = rows_of(history)
    for flow in history.remains.flows:
        jobs = {node["name"]: rows.get(node["job_id"]) for node in flow["nodes"]}
        for node in flow["nodes"]:
            job = jobs[node["name"]]
            for name in node["depends_on"]:
                parent = jobs[name]
                if job is None or parent is None or job["started_at"] is None:
                    continue
                if parent["finished_at"] is None or parent["finished_at"] > job["started_at"]:
                    said = f"{node['name']} started at {job['started_at']}, and {name} ended at {parent['finished_at']}"
                    yield violated(a_dependant_starts_after_its_parents, history, job["id"], said)


def a_skip_has_a_cause(history: History) -> Iterator[Violation]:
    """A job is skipped only if one that it depends on has not succeeded and does not say `continue`."""
    for flow in history.remains.flows:
        nodes = {node["name"]: node for node in flow["nodes"]}
        for node in flow["nodes"]:
            if node["outcome"] != "skipped":
                continue
            parents = [nodes[name] for name in node["depends_on"]]
            if not any(one["outcome"] not in (None, "succeeded") and one["on_failure"] == "skip" for one in parents):
                said = f"{node['name']} was skipped after {[(one['name'], one['outcome']) for one in parents]}"
                yield violated(a_skip_has_a_cause, history, node["job_id"], said)


def one_message_for_each_end_of_a_flow(history: History) -> Iterator[Violation]:
    """A flow's webhook gets one message for its end, and one more for each retry that has ended."""
    for flow in history.remains.flows:
        told = [one["id"] for one in history.remains.messages if one["job_id"] == flow["id"]]
        wanted = flow["retries"] + (flow["state"] in ENDS)
        if len(told) != wanted:
            said = f"{len(told)} messages, and {wanted} ends"
            yield violated(one_message_for_each_end_of_a_flow, history, flow["id"], said)
