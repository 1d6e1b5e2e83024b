"""The `/v1/videos` routes: the `openai` client's format and errors, which no other route uses."""

from collections.abc import Callable
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from shared.catalogue.job_types import DOWNLOAD, DownloadParams
from shared.database.engine import Database
from shared.jobs import accepting, attempts, records
from shared.jobs.attempts import Failure
from shared.jobs.reading import lists
from shared.settings import Settings
from shared.states import Priority
from shared.storage.directory import DirectoryStore
from tests.conftest import both_databases, free_port
from tests.integration.api.jobs.generation_requests import data_url, picture
from tests.integration.shared.net.test_outbound import content, redirect, serve
from tests.support import working

URL = "/v1/videos"
ASKED: dict[str, Any] = {"model": "wan2.2-t2v-a14b", "prompt": "a cat", "size": "64x64", "seconds": "1"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def form(*parts: tuple[str, str]) -> bytes:
    """Return a form as the client writes one without a file."""
    written = "".join(f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in parts)
    return f"{written}--b--\r\n".encode()


def create(client: TestClient, **fields: Any) -> dict[str, Any]:
    answer = client.post(URL, json={**ASKED, **fields})
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def refused(answer: Any, status: int) -> dict[str, Any]:
    """Return the error, and check that the envelope contains nothing else."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


def finish(database: Database, settings: Settings, video_id: str) -> None:
    store = DirectoryStore(settings.store_dir)
    job = working.claim(database, video_id)
    files = {"video.mp4": b"the video", "thumbnail.jpg": b"the thumbnail", "contact-sheet.jpg": b"the sheet"}
    described = working.make(store, job, files)
    described[2]["kind"] = "contact_sheet"
    working.finish(database, job, described)


@both_databases
def test_a_video_is_a_job(client: TestClient, database: Database) -> None:
    answer = client.post(URL, json={**ASKED, "num_inference_steps": 3, "seed": 7, "guidance_scale_2": 2.5})
    assert answer.status_code == 200
    shown = answer.json()
    assert answer.headers["location"] == f"/v1/videos/{shown['id']}"
    assert shown == {
        "id": shown["id"], "object": "video", "model": "T2V-A14B", "status": "queued", "progress": 0,
        "prompt": "a cat", "seconds": "1", "size": "64x64", "created_at": shown["created_at"], "completed_at": None,
        "expires_at": None, "remixed_from_video_id": None, "error": None,
    }  # fmt: skip
    assert client.get(f"{URL}/{shown['id']}").json() == shown
    job = client.get(f"/api/v1/jobs/{shown['id']}").json()
    params = job["params"]
    assert (params["frames"], params["fps"], params["steps"], params["seed"]) == (9, 8, 3, 7)
    assert (params["guidance_scale"], params["guidance_scale_2"]) == (4.0, 2.5)
    assert records.get(database, shown["id"]).created_at.timestamp() // 1 == shown["created_at"]


def test_a_form_of_a_generated_client(client: TestClient) -> None:
    body = form(
        ("prompt", "5"), ("model", "wan2.2-ti2v-5b"), ("seconds", "1"), ("size", "64x64"), ("fps", "12"),
        ("guidance_scale", "3.5"), ("seed", "9"), ("metadata[shot]", "12"), ("metadata[take]", "b"),
        ("fallback[]", "queue_and_wait"), ("fallback[]", "mock_generation"),
    )  # fmt: skip
    answer = client.post(URL, content=body, headers=FORM)
    assert answer.status_code == 200, answer.text
    job = client.get(f"/api/v1/jobs/{answer.json()['id']}").json()
    assert (job["params"]["prompt"], job["params"]["frames"], job["params"]["fps"]) == ("5", 13, 12)
    assert job["params"]["fallback"] == ["queue_and_wait", "mock_generation"]
    assert job["metadata"] == {"shot": "12", "take": "b"}


@pytest.mark.parametrize(
    "parts",
    [
        [("metadata[a]", "1"), ("metadata[a]", "2")],
        [("metadata", "{}"), ("metadata[]", "2")],
        [("fallback[]", "queue_and_wait"), ("fallback[a]", "b")],
        [("seconds", "1"), ("seconds", "1")],
    ],
)
def test_a_form_with_a_repeated_field(client: TestClient, parts: list[tuple[str, str]]) -> None:
    error = refused(client.post(URL, content=form(("prompt", "a"), *parts), headers=FORM), 400)
    assert (error["param"], error["code"]) == (parts[0][0].partition("[")[0], "duplicate")


def test_a_picture_as_a_file_a_data_url_and_an_object(client: TestClient) -> None:
    for_all = {"prompt": "a cat", "size": "64x64"}
    inside = data_url(picture())
    sent = client.post(URL, data=for_all, files={"input_reference": ("upload", picture("JPEG"), "image/jpeg")})
    answers = [
        sent,
        client.post(URL, json={**for_all, "input_reference": inside}),
        client.post(URL, json={**for_all, "input_reference": {"image_url": inside}}),
        client.post(URL, json={**for_all, "image_reference": {"image_url": inside}}),
        client.post(URL, content=form(*for_all.items(), ("input_reference", inside)), headers=FORM),
        client.post(URL, content=form(*for_all.items(), ("input_reference[image_url]", inside)), headers=FORM),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == "I2V-A14B", "the first model that accepts an image"
        assert client.get(f"/api/v1/jobs/{answer.json()['id']}").json()["params"]["image"] is True


def test_an_image_by_url(settings: Settings, make_client: Callable[[Settings], TestClient]) -> None:
    place, server = serve("127.0.0.1", free_port())
    place.answers |= {
        "/a.png": content(picture()), "/page": content(b"<html>"), "/away": redirect("http://169.254.169.254/latest/"),
    }  # fmt: skip
    here = f"http://127.0.0.1:{place.port}"
    asked = {"prompt": "a cat", "size": "64x64", "model": "wan2.2-i2v-a14b"}
    strict = make_client(settings)
    error = refused(strict.post(URL, json={**asked, "input_reference": f"{here}/a.png"}), 400)
    assert (error["param"], error["code"]) == ("input_reference", "forbidden_address")
    assert place.seen == []
    client = make_client(settings.model_copy(update={"outbound_allow": "127.0.0.1"}))
    answer = client.post(URL, json={**asked, "input_reference": {"image_url": f"{here}/a.png"}})
    assert answer.status_code == 200, answer.text
    assert client.get(f"/api/v1/jobs/{answer.json()['id']}").json()["params"]["image"] is True
    for path, code in (("/page", "image_type"), ("/away", "forbidden_address")):
        error = refused(client.post(URL, json={**asked, "input_reference": here + path}), 400)
        assert (error["param"], error["code"]) == ("input_reference", code)
    for named in ("file:///etc/passwd", "nonsense", ""):
        assert refused(client.post(URL, json={**asked, "input_reference": named}), 400)["param"] == "input_reference"
    place.seen.clear()
    t2v = client.post(URL, json={**asked, "model": "wan2.2-t2v-a14b", "input_reference": f"{here}/a.png"})
    assert (
        refused(t2v, 400)["message"]
        == "input_reference: T2V-A14B does not accept an image; leave it out or choose another model"
    )
    assert place.seen == [], "nothing is fetched for an invalid request"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"seconds": "99"}, "seconds", "not_supported"),
        ({"seconds": "soon"}, "seconds", "value_error"),
        ({"size": "100x100"}, "size", "not_supported"),
        ({"size": "big"}, "size", "not_supported"),
        ({"model": "sora-9"}, "model", "unknown"),
        ({"prompt": ""}, "prompt", "string_too_short"),
        ({"prompt": "  "}, "prompt", "value_error"),
        ({"surprise": 1}, "surprise", "extra_forbidden"),
        ({"num_inference_steps": 1}, "num_inference_steps", "not_supported"),
        ({"seconds": None, "num_frames": 4000}, "num_frames", "not_supported"),
        ({"fps": 13}, "fps", "not_supported"),
        ({"loras": [{"name": "../x"}]}, "loras.0.name", "value_error"),
        ({"loras": [{"name": "absent"}]}, "loras.0.name", "unknown"),
        ({"model": "wan2.2-i2v-a14b"}, "input_reference", "missing"),
        ({"model": "wan2.2-ti2v-5b", "guidance_scale_2": 3}, "guidance_scale_2", "not_supported"),
        ({"input_reference": data_url(b"no picture"), "model": "wan2.2-i2v-a14b"}, "input_reference", "image_type"),
        ({"input_reference": {"file_id": "file-1"}}, "input_reference.file_id", "not_supported"),
    ],
)
def test_an_invalid_field_is_a_400_with_its_name(
    client: TestClient, database: Database, fields: dict[str, Any], param: str, code: str
) -> None:
    error = refused(client.post(URL, json={**ASKED, **fields}), 400)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert error["message"].startswith(f"{param}: ")
    assert lists.page(database, limit=1).jobs == []


def test_other_errors_use_the_envelope_too(client: TestClient) -> None:
    nobody = "00000000-0000-7000-8000-000000000000"
    assert refused(client.post(URL, content=b"{", headers={"Content-Type": "application/json"}), 400)["param"] is None
    assert refused(client.post(URL, content=b"a=b"), 415)["code"] == "unsupported_media_type"
    assert refused(client.post(URL, json=ASKED, headers={"Origin": "http://evil.example"}), 403)["type"] == (
        "permission_error"
    )
    assert refused(client.post(URL, json=ASKED, headers={"Idempotency-Key": "\x01"}), 400)["param"] == "Idempotency-Key"
    assert refused(client.get(f"{URL}/{nobody}"), 404)["code"] == "not_found"
    assert refused(client.get(f"{URL}/video_123"), 404)["type"] == "invalid_request_error"
    assert refused(client.get("/v1/none"), 404)["code"] == "not_found"
    assert refused(client.post(f"{URL}/edits", json={}), 405)["code"] == "method_not_allowed"
    assert refused(client.get(f"{URL}?limit=0"), 400)["param"] == "limit"
    assert refused(client.get(f"{URL}?after=here"), 400)["param"] == "after"
    assert refused(client.get(f"{URL}/{nobody}/content?variant=gif"), 400)["param"] == "variant"


def test_elsewhere_errors_are_problem_documents(client: TestClient) -> None:
    for answer in (client.get("/api/v1/jobs/none"), client.get("/v2/none"), client.post("/api/v1/jobs/generation")):
        assert answer.headers["content-type"] == "application/problem+json"
    assert client.post("/api/v1/jobs/generation", json={"prompt": "a cat"}).status_code == 422


def test_without_the_database_the_client_is_told_when_to_retry(
    settings: Settings, make_client: Callable[[Settings], TestClient]
) -> None:
    away = settings.model_copy(update={"database_url": None, "home": settings.home / "not" / "there"})
    web = make_client(away)
    answer = web.get(URL)
    assert refused(answer, 503)["type"] == "server_error"
    assert answer.headers["retry-after"] == "5"
    asking = openai.OpenAI(base_url="http://localhost/v1", api_key="unused", http_client=web, max_retries=0)
    with pytest.raises(openai.InternalServerError, match="503"):
        asking.get("/videos", cast_to=object)


def test_with_a_full_disk_the_client_does_not_retry(
    settings: Settings, make_client: Callable[[Settings], TestClient]
) -> None:
    full = make_client(settings.model_copy(update={"min_free_disk_mb": 10**9}))
    answer = full.post(URL, json=ASKED)
    assert refused(answer, 507)["code"] == "disk_full"
    assert answer.headers["x-should-retry"] == "false"


@both_databases
def test_pages_in_both_orders(client: TestClient, database: Database) -> None:
    ids = [create(client)["id"] for _ in range(5)]
    accepting.accept(
        database, [accepting.NewJob(DOWNLOAD, DownloadParams(model_id="T2V-A14B", node="here"), Priority.NORMAL)]
    )
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        seen: list[str] = []
        pages = []
        after = ""
        while True:
            page = client.get(f"{URL}?limit=2&order={order}{after}").json()
            assert page["object"] == "list"
            assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
            seen += [one["id"] for one in page["data"]]
            pages.append(len(page["data"]))
            if not page["has_more"]:
                break
            after = f"&after={page['last_id']}"
        assert (seen, pages) == (expected, [2, 2, 1])
    empty = client.get(f"{URL}?after={ids[0]}").json()
    assert empty == {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}


def test_only_videos_are_videos(client: TestClient, database: Database) -> None:
    (download,) = accepting.accept(
        database, [accepting.NewJob(DOWNLOAD, DownloadParams(model_id="T2V-A14B", node="here"), Priority.NORMAL)]
    )
    assert isinstance(download, accepting.Accepted)
    path = f"{URL}/{download.job.id}"
    for answer in (client.get(path), client.delete(path), client.get(f"{path}/content")):
        assert refused(answer, 404)["message"].startswith("Video not found")
    assert refused(client.post(f"{path}/remix", json={"prompt": "a dog"}), 404)
    assert client.get(f"/api/v1/jobs/{download.job.id}").status_code == 200


def test_when_to_poll_again(client: TestClient, database: Database, settings: Settings, redis_url: str) -> None:
    first = create(client)["id"]
    path = f"{URL}/{first}"
    assert client.get(path).headers["openai-poll-after-ms"] == "1000", "nothing was measured yet"
    job = working.claim(database, first)
    working.report(redis_url, first, job.attempt, 40.9, eta_seconds=30.0)
    answer = client.get(path)
    assert (answer.json()["status"], answer.json()["progress"]) == ("in_progress", 40)
    assert answer.headers["openai-poll-after-ms"] == "3000"
    working.finish(database, job, [])
    ended = client.get(path)
    assert (ended.json()["status"], ended.json()["progress"]) == ("completed", 100)
    assert "openai-poll-after-ms" not in ended.headers
    second = create(client)["id"]  # now there is a measured one, with a duration of almost zero
    assert client.get(f"{URL}/{second}").headers["openai-poll-after-ms"] == "500"


def test_the_files(client: TestClient, database: Database, settings: Settings) -> None:
    video_id = create(client)["id"]
    path = f"{URL}/{video_id}/content"
    early = client.get(path)
    assert "not ready yet" in refused(early, 409)["message"]
    assert early.headers["x-should-retry"] == "false"
    finish(database, settings, video_id)
    assert client.get(path).content == b"the video"
    assert client.get(path).headers["content-type"] == "video/mp4"
    assert client.get(f"{path}?variant=video").content == b"the video"
    assert client.get(f"{path}?variant=thumbnail").content == b"the thumbnail"
    assert client.get(f"{path}?variant=spritesheet").content == b"the sheet"
    assert client.get(f"{path}?variant=spritesheet").headers["content-type"] == "image/jpeg"
    part = client.get(path, headers={"Range": "bytes=4-"})
    assert (part.status_code, part.content) == (206, b"video")
    tag = client.get(path).headers["etag"]
    assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
    beyond = client.get(path, headers={"Range": "bytes=99-"})
    assert refused(beyond, 416)["code"] == "range_not_satisfiable"
    assert beyond.headers["content-range"] == "bytes */9"
    expires = client.get(f"{URL}/{video_id}").json()
    assert expires["expires_at"] - expires["completed_at"] == 30 * 86400


def test_a_failed_video_has_no_files(client: TestClient, database: Database) -> None:
    failed, cancelled = create(client)["id"], create(client)["id"]
    job = working.claim(database, failed)
    attempts.fail(database, failed, job.attempt, Failure("bad_input", "No", retryable=False))
    client.post(f"/api/v1/jobs/{cancelled}/cancel")
    for video_id, code in ((failed, "bad_input"), (cancelled, "cancelled")):
        shown = client.get(f"{URL}/{video_id}").json()
        assert (shown["status"], shown["error"]["code"]) == ("failed", code)
        assert refused(client.get(f"{URL}/{video_id}/content"), 404)
        assert refused(client.post(f"{URL}/{video_id}/remix", json={"prompt": "a dog"}), 409)


def test_a_deleted_video_is_not_found(client: TestClient, database: Database, settings: Settings) -> None:
    waiting, done = create(client)["id"], create(client)["id"]
    finish(database, settings, done)
    for video_id in (waiting, done):
        answer = client.delete(f"{URL}/{video_id}")
        assert answer.json() == {"id": video_id, "object": "video.deleted", "deleted": True}
        refused(client.get(f"{URL}/{video_id}"), 404)
        refused(client.delete(f"{URL}/{video_id}"), 404)
    assert client.get(URL).json()["data"] == []
    assert not (settings.store_dir / "artifacts" / done).exists()


def test_a_remix_has_the_same_settings_with_another_prompt(
    client: TestClient, database: Database, settings: Settings
) -> None:
    source = create(client, model="wan2.2-ti2v-5b", seed=5, input_reference=data_url(picture()), fps=12)
    path = f"{URL}/{source['id']}/remix"
    assert refused(client.post(path, json={"prompt": "a dog"}), 409)["code"] == "conflict"
    finish(database, settings, source["id"])
    key = {"Idempotency-Key": "k"}
    answer = client.post(path, json={"prompt": "a dog"}, headers=key)
    assert answer.status_code == 200, answer.text
    remix = answer.json()
    assert remix["id"] != source["id"]
    assert (remix["prompt"], remix["remixed_from_video_id"], remix["status"]) == ("a dog", source["id"], "queued")
    old, new = (client.get(f"/api/v1/jobs/{one['id']}").json() for one in (source, remix))
    assert new["params"] == {**old["params"], "prompt": "a dog", "remixed_from": source["id"]}
    again = client.post(path, json={"prompt": "a dog"}, headers=key)
    assert (again.json()["id"], again.headers["idempotency-replayed"]) == (remix["id"], "true")
    assert refused(client.post(path, json={"prompt": "a bird"}, headers=key), 400)["param"] == "Idempotency-Key"
    for wrong in ({}, {"prompt": "  "}, {"prompt": "a\x00b"}, {"prompt": "x" * 5001}):
        assert refused(client.post(path, json=wrong), 400)["param"] == "prompt"
    assert refused(client.post(path, json={"prompt": "a", "seconds": "4"}), 400)["param"] == "seconds"
    client.delete(f"{URL}/{source['id']}")
    assert list((settings.store_dir / "inputs" / remix["id"]).iterdir()), "it has its own copy of the image"


def test_the_same_key_gives_the_same_video(client: TestClient) -> None:
    key = {"Idempotency-Key": "once"}
    first = client.post(URL, json=ASKED, headers=key)
    again = client.post(URL, content=form(*ASKED.items()), headers={**FORM, **key})
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    assert refused(client.post(URL, json={**ASKED, "seed": 1}, headers=key), 400)["param"] == "Idempotency-Key"
