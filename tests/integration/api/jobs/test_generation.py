"""Create videos: accepted requests, their responses, and parts that are unavailable."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image
from sqlalchemy import update
from starlette.testclient import TestClient

from api.app import create_app
from shared.catalogue import models
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Node, epoch_now
from shared.jobs import records
from shared.jobs.reading import lists
from shared.models import replicas
from shared.models.replicas import Presence
from shared.settings import Settings
from shared.states import ReplicaState
from shared.stored_names import WAKE_KEY
from tests.conftest import both_databases
from tests.integration.api.jobs.generation_requests import GOOD, URL, data_url, picture


@both_databases
def test_the_response_to_a_new_job(client: TestClient, database: Database) -> None:
    answer = client.post(URL, json={**GOOD, "metadata": {"shot": "12"}, "priority": "high"})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/api/v1/jobs/{job['id']}"
    assert (job["type"], job["status"], job["priority"]) == ("generation", "queued", "high")
    assert (job["attempt"], job["max_attempts"], job["queue_position"], job["mock"]) == (0, 5, 0, False)
    assert job["params"]["resolution"] == "64x64"
    assert job["params"]["image"] is False
    assert job["params"]["guidance_scale"] == 4.0, "the model's default"
    assert isinstance(job["params"]["seed"], int), "chosen at random and returned"
    assert job["metadata"] == {"shot": "12"}
    assert job["created_at"].endswith("Z")
    assert job["progress"]["percent"] == 0
    assert (job["error"], job["result"], job["started_at"], job["node"]) == (None, None, None, None)
    row = records.get(database, job["id"])
    assert (row.min_vram_mb, row.memory_needs) == (750, "750:1750;1750")
    shown = client.get(answer.headers["location"]).json()
    assert job.pop("estimate") is None, "it is reckoned when it is asked for"
    assert shown.pop("estimate")["basis"] == "none"
    assert shown == job


def test_an_accepted_job_has_its_position(client: TestClient) -> None:
    assert client.post(URL, json=GOOD).json()["queue_position"] == 0
    assert client.post(URL, json=GOOD).json()["queue_position"] == 1
    first = client.post(URL, json={**GOOD, "priority": "critical"}).json()
    assert first["queue_position"] == 0
    listed = client.get("/api/v1/jobs").json()["data"]
    assert [job["queue_position"] for job in listed] == [0, 2, 1]


def test_the_dispatcher_is_woken(client: TestClient, settings: Settings) -> None:
    client.post(URL, json=GOOD)
    assert settings.redis is not None
    assert redis.Redis.from_url(settings.redis).blpop([WAKE_KEY], timeout=5) is not None


def test_concurrent_requests_get_their_own_jobs(client: TestClient, database: Database) -> None:
    def submit(place: int) -> dict[str, Any]:
        answer: dict[str, Any] = client.post(URL, json={**GOOD, "prompt": f"scene {place}"}).json()
        return answer

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(submit, range(64)))
    assert [answer["params"]["prompt"] for answer in answers] == [f"scene {place}" for place in range(64)]
    assert len({records.get(database, answer["id"]).queued_at for answer in answers}) == 64


def test_json_with_a_charset_works(client: TestClient) -> None:
    body = json.dumps({**GOOD, "prompt": "ein Kätzchen"}, ensure_ascii=False).encode()
    answer = client.post(URL, content=body, headers={"Content-Type": "application/json; charset=utf-8"})
    assert answer.status_code == 202
    assert answer.json()["params"]["prompt"] == "ein Kätzchen"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_an_image_as_a_data_url(client: TestClient, database: Database, settings: Settings, format: str) -> None:
    answer = client.post(URL, json={**GOOD, "model_id": "I2V-A14B", "image": data_url(picture(format))})
    assert answer.status_code == 202
    assert answer.json()["params"]["image"] is True
    stored = records.get(database, answer.json()["id"]).params["image"]
    assert Image.open(settings.store_dir / "inputs" / stored).format == "PNG"
    assert stored not in answer.text


def test_an_image_as_a_part_with_fields_as_form_values(client: TestClient, database: Database) -> None:
    fields = {
        "model_id": "TI2V-5B", "prompt": "12", "resolution": "64x64", "frames": "9", "guidance_scale": "3.5",
        "seed": "7", "metadata": '{"a": "b"}', "fallback": "[]", "loras": "[]",
    }  # fmt: skip
    answer = client.post(URL, data=fields, files={"image": ("anything.txt", picture("JPEG"), "text/plain")})
    assert answer.status_code == 202, answer.text
    params = answer.json()["params"]
    assert (params["prompt"], params["frames"], params["seed"], params["image"]) == ("12", 9, 7, True)
    assert answer.json()["metadata"] == {"a": "b"}
    assert (records.get(database, answer.json()["id"]).params["image"] or "").endswith("/image.png")


def test_a_form_without_an_image(client: TestClient) -> None:
    answer = client.post(URL, files={"model_id": (None, "T2V-A14B"), "prompt": (None, "a cat")})
    assert answer.status_code == 202, answer.text


def test_an_image_is_optional_for_ti2v(client: TestClient) -> None:
    assert client.post(URL, json={**GOOD, "model_id": "TI2V-5B"}).status_code == 202


def test_a_lora_is_a_file_a_pair_or_half_of_one(client: TestClient, settings: Settings) -> None:
    settings.loras_dir.mkdir(parents=True)
    for name in ("style", "fast.high", "fast.low", "half.high"):
        (settings.loras_dir / f"{name}.safetensors").touch()
    loras = [{"name": "style", "scale": 0.5}, {"name": "fast"}, {"name": "half"}]
    assert client.post(URL, json={**GOOD, "loras": loras}).json()["params"]["loras"][0]["scale"] == 0.5
    answer = client.post(URL, json={**GOOD, "loras": [{"name": "style"}, {"name": "half.high"}]})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["loc"] == ["body", "loras", 1, "name"]
    assert "available: fast, half, style" in error["msg"]


# --- idempotency


@both_databases
def test_the_same_key_and_body_give_the_same_job(client: TestClient, database: Database) -> None:
    key = {"Idempotency-Key": "order 17"}
    first = client.post(URL, json=GOOD, headers=key)
    again = client.post(URL, content=json.dumps(GOOD, indent=3), headers={**key, "Content-Type": "application/json"})
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]
    assert "idempotency-replayed" not in first.headers
    other = client.post(URL, json={**GOOD, "prompt": "a dog"}, headers=key)
    assert other.status_code == 422
    assert "Idempotency-Key" in other.json()["detail"]
    assert len(lists.page(database, limit=10).jobs) == 1


@both_databases
def test_concurrent_requests_with_one_key_create_one_job(client: TestClient, database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post(URL, json=GOOD, headers={"Idempotency-Key": "k"}), range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(lists.page(database, limit=10).jobs) == 1


def test_a_replay_leaves_no_second_image(client: TestClient, settings: Settings) -> None:
    body = {**GOOD, "model_id": "I2V-A14B", "image": data_url(picture())}
    key = {"Idempotency-Key": "k"}
    first = client.post(URL, json=body, headers=key)
    assert client.post(URL, json=body, headers=key).status_code == 200
    other = {**body, "image": data_url(picture("JPEG"))}
    assert client.post(URL, json=other, headers=key).status_code == 422, "another image is another body"
    assert [folder.name for folder in (settings.store_dir / "inputs").iterdir()] == [first.json()["id"]]


# --- placeholder output


def has_model(database: Database, settings: Settings, node: str) -> None:
    nodes.node_beat(database, node, None, None)
    whole = Presence(ReplicaState.AVAILABLE, "main", 1, ())
    replicas.record(database, node, models.load(settings.catalogue), {"T2V-A14B": whole})


def test_placeholder_output_only_if_requested_and_the_model_is_not_ready(
    client: TestClient, database: Database, settings: Settings
) -> None:
    allowed = {**GOOD, "fallback": ["mock_generation"]}
    assert client.post(URL, json=GOOD).json()["mock"] is False
    mock = client.post(URL, json=allowed).json()
    assert mock["mock"] is True
    assert records.get(database, mock["id"]).min_vram_mb == 0


def test_a_real_job_where_the_model_is_ready(client: TestClient, database: Database, settings: Settings) -> None:
    has_model(database, settings, "here")
    assert client.post(URL, json={**GOOD, "fallback": ["mock_generation"]}).json()["mock"] is False


def test_a_silent_node_counts_as_having_no_models(client: TestClient, database: Database, settings: Settings) -> None:
    has_model(database, settings, "here")
    with database.write() as session:
        session.connection().execute(update(Node).values(seen_at=epoch_now() - 3600))
    assert client.post(URL, json={**GOOD, "fallback": ["mock_generation"]}).json()["mock"] is True


# --- unavailable parts


def test_without_redis_jobs_are_accepted(
    settings: Settings, database: Database, make_client: Callable[[Settings], TestClient]
) -> None:
    for url in (None, "redis://127.0.0.1:1/0"):
        client = make_client(Settings(**{**settings.model_dump(), "redis_url": url}))
        assert client.post(URL, json=GOOD).status_code == 202


def test_a_full_disk_is_507_and_leaves_nothing(
    settings: Settings, database: Database, make_client: Callable[[Settings], TestClient], nothing_stored: None
) -> None:
    client = make_client(Settings(**{**settings.model_dump(), "min_free_disk_mb": 10**9}))
    for body in (GOOD, {**GOOD, "model_id": "I2V-A14B", "image": data_url(picture())}):
        answer = client.post(URL, json=body)
        assert answer.status_code == 507
        assert answer.json()["code"] == "disk_full"


def test_missing_tables_are_reported(
    settings: Settings, tmp_path: Path, make_client: Callable[[Settings], TestClient]
) -> None:
    bare = f"sqlite:///{tmp_path}/bare.db"
    client = make_client(Settings(**{**settings.model_dump(), "database_url": bare}))
    for answer in (client.post(URL, json=GOOD), client.get("/api/v1/jobs"), client.get("/readyz")):
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "migrations" in answer.json()["detail"]


def test_a_database_that_cannot_be_reached_is_503(
    settings: Settings, make_client: Callable[[Settings], TestClient]
) -> None:
    away = "postgresql+psycopg://somebody:secretword@127.0.0.1:1/wanworks"
    client = make_client(Settings(**{**settings.model_dump(), "database_url": away}))
    image = {**GOOD, "model_id": "I2V-A14B", "image": data_url(picture())}
    for answer in (client.post(URL, json=GOOD), client.post(URL, json=image), client.get("/api/v1/jobs")):
        assert answer.status_code == 503
        assert answer.json()["code"] == "database_unavailable"
        assert "secretword" not in answer.text
        assert "127.0.0.1" not in answer.text
    assert client.get("/healthz").status_code == 200


def test_an_unexpected_error_reveals_nothing(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("secret /path/of/mine")

    monkeypatch.setattr(lists, "page", broken)
    answer = client.get("/api/v1/jobs", headers={"X-Request-ID": "my-request"})
    assert answer.status_code == 500
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "my-request"
    assert "secret" not in answer.text


def test_a_store_of_another_installation_is_not_written_to(client: TestClient, settings: Settings) -> None:
    settings.store_dir.mkdir(parents=True)
    (settings.store_dir / "marker").write_text("somebody else")
    answer = client.post(URL, json={**GOOD, "model_id": "I2V-A14B", "image": data_url(picture())})
    assert answer.status_code == 500
    assert str(settings.store_dir) not in answer.text


def test_the_tier_is_settled_when_the_job_is_accepted(client: TestClient, database: Database) -> None:
    assert client.post(URL, json=GOOD).json()["params"]["speed"] == "exact"
    fast = client.post(URL, json={**GOOD, "speed": "fast"}).json()
    assert fast["params"]["speed"] == "fast"
    row = records.get(database, fast["id"])
    assert (row.params["speed"], row.model_cache_key) == ("fast", "T2V-A14B:none"), "no other model is loaded for it"
    refused = client.post(URL, json={**GOOD, "speed": "quick"})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["body", "speed"]


def test_the_setting_decides_about_requests_without_a_tier(settings: Settings, database: Database) -> None:
    app = create_app(settings.model_copy(update={"default_speed": "balanced"}))
    with TestClient(app, "http://localhost") as client:
        assert client.post(URL, json=GOOD).json()["params"]["speed"] == "balanced"
        assert client.post(URL, json={**GOOD, "speed": "exact"}).json()["params"]["speed"] == "exact"


def test_a_benchmark_is_accepted_and_can_be_retried(client: TestClient, database: Database) -> None:
    url = "/api/v1/jobs/benchmark"
    answer = client.post(url, json={"model_id": "I2V-A14B", "resolution": "64x64", "frames": 9, "steps": 2})
    assert answer.status_code == 202
    job = answer.json()
    assert (job["type"], job["priority"], job["model_id"]) == ("benchmark", "low", "I2V-A14B")
    assert job["params"] == {
        "model_id": "I2V-A14B", "resolution": "64x64", "frames": 9, "steps": 2, "quantization": "none",
        "tiers": ["balanced", "fast"], "runs": 3,
    }  # fmt: skip
    row = records.get(database, job["id"])
    assert row.memory_needs
    assert client.post(f"/api/v1/jobs/{job['id']}/cancel").status_code == 202
    again = client.post(f"/api/v1/jobs/{job['id']}/retry")
    assert again.status_code == 202
    assert records.get(database, again.json()["id"]).memory_needs == row.memory_needs
    assert client.post(url, json={"model_id": "T2V-A14B", "resolution": "65x64"}).status_code == 422
    assert client.post(url, json={"model_id": "none"}).status_code == 404
