"""Artifacts in a bucket: by signed URLs that expire, or through the API."""

import base64
import hashlib
import io
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image
from starlette.testclient import TestClient

from api.services.storage import Storage
from scheduler import ticks
from shared.cluster import nodes
from shared.database.engine import Database
from shared.jobs import attempts, records
from shared.settings import Settings
from shared.storage.store import Store, open_store
from tests.conftest import WebProcess
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.support import working
from tests.support.servers.s3_server import SECRET, Line, S3Server, in_bucket
from tests.support.stack import wait_for
from wanworks.client.client import Client

CONTENT = os.urandom(5_000_000)
TAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'


@pytest.fixture
def public(s3_server: S3Server) -> Iterator[Line]:
    """The public address of the bucket."""
    line = Line(s3_server.port)
    yield line
    line.close()


@pytest.fixture
def settings(settings: Settings, s3_server: S3Server, public: Line) -> Settings:
    return in_bucket(settings, s3_server.url, store_public_endpoint=public.url)


@pytest.fixture
def store(settings: Settings, database: Database) -> Store:
    return open_store(settings, lambda: nodes.agreed(database, "store"), create=True)


@dataclass(frozen=True)
class Made:
    job_id: str
    url: str


def make(client: Any, database: Database, store: Store, **fields: Any) -> Made:
    """Create a job that was finished by its second attempt; the first one uploaded files too."""
    job_id = client.post(URL, json={**GOOD, **fields}).json()["id"]
    loser = working.claim(database, job_id)
    working.make(store, loser, {"video.mp4": b"of the loser", "extra.json": b"{}"})
    attempts.give_back(database, job_id, 1)
    winner = working.claim(database, job_id)
    files = {"video.mp4": CONTENT, "thumbnail.jpg": b"still", "manifest.json": b"{}"}
    working.finish(database, winner, working.make(store, winner, files))
    return Made(job_id, f"/api/v1/jobs/{job_id}/artifacts/video.mp4")


def test_a_client_is_redirected_to_the_bucket(
    client: TestClient, database: Database, store: Store, public: Line
) -> None:
    made = make(client, database, store)
    answer = client.get(made.url, follow_redirects=False)
    assert answer.status_code == 307
    assert answer.headers["cache-control"] == "no-store"
    link = answer.headers["location"]
    assert link.startswith(f"{public.url}/")
    assert SECRET not in link
    got = httpx.get(link)
    assert (got.status_code, got.content == CONTENT) == (200, True)
    assert got.headers["content-type"] == "video/mp4"
    assert got.headers["content-disposition"] == 'inline; filename="video.mp4"'
    part = httpx.get(link, headers={"Range": "bytes=100-199"})  # this server answers 200, Amazon's 206
    assert (part.content, part.headers["content-range"]) == (CONTENT[100:200], f"bytes 100-199/{len(CONTENT)}")
    assert httpx.get(link.replace("Signature=", "Signature=0")).status_code == 403
    assert httpx.get(link.replace("/2/video.mp4", "/1/video.mp4")).status_code == 403, "from the failed attempt"
    head = client.head(made.url)
    assert (head.status_code, head.headers["content-length"], head.headers["etag"]) == (200, str(len(CONTENT)), TAG)
    assert client.get(made.url, headers={"If-None-Match": TAG}).status_code == 304
    for name in ("extra.json", "..%2f1%2fvideo.mp4", "nothing.mp4"):
        assert client.get(made.url.replace("video.mp4", name), follow_redirects=False).status_code == 404


def test_the_page_of_a_signed_link_plays_from_the_bucket_and_saves_through_the_api(
    client: TestClient, database: Database, store: Store, public: Line
) -> None:
    made = make(client, database, store)
    link = client.post(f"{made.url}/link").json()["url"]
    browser = {"Accept": "text/html,*/*;q=0.8"}
    page = client.get(link, headers=browser, follow_redirects=False)
    assert page.status_code == 200
    assert f"media-src 'self' {public.url};" in page.headers["content-security-policy"]
    played = client.get(link, headers={"Accept": "*/*"}, follow_redirects=False)
    assert played.headers["location"].startswith(f"{public.url}/")
    saved = client.get(f"{link}&download=true", headers=browser, follow_redirects=False)
    assert (saved.status_code, saved.content == CONTENT) == (200, True)
    assert saved.headers["content-disposition"] == f'attachment; filename="{made.job_id}-video.mp4"'


def test_a_link_expires(
    make_client: Callable[[Settings], TestClient], settings: Settings, database: Database, store: Store
) -> None:
    client = make_client(settings.model_copy(update={"store_link_seconds": 1}))
    link = client.get(make(client, database, store).url, follow_redirects=False).headers["location"]
    # Amazon and most others answer 403, this server 400.
    refused = wait_for(lambda: (got := httpx.get(link)).status_code != 200 and got, 10, "for the link to expire")
    assert refused is not None
    assert refused.status_code in (400, 403)
    assert "AccessDenied" in refused.text


def test_clients_follow_redirects_without_sending_their_key(
    settings: Settings, database: Database, store: Store, public: Line, tmp_path: Path
) -> None:
    web = WebProcess(settings).start()
    try:
        made = make(web.http, database, store)
        with Client(f"http://127.0.0.1:{web.port}") as client:
            job = client.job(made.job_id)
            artifact = next(one for one in job["result"]["artifacts"] if one["name"] == "video.mp4")  # type: ignore
            assert client.download(artifact, tmp_path / "video.mp4") == len(CONTENT)
        assert (tmp_path / "video.mp4").read_bytes() == CONTENT
        theirs = openai.OpenAI(base_url=f"http://127.0.0.1:{web.port}/v1", api_key="of-the-client", max_retries=0)
        assert theirs.videos.download_content(made.job_id).read() == CONTENT
        assert theirs.videos.download_content(made.job_id, variant="thumbnail").read() == b"still"
        followed = httpx.get(
            f"http://127.0.0.1:{web.port}{made.url}",
            headers={"Authorization": "Bearer of-the-client"},
            follow_redirects=True,
        )
        assert followed.content == CONTENT
        gets = [ask.partition("?")[0].rpartition("/")[2] for ask in public.asked if ask.startswith("GET")]
        assert gets == ["video.mp4", "video.mp4", "thumbnail.jpg", "video.mp4"], public.asked
        assert b"authorization" not in public.heard.lower()
        assert b"of-the-client" not in public.heard
    finally:
        web.http.close()
        web.stop()


def test_through_the_api(
    make_client: Callable[[Settings], TestClient], settings: Settings, database: Database, store: Store, public: Line
) -> None:
    client = make_client(settings.model_copy(update={"store_redirect": False}))
    made = make(client, database, store)
    whole = client.get(made.url)
    assert (whole.status_code, whole.content == CONTENT, whole.headers["etag"]) == (200, True, TAG)
    assert whole.headers["content-type"] == "video/mp4"
    for asked, start, end in (
        ("bytes=0-99", 0, 100),
        ("bytes=4999990-", 4_999_990, 5_000_000),
        ("bytes=-7", 4_999_993, 5_000_000),
        ("bytes=10-4999999", 10, 5_000_000),
    ):
        part = client.get(made.url, headers={"Range": asked})
        assert (part.status_code, part.content == CONTENT[start:end]) == (206, True), asked
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    assert client.get(made.url, headers={"Range": "bytes=0-1", "If-Range": '"other"'}).status_code == 200
    assert client.get(made.url, headers={"Range": "bytes=0-1,5-6"}).content == CONTENT
    assert client.get(made.url, headers={"Range": "bytes=5000000-"}).status_code == 416
    head = client.head(made.url)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(CONTENT)))
    assert public.asked == []
    store.drop_attempt(made.job_id, 2)
    assert client.get(made.url).status_code == 404


def test_pictures_go_to_the_bucket_and_are_copied_there(
    client: TestClient, database: Database, store: Store, settings: Settings, s3_server: S3Server
) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    asked = {
        **GOOD,
        "model_id": "I2V-A14B",
        "image": f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}",
    }
    first = client.post(URL, json=asked)
    assert first.status_code == 202, first.text
    job_id = first.json()["id"]
    reference = records.get(database, job_id).params["image"]
    file = store.input_file(reference, job_id, 1)
    assert file.is_relative_to(settings.home / "scratch")
    assert Image.open(file).size == (64, 64)
    client.post(f"/api/v1/jobs/{job_id}/cancel")
    again = client.post(f"/api/v1/jobs/{job_id}/retry").json()["id"]
    assert client.delete(f"/api/v1/jobs/{job_id}").status_code == 204
    assert store.input_file(records.get(database, again).params["image"], again, 2).read_bytes() == file.read_bytes()
    prefix = str(settings.store_url).rpartition("/")[2]
    assert s3_server.objects(prefix) == [f"{prefix}/inputs/{again}/image.png", f"{prefix}/marker"]


def test_retention_and_the_sweep_clean_the_bucket(
    client: TestClient, database: Database, store: Store, settings: Settings, s3_server: S3Server
) -> None:
    made = make(client, database, store)
    store.put_input("0" * 26, "image.png", b"of nobody")
    prefix = str(settings.store_url).rpartition("/")[2]
    assert ticks.sweep(database, store, -5.0).startswith("1 orphaned folders, 1 losing attempts")
    kept = [f"{prefix}/artifacts/{made.job_id}/2/{name}" for name in ("manifest.json", "thumbnail.jpg", "video.mp4")]
    assert s3_server.objects(prefix) == [*kept, f"{prefix}/marker"]
    assert client.delete(f"/api/v1/jobs/{made.job_id}").status_code == 204
    assert s3_server.objects(prefix) == [f"{prefix}/marker"]


def test_the_page_may_show_artifacts_in_the_bucket(client: TestClient, public: Line) -> None:
    policy = client.get("/").headers["content-security-policy"]
    allowed = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
    assert public.url in allowed["media-src"].split()
    assert public.url in allowed["img-src"].split()
    assert public.url not in allowed["script-src"] + allowed["connect-src"]


def test_an_unreachable_bucket(
    make_client: Callable[[Settings], TestClient], settings: Settings, database: Database, s3_server: S3Server
) -> None:
    line = Line(s3_server.port)
    near = settings.model_copy(update={"store_endpoint": line.url, "store_redirect": False})
    store = open_store(near, lambda: nodes.agreed(database, "store"), create=True)
    client = make_client(near)
    made = make(client, database, store)
    assert wait_for(lambda: "store_unavailable" not in client.get("/readyz").json()["reasons"], 15)
    line.cut_after = 0
    away = client.get(made.url)
    assert (away.status_code, away.json()["code"]) == (503, "store_unavailable")
    assert re.fullmatch(r"\d+", away.headers["retry-after"])
    assert SECRET not in away.text
    assert client.post(URL, json=GOOD).status_code == 202, "a job without an image needs no bucket"
    assert wait_for(lambda: "store_unavailable" in client.get("/readyz").json().get("reasons", ()), 15)
    line.cut_after = None
    assert client.get(made.url).status_code == 200
    line.close()


def test_a_bucket_that_has_not_answered_yet_is_not_reported_as_available(
    settings: Settings, database: Database, s3_server: S3Server
) -> None:
    line = Line(s3_server.port)
    line.hold = True
    storage = Storage(settings.model_copy(update={"store_endpoint": line.url}), database)
    first = threading.Thread(target=storage.answers)
    first.start()
    assert wait_for(lambda: line.asked, 15), "the first check is under way"
    assert not storage.answers()
    line.hold = False
    first.join(30)
    assert storage.answers()
    line.close()
