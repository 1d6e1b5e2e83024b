"""Pausing and resuming by the API, and what clients see of it."""

from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from shared import clock
from shared.cluster import nodes
from shared.database.engine import Database
from shared.jobs import records
from shared.jobs.lines import windows
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.support.models import library

PAUSE, RESUME = "/api/v1/queues/pause", "/api/v1/queues/resume"


def _later(**span: float) -> str:
    return clock.iso(clock.now() + timedelta(**span)) or ""


def test_pause_and_resume_everything(client: TestClient) -> None:
    until = _later(hours=1)
    (row,) = client.post(PAUSE, json={"reason": "a new cooler", "until": until}).json()["pauses"]
    assert (row["scope"], row["value"], row["reason"], row["until"]) == ("everything", None, "a new cooler", until)
    job = client.post(URL, json=GOOD)
    assert job.status_code == 202, "jobs are accepted meanwhile"
    shown = client.get(f"/api/v1/jobs/{job.json()['id']}").json()["waiting_for"]
    assert shown == {"reason": "pause", "detail": f"The queue is paused until {until}: a new cooler"}
    assert client.get("/api/v1/queues").json()["pauses"] == [row]
    assert client.post(RESUME).json() == {"pauses": []}
    assert client.get("/api/v1/queues").json()["pauses"] == []


def test_a_paused_device_says_why_and_until_when(client: TestClient, database: Database) -> None:
    library.device(database, on="n", index=0, kind="cpu")
    until = _later(hours=1)
    client.post(PAUSE, json={"device": "n/0", "reason": "a new cooler", "until": until})
    (shown,) = client.get("/api/v1/workers").json()["devices"]
    assert (shown["state"], shown["pause_reason"], shown["paused_until"]) == ("paused", "a new cooler", until)
    client.post(RESUME, json={"device": "n/0"})
    (shown,) = client.get("/api/v1/workers").json()["devices"]
    assert (shown["state"], shown["paused_at"], shown["paused_until"]) == ("idle", None, None)


def test_a_low_job_outside_its_window_says_when_it_opens(client: TestClient, database: Database) -> None:
    opens = clock.now().replace(second=0, microsecond=0) + timedelta(hours=2)
    window = f"{opens:%H:%M}-{opens + timedelta(hours=1):%H:%M} UTC"
    windows.set_installation(database, window)
    job = client.post(URL, json={**GOOD, "priority": "low"}).json()
    assert client.get("/api/v1/queues").json()["held"] == 1
    detail = f"Jobs of low priority start in the window {window}, which opens at {clock.iso(opens)}."
    shown = client.get(f"/api/v1/jobs/{job['id']}").json()
    assert shown["waiting_for"] == {"reason": "window", "detail": detail}
    changed = client.patch(f"/api/v1/jobs/{job['id']}", json={"priority": "high"}).json()
    assert (changed["waiting_for"] or {}).get("reason") != "window"


def test_every_scope(client: TestClient, database: Database) -> None:
    library.device(database, on="n", index=0, kind="cpu")
    nodes.node_beat(database, "n", None, None)
    for scope, value in (
        ("model_id", "T2V-A14B"), ("device", "n/0"), ("node", "n"), ("job_type", "download"),
    ):  # fmt: skip
        (row,) = client.post(PAUSE, json={scope: value}).json()["pauses"]
        assert (row["scope"], row["value"]) == (scope, value)
        if scope == "node":
            assert client.get("/api/v1/nodes").json()["nodes"][0]["state"] == "drained"
        assert client.post(RESUME, json={scope: value}).json()["pauses"] == []


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"model_id": "nothing"}, "model_id", "there is no model 'nothing'; there are: "),
        ({"device": "n/9"}, "device", "there is no device 'n/9'"),
        ({"node": "nowhere"}, "node", "there is no node 'nowhere'"),
        ({"key": "nobody"}, "key", "there is no key 'nobody'"),
        ({"job_type": "nothing"}, "job_type", "there is no type of job 'nothing'; there are: generation, "),
        ({"until": "2020-01-01T00:00:00Z"}, "until", "has passed already"),
        ({"until": "tomorrow"}, "until", "must be a time such as"),
        ({"running": "stop"}, "running", "'finish' or 'yield'"),
        ({"reason": "x" * 501}, "reason", "500"),
        ({"what": 1}, "what", "no such field"),
    ],
)
def test_errors_name_the_field(client: TestClient, body: dict[str, Any], field: str, says: str) -> None:
    answer = client.post(PAUSE, json=body)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["loc"] == ["body", field]
    assert says in error["msg"]


def test_two_scopes_at_once_are_refused(client: TestClient) -> None:
    answer = client.post(PAUSE, json={"model_id": "T2V-A14B", "node": "n"})
    assert answer.status_code == 422
    assert "give only one of model_id, node" in answer.json()["errors"][0]["msg"]


def test_a_job_with_a_start_time(client: TestClient, database: Database) -> None:
    after, before = _later(hours=1), _later(hours=2)
    job = client.post(URL, json={**GOOD, "start_after": after, "start_before": before}).json()
    assert (job["status"], job["start_after"], job["start_before"]) == ("queued", after, before)
    shown = client.get(f"/api/v1/jobs/{job['id']}").json()
    assert shown["waiting_for"] == {"reason": "start_time", "detail": f"It may start from {after} on."}
    assert shown["queue_position"] is None
    assert client.get("/api/v1/queues").json()["held"] == 1
    assert records.get(database, job["id"]).held == "start_time"


@pytest.mark.parametrize(
    ("times", "field", "says"),
    [
        ({"start_before": "2020-01-01T00:00:00Z"}, "start_before", "has passed already"),
        ({"start_after": "2999-01-01T00:00:00Z"}, "start_after", "more than 366 days"),
        ({"start_after": "soon"}, "start_after", "must be a time such as"),
    ],
)
def test_impossible_times(client: TestClient, times: dict[str, str], field: str, says: str) -> None:
    answer = client.post(URL, json={**GOOD, **times})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["loc"] == ["body", field]
    assert says in error["msg"]


def test_a_latest_start_before_the_first(client: TestClient) -> None:
    answer = client.post(URL, json={**GOOD, "start_after": _later(hours=2), "start_before": _later(hours=1)})
    assert answer.json()["errors"][0]["msg"] == "is not after `start_after`; give a later time, or none"


def test_move_to_front_and_back(client: TestClient) -> None:
    job = client.post(URL, json=GOOD).json()
    address = f"/api/v1/jobs/{job['id']}/move-to-front"
    moved = client.post(address).json()
    assert moved["moved_to_front_at"] is not None
    for _ in range(2):  # the second has no effect
        back = client.delete(address)
        assert (back.status_code, back.json()["moved_to_front_at"]) == (200, None)
    client.post(f"/api/v1/jobs/{job['id']}/cancel")
    for answer in (client.post(address), client.delete(address)):
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
