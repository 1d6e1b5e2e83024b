"""Limits of a key: requests, queued jobs, GPU seconds and priority."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from shared import clock
from shared.access import keys
from shared.access.keys import Limits
from shared.database.engine import Database
from shared.jobs import accepting
from shared.jobs.ids import new_id
from shared.jobs.usage import gpu_time
from shared.settings import Settings
from shared.states import Priority
from shared.storage.directory import DirectoryStore
from tests.conftest import both_databases
from tests.integration.api.access.scopes import READ, SUBMIT, VIDEO
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.support import working
from tests.support.jobs import new_job


@pytest.fixture
def with_limits(client: TestClient, database: Database) -> Callable[..., dict[str, str]]:
    """Return the header with a new key that has these limits."""

    def make(**limits: Any) -> dict[str, str]:
        _, secret = keys.make(database, f"k{new_id()}", (READ, SUBMIT), Limits(**limits))
        return {"Authorization": f"Bearer {secret}"}

    return make


def test_requests_per_minute(client: TestClient, with_limits: Callable[..., dict[str, str]]) -> None:
    header, other = with_limits(requests_per_minute=3), with_limits(requests_per_minute=3)
    answers = [client.get("/api/v1/jobs", headers=header) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].json()["code"] == "limit_reached"
    assert 1 <= int(answers[3].headers["retry-after"]) <= 60
    assert client.get("/api/v1/jobs", headers=other).status_code == 200, "limits are separate for each key"


def test_requests_per_minute_without_redis(
    settings: Settings, database: Database, make_client: Callable[[Settings], TestClient]
) -> None:
    client = make_client(settings.model_copy(update={"redis_url": None}))
    _, secret = keys.make(database, "k", (READ,), Limits(requests_per_minute=2))
    header = {"Authorization": f"Bearer {secret}"}
    assert [client.get("/api/v1/jobs", headers=header).status_code for _ in range(3)] == [200, 200, 429]


@both_databases
def test_queued_jobs(client: TestClient, with_limits: Callable[..., dict[str, str]], database: Database) -> None:
    header = with_limits(queued_jobs=2)
    first, second, third = (client.post(URL, json=GOOD, headers=header) for _ in range(3))
    assert [one.status_code for one in (first, second, third)] == [202, 202, 429]
    assert "2 jobs queued" in third.json()["detail"]
    assert int(third.headers["retry-after"]) > 0
    video_error = client.post("/v1/videos", json=VIDEO, headers=header)
    assert (video_error.status_code, video_error.json()["error"]["type"]) == (429, "rate_limit_error")
    headers = {**header, "Idempotency-Key": "k"}
    assert client.post(URL, json=GOOD, headers=headers).status_code == 429
    client.delete(f"/api/v1/jobs/{first.json()['id']}", headers=header)
    assert client.post(URL, json=GOOD, headers=headers).status_code == 202
    assert client.post(URL, json=GOOD, headers=headers).status_code == 200, (
        "a repeated request for an accepted job is not refused"
    )


@both_databases
def test_many_at_once_do_not_pass_the_limit(database: Database) -> None:
    row, _ = keys.make(database, "k", (SUBMIT,), Limits(queued_jobs=5))
    outcome = accepting.accept(database, [new_job(owner=row.id, owner_may_queue=5) for _ in range(9)])
    assert sum(isinstance(one, accepting.Accepted) for one in outcome) == 5


def test_gpu_seconds_per_day(
    client: TestClient, with_limits: Callable[..., dict[str, str]], database: Database, settings: Settings
) -> None:
    header = with_limits(gpu_seconds_per_day=10.0)
    job_id = client.post(URL, json=GOOD, headers=header).json()["id"]
    job = working.claim(database, job_id)
    store = DirectoryStore(settings.store_dir)
    with database.write() as session:
        job.started_at = clock.now() - timedelta(seconds=30)
        session.merge(job)
    owner = job.owner
    assert owner is not None
    now = clock.now()
    assert 29 < gpu_time.gpu_seconds(database, owner, now - timedelta(hours=1), now) < 40, "running jobs count too"
    assert client.post(URL, json=GOOD, headers=header).status_code == 429
    working.finish(database, job, working.make(store, job, {"video.mp4": b"x"}))
    answer = client.post(URL, json=GOOD, headers=header)
    assert answer.status_code == 429
    assert "GPU-seconds" in answer.json()["detail"]
    assert 0 < int(answer.headers["retry-after"]) <= 86_400


def test_a_maximum_priority(client: TestClient, with_limits: Callable[..., dict[str, str]], database: Database) -> None:
    header = with_limits(priority_ceiling=Priority.LOW)
    refused = client.post(URL, json={**GOOD, "priority": "high"}, headers=header)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["body", "priority"]
    made = client.post(URL, json=GOOD, headers=header)
    assert made.json()["priority"] == "low", "a default priority is lowered to the maximum of the key"
