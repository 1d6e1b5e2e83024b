"""The library of LoRAs over the API: upload, list, share, use, remove, and what jobs keep of them."""

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from scheduler.ticks import sweep_loras
from shared.access import keys
from shared.access.keys import Limits
from shared.database.engine import Database
from shared.jobs import records
from shared.models.loras import library
from shared.settings import Settings
from shared.states import Scope
from shared.storage.directory import DirectoryStore
from tests.conftest import both_databases
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.unit.shared.models.loras.test_header import Q, content

pytestmark = both_databases
LORAS = "/api/v1/loras"
FILE = content({f"{Q}.lora_A.weight": (4, 96), f"{Q}.lora_B.weight": (96, 4)})
OTHER = content({f"{Q}.lora_A.weight": (8, 96), f"{Q}.lora_B.weight": (96, 8)})
SHA256 = hashlib.sha256(FILE).hexdigest()


@pytest.fixture
def secrets(database: Database) -> dict[str, dict[str, str]]:
    scopes = {
        "boss": (Scope.ADMIN,),
        "one": (Scope.READ, Scope.SUBMIT),
        "two": (Scope.READ, Scope.SUBMIT),
        "looker": (Scope.READ,),
    }
    made = {name: keys.make(database, name, each, Limits())[1] for name, each in scopes.items()}
    return {name: {"Authorization": f"Bearer {secret}"} for name, secret in made.items()}


def upload(client: TestClient, name: str = "grain", data: bytes = FILE, **options: Any) -> Any:
    query = {"name": name, **options.pop("query", {})}
    headers = {"Content-Type": "application/octet-stream", **options.pop("headers", {})}
    return client.post(LORAS, params=query, content=data, headers=headers)


def named(client: TestClient, headers: dict[str, str] | None = None) -> list[str]:
    return [one["name"] for one in client.get(LORAS, headers=headers).json()["data"]]


def test_an_upload_is_described_listed_used_and_removed(
    client: TestClient, database: Database, settings: Settings
) -> None:
    made = upload(client, query={"description": "old film"})
    assert made.status_code == 201, made.text
    lora = made.json()
    assert made.headers["Location"] == f"{LORAS}/{lora['id']}"
    assert (lora["name"], lora["description"], lora["mine"], lora["bytes"]) == ("grain", "old film", True, len(FILE))
    (file,) = lora["files"]
    assert (file["sha256"], file["rank"], file["expert"], file["source"]) == (SHA256, 4, "both", "upload")
    assert client.get(f"{LORAS}/{lora['id']}").json() == lora
    assert list((settings.home / "uploads").iterdir()) == []
    assert upload(client).json()["id"] == lora["id"], "the same file again changes nothing"
    job = client.post(URL, json={**GOOD, "loras": [{"name": "grain", "scale": 0.5}]})
    assert job.status_code == 202, job.text
    params = records.get(database, job.json()["id"]).params
    assert params["lora_files"] == [{"name": "grain", "expert": "both", "sha256": SHA256, "bytes": len(FILE)}]
    assert job.json()["params"]["loras"] == [{"name": "grain", "scale": 0.5}]
    assert client.delete(f"{LORAS}/{lora['id']}").status_code == 204
    assert client.get(f"{LORAS}/{lora['id']}").status_code == 404
    refused = client.post(URL, json={**GOOD, "loras": [{"name": "grain"}]}).json()
    assert "there is no LoRA 'grain'" in refused["errors"][0]["msg"]


def test_files_are_never_overwritten_and_pairs_are_completed(client: TestClient) -> None:
    assert upload(client, query={"expert": "high"}).status_code == 201
    again = upload(client, data=OTHER, query={"expert": "high"})
    assert (again.status_code, "never overwritten" in again.json()["detail"]) == (409, True)
    assert "one for both experts, or one each" in upload(client, data=OTHER).json()["detail"]
    pair = upload(client, data=OTHER, query={"expert": "low"}).json()
    assert [file["expert"] for file in pair["files"]] == ["high", "low"]
    assert pair["bytes"] == len(FILE) + len(OTHER)


@pytest.mark.parametrize(
    ("data", "query", "status", "words"),
    [
        (b"PK\x03\x04" + bytes(50), {}, 422, "is not a safetensors file"),
        (FILE[:-1], {}, 422, "is damaged or cut off"),
        (FILE, {"name": "../x"}, 422, "a LoRA name has no path"),
        (FILE, {"expert": "left"}, 422, "expert"),
        (FILE, {"colour": "red"}, 422, "colour"),
    ],
    ids=["zip", "cut-off", "path", "expert", "unknown"],
)
def test_what_is_no_lora_is_refused(
    client: TestClient, data: bytes, query: dict[str, str], status: int, words: str
) -> None:
    answer = upload(client, data=data, query=query)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text
    assert named(client) == []


def test_the_limit_the_type_and_the_folder(client: TestClient, settings: Settings) -> None:
    most = settings.lora_max_mb * 10**6
    declared = upload(client, headers={"Content-Length": str(most + 1)})
    assert (declared.status_code, "WANWORKS_LORA_MAX_MB" in declared.text) == (413, True)
    assert client.post(LORAS, params={"name": "x"}, json={}).status_code == 415
    settings.loras_dir.mkdir(parents=True, exist_ok=True)
    (settings.loras_dir / "mine.high.safetensors").touch()
    assert "operator's folder" in upload(client, "mine").json()["detail"]
    (shown,) = client.get(LORAS).json()["data"]
    assert (shown["name"], shown["source"], shown["id"]) == ("mine", "folder", None)


def test_a_lora_is_its_keys_own_until_it_is_shared(client: TestClient, secrets: dict[str, dict[str, str]]) -> None:
    one, two, boss = (secrets[name] for name in ("one", "two", "boss"))
    lora = upload(client, headers=one).json()
    path = f"{LORAS}/{lora['id']}"
    assert (named(client, one), named(client, two), named(client, boss)) == (["grain"], [], ["grain"])
    use = {**GOOD, "loras": [{"name": "grain"}]}
    assert client.post(URL, json=use, headers=two).status_code == 422
    assert (client.get(path, headers=two).status_code, client.delete(path, headers=two).status_code) == (404, 404)
    assert upload(client, headers=two).status_code == 409, "the name is taken"
    shared = client.patch(path, json={"shared_with": ["two"]}, headers=one)
    assert (shared.status_code, shared.json()["shared_with"]) == (200, ["two"])
    assert client.post(URL, json=use, headers=two).status_code == 202
    seen = client.get(path, headers=two).json()
    assert (seen["mine"], seen["owner"], seen["shared_with"]) == (False, "one", [])
    assert client.patch(path, json={"shared": True}, headers=two).status_code == 403
    assert client.delete(path, headers=two).status_code == 403
    assert "no key named 'nobody'" in client.patch(path, json={"shared_with": ["nobody"]}, headers=one).text
    assert client.patch(path, json={"shared": True, "shared_with": []}, headers=boss).status_code == 200
    assert named(client, secrets["looker"]) == ["grain"]
    assert upload(client, "more", headers=secrets["looker"]).status_code == 403
    assert client.delete(path, headers=boss).status_code == 204


def test_jobs_keep_the_file_that_they_were_accepted_with(
    client: TestClient, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(settings.store_dir)
    use = {**GOOD, "loras": [{"name": "grain"}]}
    first = upload(client).json()
    job = client.post(URL, json=use).json()
    client.delete(f"{LORAS}/{first['id']}")
    second = upload(client, data=OTHER).json()
    assert second["id"] != first["id"]
    newer = client.post(URL, json=use).json()
    hashes = [records.get(database, one["id"]).params["lora_files"][0]["sha256"] for one in (job, newer)]
    assert hashes == [SHA256, hashlib.sha256(OTHER).hexdigest()]
    monkeypatch.setattr(library, "_GRACE", timedelta(0))
    assert sweep_loras(database, store, 0) == "0 files of LoRAs removed", "a queued job needs it"
    client.post(f"/api/v1/jobs/{job['id']}/cancel")
    assert client.post(f"/api/v1/jobs/{job['id']}/retry").status_code == 202, "it is still there"
    again = client.get(URL.rpartition("/")[0], params={"limit": 1}).json()["data"][0]
    client.post(f"/api/v1/jobs/{again['id']}/cancel")
    assert sweep_loras(database, store, 0) == "1 files of LoRAs removed"
    assert store.loras(0) == [hashes[1]]
    refused = client.post(f"/api/v1/jobs/{job['id']}/retry")
    assert (refused.status_code, "its LoRAs were removed: grain" in refused.json()["detail"]) == (409, True)


def test_a_file_that_was_stored_just_now_is_not_swept(
    client: TestClient, database: Database, settings: Settings
) -> None:
    store = DirectoryStore(settings.store_dir)
    lora = upload(client).json()
    client.delete(f"{LORAS}/{lora['id']}")
    with database.write() as session:
        session.connection().exec_driver_sql("DELETE FROM loras")
    assert sweep_loras(database, store) == "0 files of LoRAs removed"
    assert sweep_loras(database, store, 0) == "1 files of LoRAs removed"
