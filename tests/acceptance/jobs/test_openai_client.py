"""The unmodified `openai` client, and curl, against the running system."""

import asyncio
import base64
import hashlib
import json
import subprocess
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import openai
import pytest
from openai.types import Video
from PIL import Image

from tests.support.stack import Stack, wait_for

# The vendor's own service has closed, so the client calls these methods deprecated; the shape lives on.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

QUICK: dict[str, Any] = {"num_inference_steps": 2, "seed": 7}


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="not needed here") as client:
        yield client


@pytest.fixture(scope="module")
def done(stack: Stack) -> Video:
    """A finished video, made by `create_and_poll`."""
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="not needed here") as client:
        return client.videos.create_and_poll(
            model="wan2.2-t2v-a14b",
            prompt="a cat",
            seconds="1",
            size="64x64",
            extra_body=QUICK,  # type: ignore[arg-type]
        )


def picture() -> bytes:
    file = BytesIO()
    Image.new("RGB", (80, 60), "teal").save(file, "PNG")
    return file.getvalue()


def test_create_and_poll(stack: Stack, done: Video) -> None:
    assert (done.object, done.status, done.progress, done.error) == ("video", "completed", 100, None)
    assert (done.model, done.prompt, done.seconds, done.size) == ("T2V-A14B", "a cat", "1", "64x64")
    assert done.completed_at is not None
    assert done.expires_at is not None
    assert done.created_at <= done.completed_at < done.expires_at
    job = stack.job(done.id)
    assert job["status"] == "succeeded"
    assert (job["params"]["frames"], job["params"]["fps"], job["params"]["seed"]) == (9, 8, 7)
    assert job["result"]["duration_seconds"] == pytest.approx(9 / 8)


def test_create_and_retrieve(client: openai.OpenAI) -> None:
    made = client.videos.create(model="T2V-A14B", prompt="a dog", size="64x64", seconds="1", extra_body=QUICK)  # type: ignore[arg-type]
    assert made.status == "queued"
    response = client.videos.with_raw_response.retrieve(made.id)
    video = response.parse()
    assert video.id == made.id
    if video.status in ("queued", "in_progress"):
        assert 500 <= int(response.headers["openai-poll-after-ms"]) <= 5000
    assert response.headers["x-request-id"]
    assert client.videos.poll(made.id).status == "completed"
    assert "openai-poll-after-ms" not in client.videos.with_raw_response.retrieve(made.id).headers


def test_a_picture_as_a_file_and_by_data_url(stack: Stack, client: openai.OpenAI) -> None:
    inside = "data:image/png;base64," + base64.b64encode(picture()).decode()
    asked: dict[str, Any] = {"model": "wan2.2-i2v-a14b", "prompt": "it moves", "size": "64x64", "seconds": "1"}
    videos = [
        client.videos.create(**asked, input_reference=("a.png", picture(), "image/png"), extra_body=QUICK),
        client.videos.create(**asked, extra_body={**QUICK, "input_reference": {"image_url": inside}}),
    ]
    made = [client.videos.poll(video.id) for video in videos]
    assert [video.status for video in made] == ["completed", "completed"]
    hashes = {hashlib.sha256(client.videos.download_content(video.id).read()).hexdigest() for video in made}
    assert len(hashes) == 1, "the same picture and seed, so the same video"


def test_list_over_three_pages(client: openai.OpenAI, done: Video) -> None:
    made = [
        client.videos.create(model="T2V-A14B", prompt=f"cat {place}", size="64x64", seconds="1", extra_body=QUICK).id  # type: ignore[arg-type]
        for place in range(4)
    ]
    first = client.videos.list(limit=2, after=done.id, order="asc")
    second = first.get_next_page()
    assert [len(first.data), len(second.data)] == [2, 2]
    assert first.has_more
    assert first.last_id == first.data[-1].id
    walked = [video.id for video in client.videos.list(limit=2, after=done.id, order="asc")]
    assert walked[-4:] == made
    newest = []
    for page in client.videos.list(limit=2).iter_pages():
        newest.append([video.id for video in page.data])
        if len(newest) == 3:
            break
    assert newest[:2] == [made[:1:-1], made[1::-1]]
    assert len(newest[2]) > 0
    assert [video.id for video in client.videos.list(limit=100)][:4] == made[::-1]
    for video_id in made:
        assert client.videos.poll(video_id).status == "completed"


def test_download_each_variant(stack: Stack, client: openai.OpenAI, done: Video) -> None:
    made = {one["kind"]: one for one in stack.job(done.id)["result"]["artifacts"]}
    for variant, kind in (("video", "video"), ("thumbnail", "thumbnail"), ("spritesheet", "contact_sheet")):
        response = client.videos.download_content(done.id, variant=variant)  # type: ignore[arg-type]
        assert hashlib.sha256(response.read()).hexdigest() == made[kind]["sha256"]
        assert response.response.headers["content-type"] == made[kind]["content_type"]
    assert client.videos.download_content(done.id).read()[4:8] == b"ftyp"


def test_remix_and_delete(stack: Stack, client: openai.OpenAI, done: Video) -> None:
    remix = client.videos.remix(done.id, prompt="a dog instead")
    assert (remix.remixed_from_video_id, remix.prompt, remix.size) == (done.id, "a dog instead", "64x64")
    finished = client.videos.poll(remix.id)
    assert (finished.status, finished.seconds) == ("completed", "1")
    assert stack.job(remix.id)["params"]["seed"] == 7
    gone = client.videos.delete(remix.id)
    assert (gone.id, gone.object, gone.deleted) == (remix.id, "video.deleted", True)
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(remix.id)


def test_a_cancelled_video_has_failed(stack: Stack, client: openai.OpenAI) -> None:
    video = client.videos.create(prompt="a long one", size="1280x720", model="T2V-A14B", seconds="10")  # type: ignore[arg-type]
    stack.request("POST", f"/api/v1/jobs/{video.id}/cancel")
    ended = client.videos.poll(video.id, poll_interval_ms=100)
    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error.code == "cancelled"


def test_each_error_class(client: openai.OpenAI, done: Video) -> None:
    with pytest.raises(openai.BadRequestError, match=r"seconds: 60 is not supported by T2V-A14B") as bad:
        client.videos.create(prompt="a cat", model="T2V-A14B", seconds="60")  # type: ignore[arg-type]
    assert (bad.value.param, bad.value.code, bad.value.type) == ("seconds", "not_supported", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as bad:
        client.videos.create(prompt="a cat", model="wan2.2-t2v-a14b", input_reference=picture())
    assert bad.value.param == "input_reference"
    with pytest.raises(openai.BadRequestError) as bad:
        client.videos.create(prompt="a cat", extra_body={"input_reference": "http://169.254.169.254/latest/meta-data"})
    assert (bad.value.param, bad.value.code) == ("input_reference", "forbidden_address")
    with pytest.raises(openai.NotFoundError) as missing:
        client.videos.retrieve("video_that_never_was")
    assert missing.value.code == "not_found"
    with pytest.raises(openai.PermissionDeniedError):
        client.videos.create(prompt="a cat", extra_headers={"Origin": "http://elsewhere.example"})
    waiting = client.videos.create(prompt="a long one", size="1280x720", model="T2V-A14B", seconds="10")  # type: ignore[arg-type]
    with pytest.raises(openai.ConflictError, match="not ready yet") as early:
        client.videos.download_content(waiting.id)
    assert early.value.response.request.headers["x-stainless-retry-count"] == "0", "asking at once again is of no use"
    with pytest.raises(openai.ConflictError):
        client.videos.remix(waiting.id, prompt="a dog")
    client.videos.delete(waiting.id)
    with pytest.raises(openai.APIStatusError) as other:
        client.videos.edit(prompt="a cat", video=b"a video")
    assert other.value.status_code == 405


def test_the_asynchronous_client(stack: Stack) -> None:
    async def all_of_it() -> bytes:
        async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="not needed here") as client:
            video = await client.videos.create_and_poll(
                model="T2V-A14B",
                prompt="a cat",
                seconds="1",
                size="64x64",
                extra_body=QUICK,  # type: ignore[arg-type]
            )
            assert video.status == "completed"
            content = await client.videos.download_content(video.id, variant="thumbnail")
            assert video.id in [one.id async for one in client.videos.list(limit=2)]
            return content.read()

    assert asyncio.run(all_of_it())[:2] == b"\xff\xd8"


def curl(*arguments: str) -> Any:
    return json.loads(subprocess.run(["curl", "-sS", *arguments], check=True, capture_output=True).stdout)


def test_curl_with_json_and_with_a_form(stack: Stack) -> None:
    body = {"model": "wan2.2-t2v-a14b", "prompt": "a cat", "seconds": "1", "size": "64x64", **QUICK}
    url = f"{stack.url}/v1/videos"
    by_json = curl(url, "-H", "Content-Type: application/json", "-d", json.dumps(body))
    by_form = curl(url, *(part for name, value in body.items() for part in ("-F", f"{name}={value}")))
    for video in (by_json, by_form):
        assert video["status"] == "queued", video

    def ended(video_id: str) -> Any:
        shown = curl(f"{url}/{video_id}")
        return shown if shown["status"] not in ("queued", "in_progress") else None

    for video in (by_json, by_form):
        assert wait_for(lambda video=video: ended(video["id"]), 60)["status"] == "completed"  # type: ignore[misc]
    assert curl(url, "-d", "prompt=x")["error"]["code"] == "unsupported_media_type"
