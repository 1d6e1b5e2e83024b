"""Fallback: every field of the suggestions, and strategies applied to generation requests."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from shared.database.engine import Database
from shared.jobs import attempts, download_control, records
from shared.settings import Settings
from tests.conftest import both_databases
from tests.integration.api.jobs.generation_requests import GOOD, data_url, picture
from tests.integration.api.jobs.generation_requests import URL as GENERATE
from tests.support import working
from tests.support.models import library
from tests.support.uses import used

URL = "/api/v1/models/fallback/suggest"


def suggest(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post(URL, json={"requested_model": "T2V-A14B", **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def generate(client: TestClient, *strategies: str, **more: Any) -> dict[str, Any]:
    answer = client.post(GENERATE, json={**GOOD, "fallback": list(strategies), **more})
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


# --- suggestions


@both_databases
def test_an_alternative_in_every_field(client: TestClient, database: Database) -> None:
    library.node(database)
    library.device(database)
    library.replica(database, "TI2V-5B")
    for model_id, seconds in (("T2V-A14B", (11, 11)), ("TI2V-5B", (5, 9))):
        for each in seconds:
            used(database, model_id, seconds=each)
    library.download(database, "T2V-A14B")
    download_control.pause(database, download_control.active(database)[0].id)
    body = suggest(client, quality="medium", speed="medium", resolution="1280x720", max_wait_minutes=30)
    assert body.pop("timestamp").endswith("Z")
    strategy = body.pop("fallback_strategy")
    score = strategy.pop("score")
    assert 0 < score <= 1
    assert strategy == {
        "strategy_type": "alternative_model",
        "recommended_action": "Use TI2V-5B as alternative",
        "alternative_model": "TI2V-5B",
        "estimated_wait_time": 0.0,
        "user_message": "TI2V-5B is available. It also generates video from text, optionally with an image",
        "can_queue_request": False,
        "combines": [],
        "quantization": None,
        "resolution": None,
        "frames": None,
    }
    alternative = body["alternative_suggestion"]
    assert alternative["performance_difference"] == round(4 / 6 - 1.0, 4), "steps of 4 and 8 s: the median is 6"
    assert alternative == {
        "suggested_model": "TI2V-5B",
        "compatibility_score": 1.0,
        "performance_difference": alternative["performance_difference"],
        "availability_status": "available",
        "reason": "It also generates video from text, optionally with an image",
        "estimated_quality_difference": "similar",
    }
    assert (body["requested_model"], body["wait_time_estimate"], body["other_strategies"]) == ("T2V-A14B", None, [])
    assert body["basis"] == {
        "compatibility_score": "catalogue",
        "estimated_quality_difference": "catalogue",
        "performance_difference": "measured",
        "estimated_wait_time": "measured",
        "wait_time_estimate": "none",
    }


@both_databases
def test_waits_are_computed_from_bytes_and_queues(client: TestClient, database: Database, settings: Settings) -> None:
    library.node(database)
    library.device(database)
    used(database, seconds=30.0)
    job = library.start(database, library.download(database))
    working.report(settings.redis or "", job.id, 1, 50, bytes_done=500, bytes_total=1000, bytes_per_second=10.0)
    body = suggest(client)
    assert body["fallback_strategy"]["strategy_type"] == "queue_and_wait"
    assert body["wait_time_estimate"] == {"seconds": 50.0, "download_seconds": 50.0, "queue_seconds": 0.0}
    for _ in range(3):
        client.post(GENERATE, json=GOOD)
    assert suggest(client)["wait_time_estimate"]["queue_seconds"] == 90.0, "three of 30 s on one device"
    client.post(GENERATE, json={**GOOD, "model_id": "TI2V-5B"})
    assert suggest(client)["wait_time_estimate"] is None, "TI2V-5B was never measured"


def test_a_download_is_proposed_at_the_rate_of_the_last_one(client: TestClient, database: Database) -> None:
    library.node(database)
    library.device(database)
    job = library.start(database, library.download(database, "TI2V-5B"))
    result = {"revision": "x", "bytes_total": 10, "bytes_fetched": 1_000_000, "seconds": 2.0, "files": 1}
    attempts.succeed(database, job.id, 1, {**result, "refetched": []})
    body = suggest(client, quality="high")
    assert body["fallback_strategy"]["strategy_type"] == "download_and_retry"
    assert body["fallback_strategy"]["estimated_wait_time"] == 8.0, "4 MB at 500 kB/s"
    assert body["fallback_strategy"]["can_queue_request"]


def test_without_alternatives_placeholder_output_is_suggested(client: TestClient) -> None:
    body = suggest(client)
    assert body["fallback_strategy"]["strategy_type"] == "mock_generation"
    assert body["alternative_suggestion"]["availability_status"] == "unknown"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"resolution": "0x0"}, "resolution"), ({"resolution": "big"}, "resolution"),
        ({"resolution": 720}, "resolution"),
        ({"quality": "best"}, "quality"), ({"speed": "high"}, "speed"), ({"max_wait_minutes": -1}, "max_wait_minutes"),
        ({"max_wait_minutes": 1e9}, "max_wait_minutes"), ({"colour": "red"}, "colour"),
        ({"requested_model": ""}, "requested_model"),
    ],
)  # fmt: skip
def test_an_invalid_field_is_reported(client: TestClient, body: dict[str, Any], field: str) -> None:
    answer = client.post(URL, json={"requested_model": "T2V-A14B", **body})
    assert answer.status_code == 422
    assert [error["loc"][-1] for error in answer.json()["errors"]] == [field]


def test_an_unknown_model(client: TestClient) -> None:
    assert client.post(URL, json={"requested_model": "none-such"}).status_code == 404
    assert client.post(URL, json={}).status_code == 422


# --- applied to requests


def test_a_ready_model_is_not_replaced(client: TestClient, database: Database) -> None:
    library.node(database)
    library.device(database)
    library.replica(database)
    library.replica(database, "TI2V-5B")
    job = generate(client, "mock_generation", "alternative_model")
    assert (job["model_id"], job["mock"], job["fallback_applied"]) == ("T2V-A14B", False, [])


@both_databases
def test_another_model_is_used(client: TestClient, database: Database) -> None:
    library.node(database)
    library.device(database)
    library.replica(database, "TI2V-5B")
    job = generate(client, "alternative_model", seed=7)
    assert (job["model_id"], job["params"]["model_id"], job["params"]["seed"]) == ("TI2V-5B", "TI2V-5B", 7)
    (applied,) = job["fallback_applied"]
    assert applied["strategy"] == "alternative_model"
    assert applied["message"].startswith("TI2V-5B is used instead")
    assert {"field": "model_id", "asked": "T2V-A14B", "used": "TI2V-5B"} in applied["changes"]
    assert job["params"]["guidance_scale"] == 5.0, "the other model's default, because none was requested"
    assert client.get(f"/api/v1/jobs/{job['id']}").json()["fallback_applied"] == [applied]
    assert records.get(database, job["id"]).model_cache_key == "TI2V-5B:none"


def test_an_alternative_must_take_the_same_inputs(client: TestClient, database: Database) -> None:
    library.node(database)
    library.device(database)
    library.replica(database, "T2V-A14B")
    picture_asked = {"model_id": "I2V-A14B", "image": data_url(picture())}
    job = generate(client, "alternative_model", "queue_and_wait", **picture_asked)
    assert (job["model_id"], job["fallback_applied"][0]["strategy"]) == ("I2V-A14B", "queue_and_wait")
    assert job["params"]["image"] is True
    library.replica(database, "TI2V-5B")
    job = generate(client, "alternative_model", **picture_asked)
    assert (job["model_id"], job["params"]["image"]) == ("TI2V-5B", True)


@both_databases
def test_a_download_is_started_once(client: TestClient, database: Database) -> None:
    library.node(database)
    first, second = generate(client, "download_and_retry"), generate(client, "download_and_retry")
    (download,) = download_control.active(database)
    assert (download.model_id, download.target_node, download.labels) == (
        "T2V-A14B",
        "here",
        {"started_by": "fallback"},
    )
    assert [job["fallback_applied"][0]["job_id"] for job in (first, second)] == [download.id] * 2
    assert (first["status"], first["model_id"]) == ("queued", "T2V-A14B")


def test_requirements_are_reduced_if_no_device_has_enough_memory(
    settings: Settings, database: Database, make_client: Any
) -> None:
    client = make_client(Settings(**{**settings.model_dump(), "catalogue": "default"}))
    library.node(database)
    library.device(database, memory_mb=12_000)
    library.replica(database)
    asked = {"resolution": "1280x720", "frames": 81, "steps": 40}
    job = generate(client, "reduce_requirements", **asked)
    assert job["params"]["quantization"] == "int8"
    assert job["fallback_applied"][0]["changes"] == [{"field": "quantization", "asked": "none", "used": "int8"}]
    assert records.get(database, job["id"]).min_vram_mb == 11_750
    assert generate(client, "reduce_requirements", **asked, quantization="int8")["fallback_applied"] == []
    body = suggest(client)
    assert body["fallback_strategy"]["strategy_type"] == "reduce_requirements"
    assert body["fallback_strategy"]["quantization"] == "int8"
    library.device(database, memory_mb=24_000)
    assert generate(client, "reduce_requirements", **asked)["params"]["quantization"] == "none"


def test_a_hybrid_uses_another_model_and_downloads(client: TestClient, database: Database) -> None:
    library.node(database)
    library.device(database)
    library.replica(database, "TI2V-5B")
    job = generate(client, "hybrid_approach")
    (download,) = download_control.active(database)
    assert (job["model_id"], download.model_id) == ("TI2V-5B", "T2V-A14B")
    (applied,) = job["fallback_applied"]
    assert (applied["strategy"], applied["job_id"]) == ("hybrid_approach", download.id)


def test_the_first_applicable_strategy_is_applied_and_kept_by_a_retry(client: TestClient, database: Database) -> None:
    job = generate(client, "hybrid_approach", "reduce_requirements", "alternative_model", "mock_generation")
    assert (job["mock"], job["fallback_applied"][0]["strategy"]) == (True, "mock_generation")
    client.post(f"/api/v1/jobs/{job['id']}/cancel")
    again = client.post(f"/api/v1/jobs/{job['id']}/retry").json()
    assert (again["mock"], again["fallback_applied"]) == (True, job["fallback_applied"])
    library.node(database)
    library.device(database)
    library.replica(database, "TI2V-5B")
    other = generate(client, "alternative_model")
    client.post(f"/api/v1/jobs/{other['id']}/cancel")
    retried = client.post(f"/api/v1/jobs/{other['id']}/retry").json()
    assert retried["params"] == other["params"]
    assert retried["fallback_applied"] == other["fallback_applied"]


def test_an_unknown_strategy(client: TestClient) -> None:
    assert client.post(GENERATE, json={**GOOD, "fallback": ["give_up"]}).status_code == 422
