"""Flows by the client library, synchronous and asynchronous, against a real web process."""

from typing import Any

import pytest

from shared.database.engine import Database
from tests.integration.api.jobs.generation_requests import GOOD
from tests.support.flows import follow, run
from wanworks.errors import BadRequest, StateForbids, TimedOut

JOBS: list[dict[str, Any]] = [{"name": "a", "params": GOOD}, {"name": "b", "params": GOOD, "depends_on": ["a"]}]


def test_a_flow_from_submission_to_its_end(client: Any, database: Database) -> None:
    flow = client.submit_flow(JOBS, name="two", metadata={"film": "1"}, idempotency_key="once")
    assert client.submit_flow(JOBS, name="two", metadata={"film": "1"}, idempotency_key="once")["id"] == flow["id"]
    assert client.flow(flow["id"])["jobs"][1]["waits_for"] == ["a"]
    with pytest.raises(TimedOut):
        client.wait_flow(flow["id"], timeout=0.0)
    with pytest.raises(StateForbids):
        client.retry_flow(flow["id"])
    run(database, flow["id"], "a", fails=True)
    follow(database)
    assert client.wait_flow(flow["id"], timeout=5)["state"] == "failed"
    again = client.retry_flow(flow["id"])
    assert [job["state"] for job in again["jobs"]] == ["queued", "held"]
    assert client.cancel_flow(flow["id"])["state"] == "cancelled"
    assert client.flows_page(state="cancelled")["data"][0]["retries"] == 1


def test_wrong_fields_are_named_with_their_jobs(client: Any) -> None:
    with pytest.raises(BadRequest, match=r"jobs\.1\.depends_on\.0"):
        client.submit_flow([JOBS[0], {**JOBS[1], "depends_on": ["x"]}])
