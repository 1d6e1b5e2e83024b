"""Accepted jobs over HTTP: cancel, retry, delete."""

from datetime import timedelta

import pytest
from PIL import Image
from starlette.testclient import TestClient

from scheduler import ticks
from shared.database.engine import Database
from shared.errors import NotFound, StoreUnavailable
from shared.jobs import attempts, records
from shared.messaging.progress import Progress, RestingRedis, connect, stream_key
from shared.settings import Settings
from shared.storage.directory import DirectoryStore
from tests.conftest import both_databases
from tests.integration.api.jobs.generation_requests import GOOD, URL, data_url, picture
from tests.integration.api.jobs.submitted_jobs import JOBS, get, submit
from tests.support import working

# --- cancel


@both_databases
def test_a_queued_job_is_cancelled_at_once(client: TestClient, redis_url: str) -> None:
    job_id = submit(client)["id"]
    answer = client.post(f"{JOBS}/{job_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    assert answer.json()["finished_at"] is not None
    again = client.post(f"{JOBS}/{job_id}/cancel")
    assert (again.status_code, again.json()["finished_at"]) == (202, answer.json()["finished_at"])
    assert connect(redis_url, timeout=5).xlen(stream_key(job_id)) == 1, "one end is reported, once"


@both_databases
def test_cancelling_a_running_job_requests_a_stop(client: TestClient, database: Database, settings: Settings) -> None:
    job_id = submit(client)["id"]
    working.claim(database, job_id)
    answer = client.post(f"{JOBS}/{job_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    assert attempts.renew(database, job_id, 1, 60).cancel, "the row has the cancellation"
    reported = Progress(RestingRedis(settings.redis, timeout=5)).report(job_id, {"kind": "progress", "attempt": 1})
    assert reported, "Redis knows the cancellation"


@both_databases
def test_a_finished_job_cannot_be_cancelled(client: TestClient, database: Database) -> None:
    job_id = submit(client)["id"]
    working.finish(database, working.claim(database, job_id), [])
    answer = client.post(f"{JOBS}/{job_id}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert get(client, job_id)["status"] == "succeeded"


# --- retry


@both_databases
def test_a_retry_is_a_new_job_with_the_same_parameters(client: TestClient) -> None:
    first = submit(client, metadata={"a": "b"}, priority="low")
    client.post(f"{JOBS}/{first['id']}/cancel")
    answer = client.post(f"{JOBS}/{first['id']}/retry")
    assert answer.status_code == 202
    second = answer.json()
    assert second["id"] != first["id"]
    assert second["retry_of"] == first["id"]
    assert (second["params"], second["metadata"], second["priority"]) == (first["params"], {"a": "b"}, "low")
    assert answer.headers["location"] == f"{JOBS}/{second['id']}"


@both_databases
def test_a_job_names_the_newest_job_that_repeats_it(client: TestClient) -> None:
    first = submit(client)
    assert get(client, first["id"])["retried_as"] is None
    client.post(f"{JOBS}/{first['id']}/cancel")
    assert get(client, first["id"])["retried_as"] is None
    second, third = (client.post(f"{JOBS}/{first['id']}/retry").json()["id"] for _ in range(2))
    assert get(client, first["id"])["retried_as"] == third
    listed = {job["id"]: job["retried_as"] for job in client.get(JOBS).json()["data"]}
    assert listed == {first["id"]: third, second: None, third: None}
    for made in (second, third):
        client.post(f"{JOBS}/{made}/cancel")
    client.delete(f"{JOBS}/{third}")
    assert get(client, first["id"])["retried_as"] == second, "one that was deleted is none"


def test_a_retry_has_its_own_copy_of_the_image(client: TestClient, database: Database, settings: Settings) -> None:
    first = submit(client, model_id="I2V-A14B", image=data_url(picture()))
    client.post(f"{JOBS}/{first['id']}/cancel")
    second = client.post(f"{JOBS}/{first['id']}/retry").json()
    assert client.delete(f"{JOBS}/{first['id']}").status_code == 204
    stored = records.get(database, second["id"]).params["image"]
    assert Image.open(settings.store_dir / "inputs" / stored).size == (16, 16)


def test_a_retry_whose_image_is_gone_is_a_conflict(client: TestClient, settings: Settings) -> None:
    first = submit(client, model_id="I2V-A14B", image=data_url(picture()))
    client.post(f"{JOBS}/{first['id']}/cancel")
    DirectoryStore(settings.store_dir).drop_job(first["id"])
    answer = client.post(f"{JOBS}/{first['id']}/retry")
    assert answer.status_code == 409
    assert "image.png" not in answer.text
    assert list((settings.store_dir / "inputs").iterdir()) == []


def test_only_an_ended_job_can_be_retried(client: TestClient, database: Database) -> None:
    job_id = submit(client)["id"]
    assert client.post(f"{JOBS}/{job_id}/retry").status_code == 409
    working.claim(database, job_id)
    assert client.post(f"{JOBS}/{job_id}/retry").status_code == 409


def test_a_retry_with_a_key_is_created_once(client: TestClient) -> None:
    job_id = submit(client)["id"]
    client.post(f"{JOBS}/{job_id}/cancel")
    key = {"Idempotency-Key": "again"}
    first = client.post(f"{JOBS}/{job_id}/retry", headers=key)
    second = client.post(f"{JOBS}/{job_id}/retry", headers=key)
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["id"] == second.json()["id"]
    assert client.post(URL, json=GOOD, headers=key).status_code == 422


def test_a_retry_with_a_new_seed_makes_another_video_once(client: TestClient) -> None:
    first = submit(client, seed=7)
    client.post(f"{JOBS}/{first['id']}/cancel")
    again = f"{JOBS}/{first['id']}/retry"
    key = {"Idempotency-Key": "another"}
    made = client.post(f"{again}?new_seed=true", headers=key)
    assert made.status_code == 202, made.text
    second = made.json()
    assert second["params"]["seed"] != 7
    assert second["params"] == {**first["params"], "seed": second["params"]["seed"]}
    assert client.post(f"{again}?new_seed=true", headers=key).json()["id"] == second["id"]
    assert client.post(again, headers=key).status_code == 422, "another request under the same key"
    assert client.post(f"{again}?new_seed=maybe").status_code == 422


# --- delete


@both_databases
def test_an_ended_job_is_deleted_with_its_files(client: TestClient, database: Database, settings: Settings) -> None:
    job_id = submit(client, model_id="I2V-A14B", image=data_url(picture()))["id"]
    store = DirectoryStore(settings.store_dir)
    job = working.claim(database, job_id)
    working.report(settings.redis or "", job_id, 1, 10)
    working.finish(database, job, working.make(store, job, {"video.mp4": b"x"}))
    assert client.delete(f"{JOBS}/{job_id}").status_code == 204
    assert client.get(f"{JOBS}/{job_id}").status_code == 404
    assert client.delete(f"{JOBS}/{job_id}").status_code == 404
    assert client.get(JOBS).json()["data"] == []
    assert list(store.orphaned_files(older_than_seconds=-1)) == []
    assert records.winning_attempts(database, [job_id]) == {}
    redis = RestingRedis(settings.redis, timeout=5)
    assert redis.ask(lambda client: client.exists(stream_key(job_id))) == 0


def test_a_job_is_deleted_though_its_files_cannot_be_removed_yet(
    client: TestClient, database: Database, settings: Settings
) -> None:
    job_id = submit(client, model_id="I2V-A14B", image=data_url(picture()))["id"]
    working.finish(database, working.claim(database, job_id), [])

    def refuse(self: DirectoryStore, job_id: str) -> None:
        raise StoreUnavailable()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DirectoryStore, "drop_job", refuse)
        assert client.delete(f"{JOBS}/{job_id}").status_code == 204
    assert client.get(f"{JOBS}/{job_id}").status_code == 404
    assert records.winning_attempts(database, [job_id]), "the row stays until its files are gone"
    assert ticks.apply_retention(database, DirectoryStore(settings.store_dir), timedelta(days=30)) == "1 jobs removed"
    assert list(DirectoryStore(settings.store_dir).orphaned_files(older_than_seconds=-1)) == []


@both_databases
def test_deleting_a_running_job_hides_it_and_requests_a_stop(client: TestClient, database: Database) -> None:
    job_id = submit(client)["id"]
    working.claim(database, job_id)
    assert client.delete(f"{JOBS}/{job_id}").status_code == 204
    assert client.get(f"{JOBS}/{job_id}").status_code == 404
    assert client.post(f"{JOBS}/{job_id}/cancel").status_code == 404
    assert attempts.renew(database, job_id, 1, 60).cancel
    with pytest.raises(NotFound):
        records.get(database, job_id)
    attempts.cancelled(database, job_id, 1)
    assert records.winning_attempts(database, [job_id]) == {job_id: ("cancelled", 1)}, "purged by a later sweep"


def test_a_deleted_jobs_key_is_free_again(client: TestClient, database: Database) -> None:
    key = {"Idempotency-Key": "k"}
    first = client.post(URL, json=GOOD, headers=key).json()
    working.claim(database, first["id"])
    client.delete(f"{JOBS}/{first['id']}")
    second = client.post(URL, json={**GOOD, "prompt": "another"}, headers=key)
    assert second.status_code == 202
    assert second.json()["id"] != first["id"]
