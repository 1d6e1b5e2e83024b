"""Artifacts over HTTP: only those of the successful attempt, with ranges and ETags."""

import hashlib
import re
import socket

import pytest
from starlette.testclient import TestClient

from shared.database.engine import Database
from shared.jobs import attempts
from shared.settings import Settings
from shared.storage.directory import DirectoryStore
from tests.conftest import WebProcess
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.support import working

CONTENT = bytes(range(256)) * 1000
TAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'


@pytest.fixture
def video(client: TestClient, database: Database, settings: Settings) -> str:
    """The URL of the video of a finished job, created by its second attempt."""
    job_id = client.post(URL, json=GOOD).json()["id"]
    store = DirectoryStore(settings.store_dir)
    loser = working.claim(database, job_id)
    working.make(store, loser, {"video.mp4": b"of the loser", "extra.json": b"{}"})
    attempts.give_back(database, job_id, 1)
    winner = working.claim(database, job_id)
    working.finish(database, winner, working.make(store, winner, {"video.mp4": CONTENT, "manifest.json": b"{}"}))
    (store.root / "artifacts" / job_id / "2" / "unlisted.mp4").write_bytes(b"not in the result")
    return f"/api/v1/jobs/{job_id}/artifacts/video.mp4"


def test_the_whole_file(client: TestClient, video: str) -> None:
    answer = client.get(video)
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["etag"] == TAG
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert 'filename="video.mp4"' in answer.headers["content-disposition"]
    assert client.get(video.replace("video.mp4", "manifest.json")).headers["content-type"] == "application/json"
    head = client.head(video)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(CONTENT)), b"")


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-99", 0, 100), ("bytes=255900-", 255_900, 256_000), ("bytes=-7", 255_993, 256_000),
     ("bytes=5-5", 5, 6), ("bytes=255990-999999999", 255_990, 256_000), ("bytes=-999999999", 0, 256_000),
     ("bytes=0-1,999999999-", 0, 2)],
)  # fmt: skip
def test_a_range(client: TestClient, video: str, asked: str, start: int, end: int) -> None:
    answer = client.get(video, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    assert answer.headers["content-length"] == str(end - start)
    assert answer.headers["etag"] == TAG


def test_several_ranges(client: TestClient, video: str) -> None:
    answer = client.get(video, headers={"Range": "bytes=0-3,100-103,-2"})
    assert answer.status_code == 206
    boundary = re.fullmatch(r"multipart/byteranges; boundary=(\w+)", answer.headers["content-type"])
    assert boundary is not None
    parts = answer.content.split(b"--" + boundary[1].encode())[1:-1]
    assert [part.split(b"\r\n\r\n")[1].removesuffix(b"\r\n") for part in parts] == [
        CONTENT[:4],
        CONTENT[100:104],
        CONTENT[-2:],
    ]


@pytest.mark.parametrize("asked", ["bytes=256000-", "bytes=-0", "bytes=999999-1000000"])
def test_a_range_beyond_the_end(client: TestClient, video: str, asked: str) -> None:
    answer = client.get(video, headers={"Range": asked})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"
    assert answer.json()["code"] == "range_not_satisfiable"


@pytest.mark.parametrize("asked", ["lines=0-4", "bytes", "bytes=x-y", "bytes=9-3", "nonsense", "bytes=1-2;3"])
def test_a_malformed_range_is_ignored(client: TestClient, video: str, asked: str) -> None:
    answer = client.get(video, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_if_none_match(client: TestClient, video: str) -> None:
    answer = client.get(video, headers={"If-None-Match": f'"other", {TAG}'})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", TAG)
    for malformed in ("abc", '"abc', TAG.strip('"'), "W/", ",,"):
        assert client.get(video, headers={"If-None-Match": malformed}).status_code == 200


def test_if_range(client: TestClient, video: str) -> None:
    def status(tag: str, asked: str = "bytes=0-1") -> int:
        return client.get(video, headers={"Range": asked, "If-Range": tag}).status_code

    assert status(TAG) == 206
    assert status('"another version"') == 200
    assert status("malformed") == 200
    assert status("W/" + TAG) == 200
    assert status(TAG, "bytes=999999-") == 416
    assert status('"another version"', "bytes=999999-") == 200


@pytest.mark.parametrize(
    "name",
    ["..%2f..%2fmarker", "%2e%2e", "..%5cvideo.mp4", "nothing.mp4", "extra.json",
     "unlisted.mp4", ".", "%00", "video.mp4%00", "video.mp4%2f", "a" * 3000, "VIDEO.MP4"],
)  # fmt: skip
def test_a_missing_artifact(client: TestClient, video: str, name: str) -> None:
    answer = client.get(video.replace("video.mp4", name))
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_missing_artifact_names_those_that_there_are(client: TestClient, video: str) -> None:
    detail = client.get(video.replace("video.mp4", "video.webm")).json()["detail"]
    assert detail == "Artifact not found: video.webm. The job has: manifest.json, video.mp4"


def test_nothing_is_served_before_the_end(client: TestClient, database: Database, settings: Settings) -> None:
    job_id = client.post(URL, json=GOOD).json()["id"]
    store = DirectoryStore(settings.store_dir)
    job = working.claim(database, job_id)
    working.make(store, job, {"video.mp4": b"half"})
    answer = client.get(f"/api/v1/jobs/{job_id}/artifacts/video.mp4")
    assert answer.status_code == 404
    assert answer.json()["detail"] == (
        "Artifact not found: video.mp4. The job is running; only jobs that have succeeded have artifacts"
    )


def test_a_missing_file_is_not_found(client: TestClient, video: str, settings: Settings) -> None:
    DirectoryStore(settings.store_dir).drop_job(video.split("/")[4])
    assert client.get(video).status_code == 404


@pytest.mark.parametrize("name", ["..", "../2/video.mp4", "../../../marker", "//marker", "video.mp4/", ".", ""])
def test_a_path_that_is_not_normalised_is_not_found(web: WebProcess, name: str) -> None:
    job_id = web.http.post(URL, json=GOOD).json()["id"]
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as raw:
        path = f"/api/v1/jobs/{job_id}/artifacts/{name}"
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert raw.recv(100).split()[1] == b"404"
