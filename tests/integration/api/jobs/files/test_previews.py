"""The preview of a running job over HTTP, and the message of the feed about it."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from shared.access import keys
from shared.access.keys import Limits
from shared.database.engine import Database
from shared.messaging.previews import Preview, Previews
from shared.messaging.progress import RestingRedis
from shared.settings import Settings
from shared.states import Scope
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.support import working

WEBP = b"RIFF....WEBP"


@pytest.fixture
def previews(settings: Settings) -> Previews:
    return Previews(RestingRedis(settings.redis))


def missing(answer: Any) -> str:
    assert answer.status_code == 404, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "no_preview"
    return str(answer.json()["detail"])


def test_the_latest_preview_of_the_attempt_that_runs(
    client: TestClient, database: Database, previews: Previews
) -> None:
    job = client.post(URL, json=GOOD).json()
    assert job["params"]["preview"] is True
    address = f"/api/v1/jobs/{job['id']}/preview"
    previews.put(job["id"], Preview(1, 2, 4, WEBP))
    assert "The job is queued" in missing(client.get(address))
    running = working.claim(database, job["id"])
    answer = client.get(address)
    assert (answer.status_code, answer.content) == (200, WEBP)
    assert (answer.headers["content-type"], answer.headers["cache-control"]) == ("image/webp", "no-store")
    assert client.get(address, params={"attempt": 1, "step": 2}).status_code == 200
    assert client.get(address, params={"size": 2}).status_code == 422
    previews.put(job["id"], Preview(running.attempt + 1, 2, 4, WEBP))
    assert "no preview yet" in missing(client.get(address)), "of another attempt"
    previews.drop(job["id"])
    assert "wanworks prepare" in missing(client.get(address))
    previews.put(job["id"], Preview(running.attempt, 2, 4, WEBP))
    working.finish(database, running, [])
    assert "The job is succeeded" in missing(client.get(address))


def test_only_who_may_see_the_job_sees_its_preview(client: TestClient, database: Database, previews: Previews) -> None:
    scopes = (Scope.READ, Scope.SUBMIT)
    headers = [{"Authorization": f"Bearer {keys.make(database, name, scopes, Limits())[1]}"} for name in ("a", "b")]
    job = client.post(URL, json=GOOD, headers=headers[0]).json()
    working.claim(database, job["id"])
    previews.put(job["id"], Preview(1, 2, 4, WEBP))
    address = f"/api/v1/jobs/{job['id']}/preview"
    assert client.get(address, headers=headers[0]).status_code == 200
    refused = client.get(address, headers=headers[1])
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")


def test_the_field_is_validated_and_kept(client: TestClient) -> None:
    job = client.post(URL, json={**GOOD, "preview": False}).json()
    assert job["params"]["preview"] is False
    client.post(f"/api/v1/jobs/{job['id']}/cancel")
    assert client.post(f"/api/v1/jobs/{job['id']}/retry").json()["params"]["preview"] is False
    assert client.post(URL, json={**GOOD, "preview": "no"}).status_code == 422
