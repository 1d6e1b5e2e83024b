"""Node jobs over HTTP and the management of downloads: every field and every error."""

import threading
import time
from typing import Any

import pytest
from starlette.testclient import TestClient

from shared.database.engine import Database
from shared.jobs import attempts, download_control, records
from shared.jobs.attempts import Failure, Fetched
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings
from shared.states import JobState, ReplicaState
from tests.conftest import both_databases
from tests.support import working
from tests.support.models import library

JOBS = "/api/v1/jobs"
MANAGE = "/api/v1/models/download/manage"


def submit(client: TestClient, route: str, expect: int = 202, **body: Any) -> dict[str, Any]:
    answer = client.post(f"{JOBS}/{route}", json=body)
    assert answer.status_code == expect, answer.text
    found: dict[str, Any] = answer.json()
    return found


def manage(client: TestClient, action: str, expect: int = 200, **more: Any) -> dict[str, Any]:
    answer = client.post(MANAGE, json={"model_id": "T2V-A14B", "action": action, **more})
    assert answer.status_code == expect, answer.text
    found: dict[str, Any] = answer.json()
    return found


def named(problem: dict[str, Any]) -> list[str]:
    return [str(error["loc"][-1]) for error in problem["errors"]]


# --- jobs


@both_databases
def test_a_download_is_a_job(client: TestClient, database: Database, settings: Settings) -> None:
    library.node(database)
    made = submit(
        client, "download", model_id="T2V-A14B", revision="v1", priority="high", bandwidth_limit_mbps=80,
    )  # fmt: skip
    assert (made["type"], made["status"], made["model_id"], made["priority"]) == (
        "download", "queued", "T2V-A14B", "high",
    )  # fmt: skip
    assert made["params"] == {"model_id": "T2V-A14B", "node": "here", "revision": "v1", "sha": None}
    assert (made["bandwidth_limit_mbps"], made["paused_by"], made["fallback_applied"]) == (80.0, None, [])
    job = library.start(database, records.get(database, made["id"]))
    files = [{"path": "vae/x.safetensors", "done": 5, "total": 10}]
    working.report(
        settings.redis or "", job.id, 1, 50.0, phase="fetching", bytes_done=5, bytes_total=10, bytes_per_second=2.5,
        eta_seconds=2.0, files=files,
    )  # fmt: skip
    progress = client.get(f"{JOBS}/{job.id}").json()["progress"]
    assert (progress["phase"], progress["percent"], progress["eta_seconds"]) == ("fetching", 50.0, 2.0)
    assert (progress["bytes_done"], progress["bytes_total"], progress["bytes_per_second"]) == (5, 10, 2.5)
    assert progress["files"] == files
    result = {
        "revision": library.COMMIT, "bytes_total": 10, "bytes_fetched": 10, "seconds": 4.0, "files": 1, "refetched": [],
    }  # fmt: skip
    attempts.succeed(database, job.id, 1, result)
    ended = client.get(f"{JOBS}/{job.id}").json()
    assert (ended["status"], ended["result"]) == ("succeeded", {**result, "prepared": None})
    assert [one["id"] for one in client.get(f"{JOBS}?type=download").json()["data"]] == [job.id]
    assert client.get(f"{JOBS}?type=cleanup").json()["data"] == []
    assert client.delete(f"{JOBS}/{job.id}").status_code == 204


@both_databases
def test_a_second_download_of_the_same_model_is_refused(client: TestClient, database: Database) -> None:
    library.node(database, "here")
    first = submit(client, "download", model_id="T2V-A14B")
    problem = submit(client, "download", 409, model_id="T2V-A14B")
    assert first["id"] in problem["detail"]
    library.node(database, "there")
    submit(client, "download", model_id="T2V-A14B", node="there")
    submit(client, "download", model_id="TI2V-5B", node="here")
    client.post(f"{JOBS}/{first['id']}/cancel")
    again = client.post(f"{JOBS}/{first['id']}/retry")
    assert again.status_code == 202
    assert (again.json()["type"], again.json()["retry_of"]) == ("download", first["id"])
    assert again.json()["params"] == first["params"]
    assert client.post(f"{JOBS}/{first['id']}/retry").status_code == 409


def test_concurrent_requests_create_one_download(client: TestClient, database: Database) -> None:
    library.node(database)
    codes: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: codes.append(client.post(f"{JOBS}/download", json={"model_id": "T2V-A14B"}).status_code)
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [202] + [409] * 7
    assert len(download_control.active(database)) == 1


def test_a_key_creates_a_download_once(client: TestClient, database: Database) -> None:
    library.node(database)
    key = {"Idempotency-Key": "k"}
    first = client.post(f"{JOBS}/download", json={"model_id": "T2V-A14B"}, headers=key)
    second = client.post(f"{JOBS}/download", json={"model_id": "T2V-A14B"}, headers=key)
    assert (first.status_code, second.status_code) == (202, 200)
    assert second.headers["idempotency-replayed"] == "true"
    assert first.json()["id"] == second.json()["id"]
    assert client.post(f"{JOBS}/download", json={"model_id": "TI2V-5B"}, headers=key).status_code == 422


def test_the_node_is_required_if_several_are_online(client: TestClient, database: Database) -> None:
    assert "online" in submit(client, "download", 409, model_id="T2V-A14B")["detail"]
    library.node(database, "here")
    library.node(database, "there")
    assert named(submit(client, "download", 422, model_id="T2V-A14B")) == ["node"]
    assert named(submit(client, "download", 422, model_id="T2V-A14B", node="nowhere")) == ["node"]
    submit(client, "download", 404, model_id="none-such")


@both_databases
def test_checks_are_created_for_every_node(client: TestClient, database: Database) -> None:
    library.node(database, "here")
    one = submit(client, "integrity-check", model_id="T2V-A14B", full=False, repair=True)
    assert one["params"] == {"model_id": "T2V-A14B", "node": "here", "full": False, "repair": True}
    library.node(database, "there")
    key = {"Idempotency-Key": "all of them"}
    first = client.post(f"{JOBS}/integrity-check", json={}, headers=key)
    assert first.status_code == 202
    assert {job["params"]["node"] for job in first.json()["data"]} == {"here", "there"}
    assert {job["model_id"] for job in first.json()["data"]} == {None}
    assert all(job["params"]["full"] and not job["params"]["repair"] for job in first.json()["data"])
    again = client.post(f"{JOBS}/integrity-check", json={}, headers=key)
    assert (again.status_code, [job["id"] for job in again.json()["data"]]) == (
        200, [job["id"] for job in first.json()["data"]],
    )  # fmt: skip
    only = submit(client, "integrity-check", model_id="all", node="there")
    assert (only["model_id"], only["params"]["node"]) == (None, "there")
    queues = client.get("/api/v1/queues").json()
    assert {row["model_id"] for row in queues["queues"]} == {None, "T2V-A14B"}
    submit(client, "integrity-check", 404, model_id="none-such")
    cancelled = client.post(f"{JOBS}/{only['id']}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    retried = client.post(f"{JOBS}/{only['id']}/retry").json()
    assert (retried["type"], retried["params"]) == ("integrity_check", only["params"])


@both_databases
def test_preparations_are_created_for_every_node(client: TestClient, database: Database) -> None:
    assert "online" in submit(client, "prepare", 409, model_id="T2V-A14B")["detail"]
    library.node(database, "here")
    one = submit(client, "prepare", model_id="T2V-A14B")
    assert (one["type"], one["model_id"]) == ("prepare", "T2V-A14B")
    assert one["params"] == {"model_id": "T2V-A14B", "node": "here", "quantization": "bf16"}
    library.node(database, "there")
    made = submit(client, "prepare", model_id="T2V-A14B", quantization="int8")["data"]
    assert {job["params"]["node"] for job in made} == {"here", "there"}
    assert {job["params"]["quantization"] for job in made} == {"int8"}
    only = submit(client, "prepare", model_id="T2V-A14B", node="there")
    assert only["params"]["node"] == "there"
    submit(client, "prepare", 404, model_id="none-such")
    assert named(submit(client, "prepare", 422, model_id="T2V-A14B", node="nowhere")) == ["node"]


def test_cleanup_as_a_job(client: TestClient, database: Database) -> None:
    library.node(database, total_gb=100)
    made = submit(client, "cleanup", target_space_gb=20, keep_recent_days=7, dry_run=False)
    assert made["params"] == {"node": "here", "target_space_gb": 20.0, "keep_recent_days": 7, "dry_run": False}
    assert submit(client, "cleanup")["params"]["dry_run"] is True, "nothing is removed by default"
    assert named(submit(client, "cleanup", 422, target_space_gb=101)) == ["target_space_gb"]


@pytest.mark.parametrize(
    ("route", "body", "field"),
    [
        ("download", {}, "model_id"),
        ("download", {"model_id": "T2V-A14B", "colour": "red"}, "colour"),
        ("download", {"model_id": "T2V-A14B", "bandwidth_limit_mbps": 0}, "bandwidth_limit_mbps"),
        ("download", {"model_id": "T2V-A14B", "revision": "../x"}, "revision"),
        ("integrity-check", {"full": 1}, "full"),
        ("prepare", {}, "model_id"),
        ("prepare", {"model_id": "T2V-A14B", "quantization": "fp16"}, "quantization"),
        ("cleanup", {"keep_recent_days": -1}, "keep_recent_days"),
        ("cleanup", {"target_space_gb": -1}, "target_space_gb"),
    ],
)
def test_an_invalid_field_is_reported(client: TestClient, route: str, body: dict[str, Any], field: str) -> None:
    assert named(submit(client, route, 422, **body)) == [field]


# --- managing


@both_databases
def test_a_waiting_download_is_paused_and_resumed(client: TestClient, database: Database) -> None:
    library.node(database)
    job = library.download(database)
    found = manage(client, "pause", priority="high", bandwidth_limit_mbps=50.0)
    assert found.pop("timestamp").endswith("Z")
    assert found == {
        "success": True,
        "message": "Download paused for T2V-A14B",
        "model_id": "T2V-A14B",
        "action": "pause",
        "current_status": "paused",
        "progress_percent": 0.0,
        "downloads": [
            {
                "node": "here", "job_id": job.id, "current_status": "paused", "progress_percent": 0.0,
                "priority": "normal", "bandwidth_limit_mbps": None,
            }
        ],
    }  # fmt: skip
    assert library.state_of(database, job) == "paused"
    assert manage(client, "pause")["current_status"] == "paused", "repeating the request has no effect"
    resumed = manage(client, "resume")
    assert (resumed["current_status"], resumed["message"]) == ("queued", "Download resumed for T2V-A14B")
    manage(client, "resume", 409)


def test_a_paused_download_reports_its_progress(client: TestClient, database: Database, settings: Settings) -> None:
    library.node(database)
    job = library.start(database, library.download(database))
    listened = Progress(RestingRedis(settings.redis, timeout=5))

    def worker() -> None:
        deadline = time.monotonic() + 5
        while (listened.listen(job.id) or (False, False))[1] is False and time.monotonic() < deadline:
            time.sleep(0.01)
        assert attempts.renew(database, job.id, 1, 60).requested_action == "pause"
        attempts.paused(database, job.id, 1, "owner", Fetched(455, 1000, 45.5))

    thread = threading.Thread(target=worker)
    thread.start()
    found = manage(client, "pause")
    thread.join()
    assert (found["success"], found["current_status"], found["progress_percent"]) == (True, "paused", 45.5)
    progress = client.get(f"{JOBS}/{job.id}").json()["progress"]
    assert (progress["bytes_done"], progress["bytes_total"]) == (455, 1000)


def test_a_state_not_reached_within_two_seconds_is_reported(client: TestClient, database: Database) -> None:
    library.node(database)
    job = library.start(database, library.download(database))
    began = time.monotonic()
    found = manage(client, "pause")
    assert 1.9 < time.monotonic() - began < 4
    assert (found["success"], found["current_status"]) == (False, "downloading")
    assert "has not taken effect yet" in found["message"]
    assert attempts.renew(database, job.id, 1, 60).requested_action == "pause", "the pause stays requested"


@both_databases
def test_cancel_priority_and_bandwidth(client: TestClient, database: Database, settings: Settings) -> None:
    library.node(database)
    job = library.start(database, library.download(database))
    assert manage(client, "priority", priority="critical")["downloads"][0]["priority"] == "critical"
    limited = manage(client, "bandwidth", bandwidth_limit_mbps=24)
    assert limited["current_status"] == "downloading"
    assert limited["downloads"][0]["bandwidth_limit_mbps"] == 24.0
    row = records.get(database, job.id)
    assert (row.priority, row.bandwidth_mbps) == (0, 24.0)
    assert Progress(RestingRedis(settings.redis, timeout=5)).listen(job.id) == (False, True), "the worker is notified"

    def worker() -> None:
        while not attempts.renew(database, job.id, 1, 60).cancel:
            time.sleep(0.02)
        attempts.cancelled(database, job.id, 1)

    thread = threading.Thread(target=worker)
    thread.start()
    found = manage(client, "cancel")
    thread.join()
    assert (found["success"], found["message"]) == (True, "Download cancelled for T2V-A14B")
    assert found["current_status"] == "unknown", "no scan has run yet"
    assert library.state_of(database, job) == JobState.CANCELLED


def test_every_node_or_one(client: TestClient, database: Database) -> None:
    for name in ("here", "there"):
        library.node(database, name)
        library.download(database, on=name)
    one = manage(client, "pause", node="there")
    assert [download["node"] for download in one["downloads"]] == ["there"]
    library.replica(database, state=ReplicaState.MISSING, on="here")
    both = manage(client, "cancel")
    assert {download["node"] for download in both["downloads"]} == {"here", "there"}
    assert both["current_status"] == "missing"


def test_invalid_requests(client: TestClient, database: Database) -> None:
    library.node(database)
    assert manage(client, "dance", 400)["code"] == "unknown_action"
    assert manage(client, "pause", 404, model_id="none-such")["code"] == "not_found"
    for action, more in (
        ("pause", {}), ("resume", {}), ("cancel", {}), ("priority", {"priority": "low"}),
        ("bandwidth", {"bandwidth_limit_mbps": 1}),
    ):  # fmt: skip
        manage(client, action, 409, **more)
    assert named(manage(client, "pause", 422, node="nowhere")) == ["node"]
    job = library.start(database, library.download(database))
    attempts.fail(database, job.id, 1, Failure("hub_gated", "no access", retryable=False))
    assert "/api/v1/jobs/download" in manage(client, "resume", 409)["detail"]
    manage(client, "pause", 409)


@pytest.mark.parametrize("limit", ["0", "-1", "NaN", "1e9", "Infinity", '"5"', "true", "null"])
def test_an_invalid_limit_is_reported(client: TestClient, limit: str) -> None:
    body = f'{{"model_id": "T2V-A14B", "action": "bandwidth", "bandwidth_limit_mbps": {limit}}}'
    answer = client.post(MANAGE, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert named(answer.json()) == ["bandwidth_limit_mbps"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"action": "priority"}, "priority"),
        ({"action": "priority", "priority": "urgent"}, "priority"),
        ({"action": "bandwidth"}, "bandwidth_limit_mbps"),
        ({"action": "pause", "colour": "red"}, "colour"),
        ({}, "action"),
        ({"action": 5}, "action"),
    ],
)
def test_a_missing_or_unknown_field_is_reported(client: TestClient, body: dict[str, Any], field: str) -> None:
    answer = client.post(MANAGE, json={"model_id": "T2V-A14B", **body})
    assert answer.status_code == 422
    assert named(answer.json()) == [field]


def test_malformed_bodies(client: TestClient) -> None:
    broken = client.post(MANAGE, content="{", headers={"Content-Type": "application/json"})
    assert (broken.status_code, broken.json()["code"]) == (400, "malformed_request")
    assert client.post(MANAGE, content="x=1", headers={"Content-Type": "text/plain"}).status_code == 415
    assert client.post(MANAGE, json=[]).status_code == 422
