"""Attempts to bypass limits and the audit."""

import pytest
from starlette.testclient import TestClient

from shared import clock
from shared.access import audit
from shared.database.engine import Database
from shared.database.tables import Job, Use
from shared.jobs import records
from shared.jobs.ending import ends, webhooks
from shared.jobs.ids import new_id
from shared.jobs.usage import gpu_time
from shared.settings import Settings
from shared.states import JobState, Priority
from shared.storage.directory import DirectoryStore
from tests.conftest import both_databases
from tests.integration.api.access.scopes import ADMIN, READ
from tests.integration.api.access.signing_in import PIN, Key
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.support import working
from tests.support.jobs import accepted

# --- limits -----------------------------------------------------------------------------------------------------------


def measured(database: Database, job: Job) -> None:
    """Store that a similar job took five seconds."""
    now = clock.now()
    use = ends.use_of(job, JobState.SUCCEEDED, now, {"timings": {"denoising": 5.0}, "warm": True})
    with database.write() as session:
        session.add(Use(**{**use.model_dump(), "job_id": new_id(), "seconds": 5.0, "started_at": now, "owner": None}))


@both_databases
def test_queued_jobs_count_towards_the_gpu_seconds(client: TestClient, database: Database, key: Key) -> None:
    owner, header = key(gpu_seconds_per_day=12.0)
    headers = {**header, "Idempotency-Key": "the first"}
    first = client.post(URL, json=GOOD, headers=headers)
    assert first.status_code == 202
    measured(database, records.get(database, first.json()["id"]))
    assert gpu_time.awaited_gpu_seconds(database, owner) == pytest.approx(5.0)
    assert [client.post(URL, json=GOOD, headers=header).status_code for _ in range(3)] == [202, 202, 429]
    refused = client.post(URL, json=GOOD, headers=header)
    assert "queued jobs are expected to take 15 more" in refused.json()["detail"]
    again = client.post(URL, json=GOOD, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"]), (
        "a repeated request for an accepted job is not refused"
    )
    client.delete(f"/api/v1/jobs/{first.json()['id']}", headers=header)
    assert client.post(URL, json=GOOD, headers=header).status_code == 202


@both_databases
def test_no_route_bypasses_the_limit_of_queued_jobs(
    client: TestClient, database: Database, settings: Settings, key: Key
) -> None:
    owner, header = key(queued_jobs=1)
    store = DirectoryStore(settings.store_dir)
    done = working.claim(database, accepted(database, owner=owner).id)
    working.finish(database, done, working.make(store, done, {"video.mp4": b"x"}))
    assert client.post(URL, json=GOOD, headers=header).status_code == 202
    assert client.post(f"/api/v1/jobs/{done.id}/retry", headers=header).status_code == 429
    assert client.post(f"/v1/videos/{done.id}/remix", json={"prompt": "a dog"}, headers=header).status_code == 429
    words = {"prompt": "a dog", "model": "T2V-A14B", "size": "64x64"}
    assert client.post("/v1/videos", json=words, headers=header).status_code == 429


def test_forbidden_requests_count_towards_the_limit(client: TestClient, key: Key) -> None:
    _, header = key(READ, requests_per_minute=2)
    assert [client.post(PIN, headers=header).status_code for _ in range(3)] == [403, 403, 429]


def test_a_retry_does_not_bypass_the_maximum_priority(client: TestClient, database: Database, key: Key) -> None:
    owner, header = key(priority_ceiling=Priority.LOW)
    job = accepted(database, owner=owner, priority=Priority.CRITICAL)
    records.request_cancel(database, job.id)
    assert client.post(f"/api/v1/jobs/{job.id}/retry", headers=header).json()["priority"] == "low"


# --- the audit --------------------------------------------------------------------------------------------------------


def test_refused_and_failed_acts_are_in_the_audit_too(client: TestClient, database: Database, key: Key) -> None:
    (admin, admins), (reader, readers) = key(ADMIN), key(READ)
    client.post("/api/v1/models/NO-SUCH/pin", headers=admins)
    client.post("/api/v1/jobs/download", content=b"{", headers={**admins, "Content-Type": "application/json"})
    client.post(PIN, headers=readers)
    client.post(PIN)  # an unknown caller
    client.get("/api/v1/audit", headers=readers)
    entries = audit.page(database, limit=10).entries
    assert [(entry.act, entry.outcome, entry.key_id) for entry in entries] == [
        ("pinModel", 403, reader), ("createDownload", 400, admin), ("pinModel", 404, admin),
    ]  # fmt: skip


@both_databases
def test_every_path_of_an_act_is_audited(client: TestClient, database: Database, key: Key) -> None:
    reader, header = key(READ)
    answer = client.post("/api/v1/models/%00%1b[2J" + "x" * 300 + "/pin", headers=header)
    assert answer.status_code == 403
    (entry,) = audit.page(database, limit=5).entries
    assert (entry.key_id, entry.outcome) == (reader, 403)
    assert entry.subject.isprintable()
    audit.record(database, audit.Act("x", "x", 200, address="1" * 9000 + "\0", request_id="\0"))


@both_databases
@pytest.mark.parametrize("asked", ["/api/v1/audit?actor=%00", "/api/v1/webhooks/messages?job_id=%00"])
def test_text_that_no_database_stores_is_refused(client: TestClient, key: Key, asked: str) -> None:
    assert client.get(asked, headers=key(ADMIN)[1]).status_code == 422


def test_acts_on_other_callers_jobs_are_audited(
    client: TestClient, database: Database, settings: Settings, key: Key
) -> None:
    (owner, owners), (admin, admins) = key(), key(ADMIN)
    store = DirectoryStore(settings.store_dir)
    done = working.claim(database, accepted(database, owner=owner, webhook_url="https://receiver.example/h").id)
    working.finish(database, done, working.make(store, done, {"video.mp4": b"x"}))
    (message,) = webhooks.page(database, limit=1, after=None).messages
    webhooks.delivered(database, message, clock.now())
    job = f"/api/v1/jobs/{done.id}"
    acts = [
        ("linkArtifact", "POST", f"{job}/artifacts/video.mp4/link", 200),
        ("replayWebhookMessage", "POST", f"/api/v1/webhooks/messages/{message.id}/replay", 202),
        ("cancelJob", "POST", f"{job}/cancel", 409),
        ("retryJob", "POST", f"{job}/retry", 202),
        ("remixVideo", "POST", f"/v1/videos/{done.id}/remix", 200),
        ("deleteJob", "DELETE", job, 204),
    ]
    for header in (owners, admins):
        for act, method, path, status in acts[:-1] if header is owners else acts:
            if act == "replayWebhookMessage":
                webhooks.delivered(database, message, clock.now())
            body = {"prompt": "a dog"} if act == "remixVideo" else None
            answer = client.request(method, path, json=body, headers=header)
            assert answer.status_code == status, (act, answer.text)
    entries = audit.page(database, limit=20).entries
    assert [(one.act, one.outcome, one.key_id) for one in reversed(entries)] == [
        (act, status, admin) for act, _, _, status in acts
    ]


def test_reading_flowers_table_is_not_audited(client: TestClient, database: Database, key: Key) -> None:
    _, header = key(ADMIN)
    asked = {path: client.post(path, headers=header) for path in ("/flower/tasks/datatable", "/flower/api/x")}
    assert {answer.status_code for answer in asked.values()} == {503}, "Flower does not run here"
    assert [one.act for one in audit.page(database, limit=5).entries] == ["askFlower"]
