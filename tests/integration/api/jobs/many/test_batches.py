"""Batches over HTTP: accepted whole or refused whole with every error, shown, cancelled, and their archive."""

import base64
import io
import json
import time
import zipfile
from typing import Any

from starlette.testclient import TestClient

from shared.access import keys
from shared.access.keys import Limits
from shared.cluster import nodes
from shared.database.engine import Database
from shared.jobs import attempts
from shared.jobs.attempts import Failure
from shared.jobs.ending import webhooks
from shared.settings import Settings
from shared.states import Priority, Scope
from shared.storage.directory import DirectoryStore
from tests.conftest import both_databases
from tests.integration.api.jobs.generation_requests import GOOD, data_url, picture
from tests.integration.api.jobs.submitted_jobs import JOBS, NO_JOB
from tests.support import uses, working

URL = "/api/v1/batches"
BOTH = (Scope.READ, Scope.SUBMIT)


def of(count: int, **more: Any) -> dict[str, Any]:
    return {"jobs": [{"params": {**GOOD, "prompt": f"boat {place}"}} for place in range(count)], **more}


def submit(client: TestClient, body: dict[str, Any], **options: Any) -> dict[str, Any]:
    answer = client.post(URL, json=body, **options)
    assert answer.status_code == 202, answer.text
    batch: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"{URL}/{batch['id']}"
    return batch


def errors(answer: Any) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    return {".".join(map(str, one["loc"][1:])): one["msg"] for one in answer.json()["errors"]}


@both_databases
def test_a_batch_from_submission_to_its_end(client: TestClient, database: Database, settings: Settings) -> None:
    batch = submit(client, of(3, name="boats", webhook_url="https://receiver.example/hook"))
    assert (batch["status"], batch["total"], batch["percent"], batch["name"]) == ("queued", 3, 0.0, "boats")
    assert batch["counts"] == {"queued": 3, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0}
    first, second, third = (job["id"] for job in batch["jobs"])
    assert [client.get(f"{JOBS}/{job}").json()["params"]["prompt"] for job in (first, third)] == ["boat 0", "boat 2"]
    assert client.get(f"{JOBS}/{first}").json()["batch_id"] == batch["id"]
    listed = client.get(JOBS, params={"batch_id": batch["id"], "status": "queued"}).json()["data"]
    assert [job["id"] for job in listed] == [third, second, first]
    store = DirectoryStore.opened(settings.store_dir, lambda: nodes.agreed(database, "store"), create=True)
    running = working.claim(database, first)
    assert client.get(f"{URL}/{batch['id']}").json()["status"] == "running"
    working.finish(database, running, working.make(store, running, {"video.mp4": b"frames", "a.json": b"{}"}))
    attempts.fail(database, working.claim(database, second).id, 1, Failure("x", "why", True))
    cancelled = client.post(f"{URL}/{batch['id']}/cancel")
    assert cancelled.status_code == 202
    after = cancelled.json()
    assert after["counts"] == {"queued": 0, "running": 0, "succeeded": 1, "failed": 1, "cancelled": 1}
    assert (after["status"], after["percent"], after["finished_at"] is not None) == ("failed", 100.0, True)
    assert client.post(f"{URL}/{batch['id']}/cancel").json() == after
    assert client.get(URL).json()["data"][0]["id"] == batch["id"]
    (message,) = webhooks.page(database, limit=5, after=None).messages
    assert (message.type, message.job_id) == ("batch.failed", batch["id"])
    (shown,) = client.get("/api/v1/webhooks/messages").json()["data"]
    assert (shown["batch_id"], shown["job_id"]) == (batch["id"], None)

    answer = client.get(f"{URL}/{batch['id']}/artifacts.zip")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    assert int(answer.headers["content-length"]) == len(answer.content)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["manifest.json", f"{first}/video.mp4", f"{first}/a.json"]
        assert archive.read(f"{first}/video.mp4") == b"frames"
        assert all(one.compress_type == zipfile.ZIP_STORED for one in archive.infolist())
        told = json.loads(archive.read("manifest.json"))
    assert [(job["id"], job["status"], len(job["files"])) for job in told["jobs"]] == [
        (first, "succeeded", 2), (second, "failed", 0), (third, "cancelled", 0),
    ]  # fmt: skip
    assert told["jobs"][1]["error"]["code"] == "x"
    head = client.head(f"{URL}/{batch['id']}/artifacts.zip")
    assert head.headers["content-length"] == answer.headers["content-length"]
    for job in (first, second):
        assert client.delete(f"{JOBS}/{job}").status_code == 204
    left = client.get(f"{URL}/{batch['id']}").json()
    assert ([job["id"] for job in left["jobs"]], left["counts"]) == ([third], after["counts"])
    client.delete(f"{JOBS}/{third}")
    assert client.get(f"{URL}/{batch['id']}").status_code == 404


def test_every_error_of_every_job_is_named_and_nothing_stored(client: TestClient, nothing_stored: Any) -> None:
    body = of(5, webhook_url="http://127.0.0.1/hook")
    body["jobs"][1]["params"] |= {"frames": 4000, "colour": "red"}
    body["jobs"][2] = {"type": "download", "params": {}}
    body["jobs"][3] = "a boat"
    body["jobs"][4]["params"] |= {"image": data_url(picture())}
    body["jobs"].append({"params": {"prompt": "x"}, "name": "odd"})
    body["jobs"].append({"params": {**GOOD, "model_id": "I2V-A14B", "image": data_url(picture())}})
    found = errors(client.post(URL, json=body))
    assert set(found) == {
        "webhook_url", "jobs.1.params.frames", "jobs.1.params.colour", "jobs.2.type", "jobs.3", "jobs.4.params.image",
        "jobs.5.name",
    }  # fmt: skip
    assert "allowed" in found["jobs.1.params.frames"]
    assert "allowed: generation" in found["jobs.2.type"]
    many = {"jobs": [{"params": {**GOOD, "frames": 4000}} for _ in range(150)]}
    found = errors(client.post(URL, json=many))
    assert len(found) == 101
    assert found["jobs"].startswith("50 more fields are invalid")
    for wrong in ({}, {"jobs": []}, {"jobs": [{"params": GOOD}] * 1001}, {**of(1), "colour": "red"}):
        assert client.post(URL, json=wrong).status_code == 422
    assert client.post(URL, content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert client.post(URL, data={"a": "b"}).status_code == 415
    for path in (f"{URL}/{NO_JOB}", f"{URL}/x", f"{URL}/{NO_JOB}/artifacts.zip"):
        assert client.get(path).status_code == 404


def test_the_same_key_gives_the_same_batch(client: TestClient) -> None:
    header = {"Idempotency-Key": "one"}
    batch = submit(client, of(2), headers=header)
    again = client.post(URL, json=of(2), headers=header)
    assert (again.status_code, again.json()["id"], again.headers["Idempotency-Replayed"]) == (200, batch["id"], "true")
    assert "another body" in errors(client.post(URL, json=of(3), headers=header))["Idempotency-Key"]
    assert len(client.get(JOBS).json()["data"]) == 2


def test_images_of_a_batch_are_stored(client: TestClient, settings: Settings) -> None:
    body = of(1)
    body["jobs"].append({"params": {**GOOD, "model_id": "I2V-A14B", "image": data_url(picture())}})
    batch = submit(client, body)
    last = batch["jobs"][1]["id"]
    assert client.get(f"{JOBS}/{last}").json()["params"]["image"]
    assert [path.name for path in (settings.store_dir / "inputs").iterdir()] == [last]


def test_the_limits_of_the_key_hold_for_the_batch_as_a_whole(client: TestClient, database: Database) -> None:
    limits = Limits(queued_jobs=2, priority_ceiling=Priority.NORMAL, models=("T2V-A14B",), max_frames=9)
    _, secret = keys.make(database, "mine", BOTH, limits)
    mine = {"Authorization": f"Bearer {secret}"}
    body = of(3)
    body["jobs"][0]["params"]["priority"] = "high"
    body["jobs"][1]["params"]["model_id"] = "TI2V-5B"
    body["jobs"][2]["params"]["frames"] = 13
    found = errors(client.post(URL, json=body, headers=mine))
    assert set(found) == {"jobs.0.params.priority", "jobs.1.params.model_id", "jobs.2.params.frames"}
    refused = client.post(URL, json=of(3), headers=mine)
    assert (refused.status_code, refused.json()["code"]) == (429, "limit_reached")
    assert "room for 2 of the 3" in refused.json()["detail"]
    assert int(refused.headers["Retry-After"]) > 0
    batch = submit(client, of(2), headers=mine)
    _, secret = keys.make(database, "other", BOTH, Limits())
    other = {"Authorization": f"Bearer {secret}"}
    for path in (f"{URL}/{batch['id']}", f"{URL}/{batch['id']}/artifacts.zip"):
        assert client.get(path, headers=other).status_code == 404
        assert client.get(path, headers=mine).status_code == 200
    assert client.post(f"{URL}/{batch['id']}/cancel", headers=other).status_code == 404
    assert client.get(URL, headers=other).json()["data"] == []
    assert client.get(JOBS, params={"key": "other"}, headers=mine).status_code == 403
    assert len(client.get(JOBS, params={"key": "mine"}, headers=mine).json()["data"]) == 2


def test_gpu_seconds_count_the_jobs_of_the_batch(client: TestClient, database: Database) -> None:
    """A job of ten seconds has been measured, and the key may use thirty: three fit, a fourth would not be accepted."""
    _, secret = keys.make(database, "mine", BOTH, Limits(gpu_seconds_per_month=29.5))
    mine = {"Authorization": f"Bearer {secret}"}
    uses.used(database, seconds=11.0)
    refused = client.post(URL, json=of(4), headers=mine)
    assert refused.status_code == 429
    assert "GPU-seconds per month" in refused.json()["detail"]
    submit(client, of(3), headers=mine)


def test_a_batch_may_be_larger_than_other_bodies(client: TestClient) -> None:
    body = of(2)
    body["jobs"][0]["params"]["image"] = "data:image/png;base64," + base64.b64encode(bytes(26_000_000)).decode()
    answer = client.post(URL, json=body)
    assert answer.status_code == 422, "read, and found to be no image"
    body["jobs"][1]["params"]["image"] = body["jobs"][0]["params"]["image"]
    assert client.post(URL, json=body).status_code == 413
    assert "64 MB" in client.post(URL, json=body).json()["detail"]


def test_a_thousand_jobs_are_accepted_at_once(client: TestClient, database: Database) -> None:
    began = time.monotonic()
    batch = submit(client, of(1000))
    print(f"accepted in {time.monotonic() - began:.2f} s")
    assert batch["total"] == len(batch["jobs"]) == 1000
    assert time.monotonic() - began < 20


def test_few_archives_are_sent_at_a_time(client: TestClient) -> None:
    batch = submit(client, of(1))
    context = client.app_state["context"]
    for _ in range(4):
        context.archives.take()
    refused = client.get(f"{URL}/{batch['id']}/artifacts.zip")
    assert (refused.status_code, refused.json()["code"]) == (503, "archives_busy")
    assert int(refused.headers["Retry-After"]) > 0
    assert client.get(f"{URL}/{batch['id']}").status_code == 200
    for _ in range(4):
        context.archives.release()
    assert client.get(f"{URL}/{batch['id']}/artifacts.zip").status_code == 200
