"""Cleanups over HTTP: every field of the plan, and the response to an execution."""

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from shared import clock
from shared.database.engine import Database
from shared.database.tables import Blob
from shared.jobs import attempts, download_control, records
from shared.jobs.reading import lists
from shared.jobs.usage import latest_uses
from tests.conftest import both_databases
from tests.integration.api.jobs.generation_requests import GOOD
from tests.support.jobs import DEMO
from tests.support.models import library
from tests.support.uses import used

URL = "/api/v1/models/cleanup"
SIX_GB = 6_000_000_000


def clean(client: TestClient, expect: int = 200, **body: Any) -> dict[str, Any]:
    answer = client.post(URL, json=body)
    assert answer.status_code == expect, answer.text
    found: dict[str, Any] = answer.json()
    return found


def store_replica(database: Database, model_id: str, arrived_days_ago: float = 90.0) -> None:
    """Store a complete replica on the node, with one blob of 6 GB."""
    library.replica(database, model_id, bytes=SIX_GB)
    when = clock.now() - timedelta(days=arrived_days_ago)
    with database.write() as session:
        session.add(
            Blob(
                node="here", repo=DEMO.get(model_id).repo, name="c" * 64, bytes=SIX_GB, modified_at=when,
                revisions=[library.COMMIT],
            )
        )  # fmt: skip


def proposed(client: TestClient, **body: Any) -> list[str]:
    return [action["model_id"] for action in clean(client, **body)["recommendations"]["cleanup_actions"]]


@both_databases
def test_the_plan_in_every_field(client: TestClient, database: Database) -> None:
    library.node(database, total_gb=100, free_gb=10)
    for model_id in ("T2V-A14B", "TI2V-5B"):
        store_replica(database, model_id)
    used(database, "TI2V-5B", days_ago=60)
    used(database, "T2V-A14B", days_ago=1)
    body = clean(client, target_space_gb=20.0, keep_recent_days=30, dry_run=True)
    last_used = latest_uses.latest(database, ["TI2V-5B"])["TI2V-5B"].last_used
    assert body.pop("timestamp").endswith("Z")
    assert body == {
        "dry_run": True,
        "recommendations": {
            "total_space_available_gb": 10.0,
            "target_space_gb": 20.0,
            "space_to_free_gb": 10.0,
            "cleanup_actions": [
                {
                    "action_type": "remove_model", "model_id": "TI2V-5B", "space_freed_gb": 6.0,
                    "reason": "Unused for 60 days", "last_used": clock.iso(last_used), "node": "here",
                }
            ],
            "reaches_target": False,
            "kept": [
                {"model_id": "T2V-A14B", "node": "here", "reason": "It was used in the last 30 days"},
            ],
        },
        "executed_actions": [],
        "total_space_freed_gb": 0.0,
        "job_ids": [],
    }  # fmt: skip
    assert lists.page(database, limit=10).jobs == [], "a dry run creates no job"


@both_databases
def test_what_is_never_removed(client: TestClient, database: Database) -> None:
    library.node(database)
    store_replica(database, "TI2V-5B")
    used(database, "TI2V-5B", days_ago=60)
    assert proposed(client) == ["TI2V-5B"]
    assert proposed(client, keep_recent_days=61) == []
    client.post("/api/v1/models/TI2V-5B/pin")
    assert proposed(client) == []
    client.delete("/api/v1/models/TI2V-5B/pin")
    job = client.post("/api/v1/jobs/generation", json={**GOOD, "model_id": "TI2V-5B"}).json()
    assert proposed(client) == []
    client.post(f"/api/v1/jobs/{job['id']}/cancel")
    library.device(database, "TI2V-5B")
    assert proposed(client) == [], "it is loaded"
    library.device(database)
    assert proposed(client) == ["TI2V-5B"]
    library.download(database, "TI2V-5B")
    assert proposed(client) == []
    assert download_control.active(database)


@both_databases
def test_an_execution_returns_what_was_done(client: TestClient, database: Database) -> None:
    library.node(database)
    store_replica(database, "TI2V-5B")
    used(database, "TI2V-5B", days_ago=60)
    done = {
        "action_type": "remove_model", "model_id": "TI2V-5B", "name": None, "space_freed_gb": 6.0,
        "reason": "Unused for 60 days", "last_used": None, "freed_bytes": 5_900_000_000,
    }  # fmt: skip

    def worker() -> None:
        deadline = time.monotonic() + 20
        while not (found := lists.page(database, limit=1, type="cleanup").jobs) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert found[0].params["dry_run"] is False
        job = library.start(database, found[0])
        attempts.succeed(database, job.id, 1, {"executed_actions": [done], "freed_bytes": 5_900_000_000})

    thread = threading.Thread(target=worker)
    thread.start()
    body = clean(client, dry_run=False, keep_recent_days=30)
    thread.join()
    (job_id,) = body["job_ids"]
    assert records.get(database, job_id).status == "succeeded"
    assert body["executed_actions"] == [
        {
            "action_type": "remove_model", "model_id": "TI2V-5B", "space_freed_gb": 5.9, "reason": "Unused for 60 days",
            "last_used": None, "node": "here",
        }
    ]  # fmt: skip
    assert body["total_space_freed_gb"] == 5.9, "the freed space, not the planned one"
    assert body["recommendations"]["cleanup_actions"][0]["space_freed_gb"] == 6.0


def test_a_key_executes_once(client: TestClient, database: Database) -> None:
    library.node(database)
    key = {"Idempotency-Key": "once"}

    def worker() -> None:
        deadline = time.monotonic() + 20
        while not (found := lists.page(database, limit=1).jobs) and time.monotonic() < deadline:
            time.sleep(0.02)
        attempts.succeed(database, library.start(database, found[0]).id, 1, {})

    thread = threading.Thread(target=worker)
    thread.start()
    first = client.post(URL, json={"dry_run": False}, headers=key)
    thread.join()
    second = client.post(URL, json={"dry_run": False}, headers=key)
    assert first.json()["job_ids"] == second.json()["job_ids"]
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert client.post(URL, json={"dry_run": False, "keep_recent_days": 1}, headers=key).status_code == 422


def test_without_nodes_there_is_no_plan_and_no_execution(client: TestClient) -> None:
    plan = clean(client)["recommendations"]
    assert (plan["total_space_available_gb"], plan["cleanup_actions"]) == (None, [])
    clean(client, 409, dry_run=False)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"target_space_gb": 1000.1}, "target_space_gb"), ({"target_space_gb": -1}, "target_space_gb"),
        ({"target_space_gb": "20"}, "target_space_gb"), ({"target_space_gb": 1e300}, "target_space_gb"),
        ({"keep_recent_days": 1.5}, "keep_recent_days"), ({"keep_recent_days": -1}, "keep_recent_days"),
        ({"dry_run": "no"}, "dry_run"), ({"colour": "red"}, "colour"), ({"node": "nowhere"}, "node"),
    ],
)  # fmt: skip
def test_an_invalid_field_is_reported(client: TestClient, database: Database, body: dict[str, Any], field: str) -> None:
    library.node(database, total_gb=1000)
    assert [error["loc"][-1] for error in clean(client, 422, **body)["errors"]] == [field]
