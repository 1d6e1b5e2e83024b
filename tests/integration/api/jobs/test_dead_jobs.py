"""Dead jobs and their redrive, and the change of a job's priority."""

from typing import Any

from starlette.testclient import TestClient

from shared.access import keys
from shared.access.keys import Limits
from shared.database.engine import Database
from shared.jobs import attempts, dispatch, records
from shared.jobs.attempts import Failure
from shared.states import JobState, Priority, Scope
from tests.conftest import both_databases
from tests.support.jobs import CLAIMANT, DEMO, accepted, claimed, hold

BOTH = (Scope.READ, Scope.SUBMIT)


def dead(database: Database, *, retryable: bool = True, **values: Any) -> str:
    job = claimed(database, accepted(database, **values).id)
    attempts.fail(database, job.id, job.attempt, Failure("worker_lost", "It died", retryable))
    return job.id


@both_databases
def test_dead_jobs_are_listed_and_redriven_once(client: TestClient, database: Database) -> None:
    owner, secret = keys.make(database, "mine", BOTH, Limits(queued_jobs=2))
    _, boss = keys.make(database, "boss", (Scope.ADMIN,), Limits())
    mine, admin = ({"Authorization": f"Bearer {one}"} for one in (secret, boss))
    first, second, third = (dead(database, owner=owner.id, metadata={"set": name}) for name in "aab")
    dead(database, owner=owner.id, retryable=False)
    foreign = dead(database)
    listed = client.get("/api/v1/jobs/dead", headers=mine).json()
    assert [one["id"] for one in listed["data"]] == [third, second, first]
    assert foreign in [one["id"] for one in client.get("/api/v1/jobs/dead", headers=admin).json()["data"]]
    url = "/api/v1/jobs/dead/redrive"
    counted = client.post(url, json={"metadata": {"set": "a"}, "dry_run": True}, headers=mine).json()
    assert (counted["matched"], counted["redriven"]) == (2, [])
    made = client.post(url, json={"model_id": "T2V-A14B"}, headers=admin).json()
    assert made["matched"] == 4
    assert [one["id"] for one in made["redriven"]] == [first, second, foreign]
    assert [(one["id"], one["code"]) for one in made["refused"]] == [(third, "limit_reached")], "the owner's own limit"
    repeated = records.get(database, made["redriven"][0]["retry_id"])
    assert (repeated.owner, repeated.retry_of, repeated.status) == (owner.id, first, JobState.QUEUED)
    assert [one["id"] for one in client.get("/api/v1/jobs/dead", headers=mine).json()["data"]] == [third]
    assert client.post(url, json={"error_code": "other"}, headers=mine).json()["redriven"] == []
    records.request_cancel(database, repeated.id)
    assert [one["id"] for one in client.post(url, json={}, headers=mine).json()["redriven"]] == [third]


@both_databases
def test_a_new_priority_moves_a_job_to_its_line_and_recalls_it(client: TestClient, database: Database) -> None:
    hold(database, *DEMO.model_ids)
    urgent = accepted(database, priority=Priority.HIGH)
    job = accepted(database)
    dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
    answer = client.patch(f"/api/v1/jobs/{job.id}", json={"priority": "high"})
    assert (answer.status_code, answer.json()["priority"]) == (200, "high")
    row = records.get(database, job.id)
    assert (row.line, row.dispatched_to) == (urgent.line, None)
    assert attempts.claim(database, job.id, CLAIMANT, 60.0) is None, "its message is stale"
    assert client.patch(f"/api/v1/jobs/{job.id}", json={"priority": "none"}).status_code == 422
    claimed(database, job.id)
    assert client.patch(f"/api/v1/jobs/{job.id}", json={"priority": "low"}).status_code == 409


def test_a_new_priority_is_under_the_ceiling_of_the_key(client: TestClient, database: Database) -> None:
    owner, secret = keys.make(database, "mine", BOTH, Limits(priority_ceiling=Priority.NORMAL))
    job = accepted(database, owner=owner.id)
    refused = client.patch(
        f"/api/v1/jobs/{job.id}", json={"priority": "high"}, headers={"Authorization": f"Bearer {secret}"}
    )
    assert (refused.status_code, refused.json()["errors"][0]["type"]) == (422, "over_ceiling")
