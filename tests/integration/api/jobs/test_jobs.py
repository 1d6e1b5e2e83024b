"""Accepted jobs over HTTP: read, list, wait."""

import threading
import time
from typing import Any

import pytest
from starlette.testclient import TestClient

from shared.database.engine import Database
from shared.errors import DatabaseUnavailable
from shared.jobs import attempts
from shared.jobs.attempts import Failure
from shared.jobs.reading import lists as job_lists
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings
from shared.storage.directory import DirectoryStore
from tests.conftest import RedisServer, both_databases
from tests.integration.api.jobs.generation_requests import URL
from tests.integration.api.jobs.submitted_jobs import JOBS, NO_JOB, get, submit
from tests.support import working


@both_databases
def test_a_job_from_its_claim_to_its_end(client: TestClient, database: Database, settings: Settings) -> None:
    job_id = submit(client)["id"]
    store = DirectoryStore(settings.store_dir)
    claimed = working.claim(database, job_id)
    running = get(client, job_id)
    assert (running["status"], running["attempt"], running["queue_position"]) == ("running", 1, None)
    assert (running["node"], running["worker"], running["device"]) == ("here", "gpu-0@here", "cpu-0")
    assert running["started_at"].endswith("Z")
    assert running["progress"]["phase"] == "loading"

    working.report(settings.redis or "", job_id, 1, 40.0, step=2, steps=5, eta_seconds=3.5)
    progress = get(client, job_id)["progress"]
    assert (progress["percent"], progress["phase"], progress["step"], progress["steps"]) == (40, "denoising", 2, 5)
    assert progress["eta_seconds"] == 3.5
    assert progress["bytes_done"] is None

    described = working.make(store, claimed, {"video.mp4": b"moving", "thumbnail.jpg": b"still"})
    working.finish(database, claimed, described)
    ended = get(client, job_id)
    assert (ended["status"], ended["progress"]["percent"]) == ("succeeded", 100)
    result = ended["result"]
    assert [artifact["name"] for artifact in result["artifacts"]] == ["video.mp4", "thumbnail.jpg"]
    assert client.get(result["artifacts"][0]["url"]).content == b"moving"
    assert result["manifest"] == {"repo": "wanworks-demo/T2V-A14B"}
    assert result["peak_vram_mb"] is None, "not measured"
    assert result["quality"] == working.QUALITY


def test_percent_never_goes_back_within_an_attempt(client: TestClient, database: Database, settings: Settings) -> None:
    job_id = submit(client)["id"]
    working.claim(database, job_id)
    assert settings.redis is not None
    working.report(settings.redis, job_id, 1, 60)
    assert get(client, job_id)["progress"]["percent"] == 60
    working.report(settings.redis, job_id, 1, 50)
    assert get(client, job_id)["progress"]["percent"] == 60
    Progress(RestingRedis(settings.redis)).forget(job_id)
    assert get(client, job_id)["progress"]["percent"] == 60, "Redis lost its data"
    attempts.give_back(database, job_id, 1)
    assert get(client, job_id)["progress"]["percent"] == 60, "the last progress is kept"
    working.claim(database, job_id)
    assert get(client, job_id)["progress"]["percent"] == 0, "another attempt"


def test_progress_does_not_go_back_without_redis(
    settings: Settings, database: Database, redis_server: RedisServer, make_client: Any
) -> None:
    client = make_client(Settings(**{**settings.model_dump(), "redis_url": redis_server.url}))
    job_id = submit(client)["id"]
    working.claim(database, job_id)
    working.report(redis_server.url, job_id, 1, 33)
    assert get(client, job_id)["progress"]["percent"] == 33
    redis_server.kill()
    started = time.monotonic()
    assert [get(client, job_id)["progress"]["percent"] for _ in range(3)] == [33, 33, 33]
    assert time.monotonic() - started < 2, "a missing Redis slows nothing"


def test_a_failure_is_shown(client: TestClient, database: Database) -> None:
    job_id = submit(client)["id"]
    working.claim(database, job_id)
    attempts.fail(database, job_id, 1, Failure("out_of_memory", "no room on the device", retryable=True))
    job = get(client, job_id)
    assert job["status"] == "failed"
    assert job["error"] == {"code": "out_of_memory", "message": "no room on the device", "retryable": True}


# --- lists


def all_pages(client: TestClient, query: str) -> list[str]:
    ids: list[str] = []
    after = ""
    while True:
        page = client.get(f"{JOBS}?{query}{after}").json()
        ids += [job["id"] for job in page["data"]]
        assert (page["next"] is not None) == page["has_more"]
        if not page["has_more"]:
            return ids
        after = f"&after={page['next']}"


@both_databases
def test_lists_are_newest_first_and_paged(client: TestClient) -> None:
    made = [submit(client)["id"] for _ in range(7)]
    assert all_pages(client, "limit=3") == made[::-1]
    assert all_pages(client, "limit=7") == made[::-1]
    assert len(client.get(JOBS).json()["data"]) == 7


@both_databases
def test_lists_are_filtered(client: TestClient) -> None:
    first = submit(client)
    time.sleep(0.002)
    second = submit(client, model_id="TI2V-5B")
    client.post(f"{JOBS}/{first['id']}/cancel")
    assert all_pages(client, "status=cancelled") == [first["id"]]
    assert all_pages(client, "status=queued") == [second["id"]]
    assert all_pages(client, "model_id=TI2V-5B") == [second["id"]]
    assert all_pages(client, "model_id=none-such") == []
    assert all_pages(client, "type=generation") == [second["id"], first["id"]]
    assert all_pages(client, f"created_after={first['created_at']}")[0] == second["id"]
    assert all_pages(client, "created_after=2999-01-01T00:00:00%2B01:00") == []


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("after=nonsense", "after"), ("after=", "after"), (f"after={NO_JOB.upper()}", "after"),
        ("limit=0", "limit"), ("limit=101", "limit"), ("limit=ten", "limit"), ("limit=1_0", "limit"),
        ("limit=%2B5", "limit"), ("limit=5.0", "limit"), ("limit=\u0665", "limit"), ("limit=" + "9" * 5000, "limit"),
        ("status=done", "status"), ("type=dance", "type"), ("model_id=", "model_id"), ("model_id=%00", "model_id"),
        ("model_id=" + "x" * 65, "model_id"), ("created_after=yesterday", "created_after"),
        ("created_after=0", "created_after"), ("created_after=2026-01-01", "created_after"),
        ("created_after=2026-01-01T00:00:00", "created_after"),
        ("created_after=2026-13-01T00:00:00Z", "created_after"),
        ("created_after=0001-01-01T00:00:00%2B14:00", "created_after"),
        ("limit=1&limit=2", "limit"), ("colour=red", "colour"), ("=x", ""),
    ],
)  # fmt: skip
def test_an_invalid_query_parameter_is_reported(client: TestClient, query: str, name: str) -> None:
    answer = client.get(f"{JOBS}?{query}")
    assert answer.status_code == 422, answer.text
    assert [error["loc"] for error in answer.json()["errors"]] == [["query", name]]


@pytest.mark.parametrize("job_id", ["x", NO_JOB, NO_JOB.upper(), "%2e%2e", "%00", "a" * 5000, NO_JOB + "%0a", "\u00e9"])
@pytest.mark.parametrize(
    ("method", "rest"),
    [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", "/retry"), ("GET", "/events"), ("GET", "/artifacts/x")],
)
def test_a_missing_job(client: TestClient, method: str, rest: str, job_id: str) -> None:
    answer = client.request(method, f"{JOBS}/{job_id}{rest}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_allow_lists_every_method_of_a_path(client: TestClient) -> None:
    answer = client.put(f"{JOBS}/{NO_JOB}")
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "DELETE", "PATCH"}
    answer = client.get(URL)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["code"] == "method_not_allowed"


def test_head_is_supported_where_get_is(client: TestClient) -> None:
    job_id = submit(client)["id"]
    for path in (JOBS, f"{JOBS}/{job_id}", "/healthz", "/readyz", "/openapi.json", "/docs"):
        assert client.head(path).status_code == 200


def test_the_request_id_is_returned(client: TestClient) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    drawn = client.get("/healthz", headers={"X-Request-ID": "two words"}).headers["x-request-id"]
    assert len(drawn) == 24
    missing = client.get("/nowhere")
    assert (missing.status_code, missing.json()["request_id"]) == (404, missing.headers["x-request-id"])


# --- waiting


def test_a_long_poll_is_answered_when_the_job_ends(client: TestClient, database: Database, settings: Settings) -> None:
    job_id = submit(client)["id"]
    job = working.claim(database, job_id)

    def end() -> None:
        working.report(settings.redis or "", job_id, 1, 50)
        working.publish(settings.redis or "", working.finish(database, job, []))

    timer = threading.Timer(0.3, end)
    timer.start()
    started = time.monotonic()
    answer = client.get(f"{JOBS}/{job_id}", headers={"Prefer": "wait=30"})
    assert answer.json()["status"] == "succeeded"
    assert 0.25 < time.monotonic() - started < 3, "at once, not at the next pass"
    assert answer.headers["preference-applied"] == "wait=30"
    timer.join()
    again = client.get(f"{JOBS}/{job_id}", headers={"Prefer": "wait=30"})
    assert again.json()["status"] == "succeeded"


def test_a_long_poll_ends_after_its_time(client: TestClient) -> None:
    job_id = submit(client)["id"]
    started = time.monotonic()
    assert client.get(f"{JOBS}/{job_id}", headers={"Prefer": "wait=1"}).json()["status"] == "queued"
    assert 0.9 < time.monotonic() - started < 2.5
    assert client.get(f"{JOBS}/{job_id}", headers={"Prefer": "wait=soon"}).status_code == 200


def test_a_long_poll_without_redis(settings: Settings, database: Database, make_client: Any) -> None:
    client = make_client(Settings(**{**settings.model_dump(), "redis_url": None}))
    job_id = submit(client)["id"]
    job = working.claim(database, job_id)
    timer = threading.Timer(0.3, lambda: working.finish(database, job, []))
    timer.start()
    started = time.monotonic()
    answer = client.get(f"{JOBS}/{job_id}", headers={"Prefer": "wait=30"})
    assert answer.json()["status"] == "succeeded"
    assert time.monotonic() - started < 4
    timer.join()


# --- slow lists


def test_slow_lists_do_not_use_up_all_threads(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = submit(client)["id"]
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slow(*_: Any, **__: Any) -> Any:
        begun.release()
        go_on.wait(60)
        raise DatabaseUnavailable()

    monkeypatch.setattr(job_lists, "page", slow)
    lists = [threading.Thread(target=client.get, args=(JOBS,)) for _ in range(60)]  # more than there are threads
    for one in lists:
        one.start()
    try:
        assert begun.acquire(timeout=30)
        while begun.acquire(timeout=1):  # until no more of them get a thread
            pass
        cancelled: list[int] = []
        asking = threading.Thread(
            target=lambda: cancelled.append(client.post(f"{JOBS}/{job_id}/cancel").status_code), daemon=True
        )
        asking.start()
        asking.join(20)
        assert cancelled == [202]
        assert any(one.is_alive() for one in lists)
    finally:
        go_on.set()
        for one in lists:
            one.join(60)
