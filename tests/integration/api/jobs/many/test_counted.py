"""Generations with `count`: one transaction, one key, all limits; and where it is refused."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient

from shared.access import keys
from shared.access.keys import Limits
from shared.catalogue.resolving import resolve
from shared.clock import now
from shared.database.engine import Database
from shared.errors import StoreFull
from shared.jobs import records
from shared.jobs.reading import lists
from shared.settings import Settings
from shared.states import Scope
from shared.storage.directory import DirectoryStore
from tests.conftest import both_databases
from tests.integration.api.jobs.generation_requests import GOOD, URL, data_url, picture
from tests.support.jobs import DEMO
from tests.support.uses import used
from wanworks.requests import MAX_SEED, GenerationRequest

BOTH = (Scope.READ, Scope.SUBMIT)


def errors(answer: Any) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    return {".".join(map(str, one["loc"][1:])): one["msg"] for one in answer.json()["errors"]}


def count_of(database: Database) -> int:
    return len(lists.page(database, limit=100).jobs)


@both_databases
def test_the_response_is_the_first_job_and_names_all(client: TestClient, database: Database) -> None:
    answer = client.post(URL, json={**GOOD, "count": 3, "seed": 40, "metadata": {"shot": "12"}})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/api/v1/batches/{job['batch_id']}"
    assert (len(job["job_ids"]), job["job_ids"][0], job["status"]) == (3, job["id"], "queued")
    shown = [client.get(f"/api/v1/jobs/{one}").json() for one in job["job_ids"]]
    assert [one["params"]["seed"] for one in shown] == [40, 41, 42]
    assert {one["batch_id"] for one in shown} == {job["batch_id"]}
    assert {one["metadata"]["shot"] for one in shown} == {"12"}
    rows = [records.get(database, one) for one in job["job_ids"]]
    assert len({row.memory_needs for row in rows}) == len({row.line for row in rows}) == 1
    batch = client.get(answer.headers["location"]).json()
    assert (batch["total"], [one["id"] for one in batch["jobs"]]) == (3, job["job_ids"])


def test_one_is_a_job_as_ever(client: TestClient) -> None:
    answer = client.post(URL, json={**GOOD, "count": 1})
    assert answer.headers["location"] == f"/api/v1/jobs/{answer.json()['id']}"
    assert answer.json()["batch_id"] is None
    assert "job_ids" not in answer.json()


def test_a_random_first_seed_leaves_room_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.randrange", lambda below: below - 1)
    request = GenerationRequest(model_id="T2V-A14B", prompt="a cat", count=16)
    assert resolve(request, DEMO.get("T2V-A14B"), None).seed == MAX_SEED - 15


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"count": 0}, "count", "must be at least 1, not 0"),
        ({"count": 17}, "count", "must be at most 16, not 17"),
        ({"count": "3"}, "count", "must be a whole number, not '3'"),
        ({"count": 3, "seed": MAX_SEED - 1}, "seed", f"allowed: at most {MAX_SEED - 2}"),
    ],
)
def test_what_is_refused(client: TestClient, nothing_stored: None, fields: Any, field: str, says: str) -> None:
    assert says in errors(client.post(URL, json={**GOOD, **fields}))[field]


def test_it_is_for_no_job_of_a_batch_or_flow(client: TestClient, database: Database) -> None:
    job = {"params": {**GOOD, "count": 2}}
    assert "a job for each seed" in errors(client.post("/api/v1/batches", json={"jobs": [job]}))["jobs.0.params.count"]
    flow = {"jobs": [{"name": "a", **job}]}
    assert "a job for each seed" in errors(client.post("/api/v1/flows", json=flow))["jobs.0.params.count"]
    refused = client.post("/v1/videos", json={"model": "wan2.2-t2v-a14b", "prompt": "a cat", "count": 2})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "count")
    assert count_of(database) == 0
    assert client.post("/api/v1/batches", json={"jobs": [{"params": {**GOOD, "count": 1}}]}).status_code == 202


# --- idempotency


@both_databases
def test_a_key_stands_for_one_request_whatever_its_count(client: TestClient, database: Database) -> None:
    body, key = {**GOOD, "count": 3}, {"Idempotency-Key": "order 17"}
    first = client.post(URL, json=body, headers=key)
    again = client.post(URL, json=body, headers=key)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert (again.json()["id"], again.json()["job_ids"]) == (first.json()["id"], first.json()["job_ids"])
    for other in ({**body, "count": 2}, {**body, "count": 1}, GOOD, {**body, "prompt": "a dog"}):
        assert "Idempotency-Key" in errors(client.post(URL, json=other, headers=key))
    assert count_of(database) == 3
    single = {"Idempotency-Key": "order 18"}
    assert client.post(URL, json=GOOD, headers=single).status_code == 202
    assert "Idempotency-Key" in errors(client.post(URL, json=body, headers=single))
    assert count_of(database) == 4


@both_databases
def test_concurrent_requests_with_one_key_make_one_batch(client: TestClient, database: Database) -> None:
    def submit(_place: int) -> Any:
        return client.post(URL, json={**GOOD, "count": 4}, headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(submit, range(12)))
    assert sorted(answer.status_code for answer in answers) == [200] * 11 + [202]
    assert len({tuple(answer.json()["job_ids"]) for answer in answers}) == 1
    assert count_of(database) == 4


# --- pictures


def test_each_job_has_pictures_of_its_own(client: TestClient, database: Database, settings: Settings) -> None:
    body = {**GOOD, "model_id": "I2V-A14B", "image": data_url(picture()), "last_image": data_url(picture()), "count": 3}
    key = {"Idempotency-Key": "k"}
    job = client.post(URL, json=body, headers=key).json()
    assert client.post(URL, json=body, headers=key).status_code == 200, "a replay leaves no further pictures"
    inputs = settings.store_dir / "inputs"
    assert sorted(folder.name for folder in inputs.iterdir()) == sorted(job["job_ids"])
    for one in job["job_ids"]:
        assert records.get(database, one).params["image"] == f"{one}/image.png"
        assert sorted(file.name for file in (inputs / one).iterdir()) == ["image.png", "last-image.png"]
    client.delete(f"/api/v1/jobs/{job['id']}")
    assert len(list(inputs.iterdir())) == 2


def test_a_store_that_fills_up_on_the_way_keeps_nothing(
    client: TestClient, nothing_stored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, calls = DirectoryStore.copy_input, []

    def second_fails(store: DirectoryStore, *rest: Any) -> str:
        calls.append(rest)
        if len(calls) == 2:
            raise StoreFull("full")
        return copy(store, *rest)

    monkeypatch.setattr(DirectoryStore, "copy_input", second_fails)
    body = {**GOOD, "model_id": "I2V-A14B", "image": data_url(picture()), "count": 4}
    assert client.post(URL, json=body).status_code == 507


# --- limits of a key, and dry runs


def header_of(database: Database, **limits: Any) -> tuple[str, dict[str, str]]:
    row, secret = keys.make(database, f"k{len(keys.every(database))}", BOTH, Limits(**limits))
    return row.id, {"Authorization": f"Bearer {secret}"}


@both_databases
def test_the_limit_of_queued_jobs_holds_for_all_or_none(client: TestClient, database: Database) -> None:
    _, header = header_of(database, queued_jobs=4)
    assert client.post(URL, json=GOOD, headers=header).status_code == 202
    body = {**GOOD, "count": 4}
    dry = client.post(URL, json=body, params={"dry_run": "true"}, headers=header)
    refused = client.post(URL, json=body, headers=header)
    for answer in (dry, refused):
        assert answer.status_code == 429
        assert "room for 3 of the 4 jobs" in answer.json()["detail"]
    assert count_of(database) == 1
    assert client.post(URL, json={**GOOD, "count": 3}, headers=header).status_code == 202


def test_gpu_seconds_count_all_jobs_before_the_last(client: TestClient, database: Database) -> None:
    owner, header = header_of(database, gpu_seconds_per_day=25.0)
    used(database, owner=owner, finished_at=now(), seconds=10.0)
    assert client.post(URL, json={**GOOD, "count": 3}, headers=header).status_code == 429
    assert count_of(database) == 0
    assert client.post(URL, json={**GOOD, "count": 2}, headers=header).status_code == 202


def test_a_dry_run_tells_the_cost_of_all(client: TestClient, database: Database) -> None:
    used(database, finished_at=now(), seconds=11.0, warm=False)
    one, four = (client.post(URL, json={**GOOD, "count": count}, params={"dry_run": "true"}).json() for count in (1, 4))
    assert (one["count"], four["count"]) == (1, 4)
    assert one["cost"]["generation_seconds"] == four["cost"]["generation_seconds"] == 10.0
    assert four["cost"]["gpu_seconds"] == pytest.approx(one["cost"]["loading_seconds"] + 40.0)
    assert "4 videos" in four["cost"]["how"]
    assert count_of(database) == 0
