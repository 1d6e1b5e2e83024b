"""Jobs that no registered device has the memory for, over HTTP."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Device
from shared.jobs import records
from shared.settings import Settings
from tests.conftest import both_databases
from tests.support.models import library

URL = "/api/v1/jobs/generation"
WISH = {"model_id": "T2V-A14B", "prompt": "a boat at sea"}


@pytest.fixture
def client(settings: Settings, make_client: Any) -> TestClient:
    """The API with the published models."""
    return make_client(Settings(**{**settings.model_dump(), "catalogue": "default"}))


def host_memory(database: Database, megabytes: int, name: str = "here") -> None:
    with database.write() as session:
        node = nodes._locked(session, name)
        node.memory_mb = megabytes
        session.add(node)


@both_databases
def test_a_host_of_24_gib_without_a_gpu(settings: Settings, database: Database, make_client: Any) -> None:
    client = make_client(Settings(**{**settings.model_dump(), "catalogue": "default"}))
    library.node(database)
    library.device(database, kind="cpu", memory_mb=25_769)
    answer = client.post(URL, json=WISH)
    body = answer.json()
    assert (answer.status_code, body["code"]) == (422, "not_enough_memory")
    (missing,) = body["missing"]
    assert missing["device"] == "here/0"
    assert missing["host_memory_mb"] > 100_000
    assert "GB of host memory is missing" in body["detail"]
    for one in body["alternatives"]:
        assert client.post(URL, json=one["request"]).status_code == 202
    if not body["alternatives"]:
        assert "No smaller size" in body["detail"]


def test_each_alternative_is_accepted_as_it_is(client: TestClient, database: Database) -> None:
    library.node(database)
    library.device(database, memory_mb=17_180)
    wish = {**WISH, "resolution": "1920x1080", "frames": 81, "seed": 7, "quantization": "none", "metadata": {"a": "b"}}
    body = client.post(URL, json=wish).json()
    assert body["code"] == "not_enough_memory"
    assert body["missing"][0]["device_memory_mb"] > 0
    kinds = [frozenset(one["changes"]) for one in body["alternatives"]]
    assert {"resolution"} in kinds
    for one in body["alternatives"]:
        answer = client.post(URL, json=one["request"])
        assert answer.status_code == 202, answer.text
        assert answer.json()["params"]["seed"] == 7
        assert answer.json()["metadata"] == {"a": "b"}


def test_the_first_alternative_is_taken_by_a_job_with_that_fallback(client: TestClient, database: Database) -> None:
    library.node(database)
    library.device(database, memory_mb=17_180)
    library.replica(database)
    wish = {**WISH, "resolution": "1920x1080", "frames": 81}
    first = client.post(URL, json=wish).json()["alternatives"][0]["changes"]
    job = client.post(URL, json={**wish, "fallback": ["reduce_requirements"]}).json()
    assert {name: job["params"][name] for name in first} == first
    (applied,) = job["fallback_applied"]
    assert {change["field"] for change in applied["changes"]} == set(first)


@pytest.mark.parametrize("state", ["silent", "drained"])
def test_a_fitting_device_that_is_away_is_waited_for(client: TestClient, database: Database, state: str) -> None:
    library.node(database)
    library.device(database, memory_mb=85_520)
    if state == "silent":
        nodes.deregister_device(database, "here/0", 1)
    else:
        nodes.drain(database, "here")
    library.node(database, "small")
    library.device(database, on="small", memory_mb=8_000)
    answer = client.post(URL, json=WISH)
    assert answer.status_code == 202
    job = client.get(answer.headers["location"]).json()
    assert job["waiting_for"]["reason"] in ("device", "model")


def test_a_removed_node_does_not_count(client: TestClient, database: Database) -> None:
    library.node(database)
    library.device(database, memory_mb=8_000)
    assert client.post(URL, json=WISH).status_code == 422
    with database.write() as session:
        session.delete(session.get_one(Device, "here/0"))
    assert client.post(URL, json=WISH).status_code == 202, "with no device at all it waits for the first"


def test_a_device_that_has_just_registered_counts(client: TestClient, database: Database) -> None:
    library.node(database)
    library.device(database, memory_mb=8_000)
    assert client.post(URL, json=WISH).status_code == 422
    library.device(database, index=1, memory_mb=85_520)
    assert client.post(URL, json=WISH).status_code == 202


def test_host_memory_counts(client: TestClient, database: Database) -> None:
    library.node(database)
    library.device(database, memory_mb=25_769)
    host_memory(database, 32_000)
    body = client.post(URL, json=WISH).json()
    assert body["code"] == "not_enough_memory"
    assert (body["missing"][0]["device_memory_mb"], body["missing"][0]["host_memory_mb"] > 30_000) == (0, True)


def test_any_accepts_what_fits_nothing(settings: Settings, database: Database, make_client: Any) -> None:
    client = make_client(Settings(**{**settings.model_dump(), "catalogue": "default", "admission": "any"}))
    library.node(database)
    library.device(database, memory_mb=8_000)
    library.replica(database)
    job = client.get(client.post(URL, json=WISH).headers["location"]).json()
    assert job["waiting_for"]["reason"] == "memory"
    assert "it needs at least" in job["waiting_for"]["detail"]


def test_placeholder_output_needs_no_memory(client: TestClient, database: Database) -> None:
    library.node(database)
    library.device(database, memory_mb=8_000)
    job = client.post(URL, json={**WISH, "fallback": ["mock_generation"]}).json()
    assert job["mock"]
    assert records.get(database, job["id"]).memory_needs == ""


def test_the_openai_convention_names_it_too(client: TestClient, database: Database) -> None:
    library.node(database)
    library.device(database, memory_mb=8_000)
    answer = client.post("/v1/videos", json={"model": "wan2.2-t2v-a14b", "prompt": "a boat"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_enough_memory")
