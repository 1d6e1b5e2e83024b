"""Archives of batches: sent as slowly as the client reads, from a directory or a bucket, and never a wrong one."""

import http.client
import io
import os
import socket
import time
import zipfile

import anyio
import psutil
import pytest
from starlette.testclient import TestClient

from api.jobs.many import batch_archive
from shared.cluster import nodes
from shared.database.engine import Database
from shared.settings import Settings
from shared.storage.store import Store, open_store
from tests.conftest import WebProcess
from tests.support import working
from tests.support.batches import stored
from tests.support.servers.s3_server import S3Server, in_bucket
from tests.support.stack import wait_for

SIZE = 12_000_000


@pytest.fixture
def store(settings: Settings, database: Database) -> Store:
    return open_store(settings, lambda: nodes.agreed(database, "store"), create=True)


def batch_with_videos(database: Database, store: Store, count: int, content: bytes) -> tuple[str, list[str]]:
    batch, jobs = stored(database, count)
    for job in jobs:
        running = working.claim(database, job.id)
        working.finish(database, running, working.make(store, running, {"video.mp4": content}))
    return batch.id, [job.id for job in jobs]


class Slow:
    """A client that has sent its request and reads the response as told."""

    def __init__(self, port: int, batch_id: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.socket.sendall(
            f"GET /api/v1/batches/{batch_id}/artifacts.zip HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        self.response = http.client.HTTPResponse(self.socket)

    def begin(self) -> int:
        self.response.begin()
        return self.response.status

    def leave(self) -> None:
        self.response.close()
        self.socket.close()


def test_slow_clients_take_neither_memory_nor_threads(web: WebProcess, database: Database, store: Store) -> None:
    """Four that read nothing fill the slots; a fifth is refused; others are served; one that leaves frees its slot."""
    content = os.urandom(SIZE)
    batch_id, jobs = batch_with_videos(database, store, 4, content)
    process = psutil.Process(web.process.pid)
    web.http.get(f"/api/v1/batches/{batch_id}")
    before = process.memory_info().rss
    slow = [Slow(web.port, batch_id) for _ in range(4)]
    assert [one.begin() for one in slow] == [200] * 4
    refused = web.http.get(f"/api/v1/batches/{batch_id}/artifacts.zip")
    assert (refused.status_code, refused.json()["code"]) == (503, "archives_busy")
    assert int(refused.headers["Retry-After"]) > 0
    began = time.monotonic()
    assert web.http.get(f"/api/v1/jobs/{jobs[0]}").status_code == 200
    assert time.monotonic() - began < 5
    time.sleep(0.5)
    assert process.memory_info().rss - before < 2 * SIZE, "of 4 x 48 MB only a few pieces are held"
    slow[0].leave()  # it disconnects in the midst

    def served() -> bool:
        answer = web.http.get(f"/api/v1/batches/{batch_id}/artifacts.zip")
        return answer.status_code == 200 and zipfile.ZipFile(io.BytesIO(answer.content)).testzip() is None

    wait_for(served, 20, "for the slot of the client that has left", every=0.2)
    whole = slow[1].response.read()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert archive.read(f"{jobs[3]}/video.mp4") == content
    for one in slow:
        one.leave()


def test_a_file_that_goes_meanwhile_ends_the_connection(
    web: WebProcess, database: Database, settings: Settings, store: Store
) -> None:
    batch_id, jobs = batch_with_videos(database, store, 3, os.urandom(SIZE))
    slow = Slow(web.port, batch_id)
    assert slow.begin() == 200
    for path in (settings.store_dir / "artifacts" / jobs[2]).rglob("*.mp4"):
        path.unlink()
    with pytest.raises(http.client.IncompleteRead):
        slow.response.read()
    web.http.delete(f"/api/v1/jobs/{jobs[2]}")
    answer = web.http.get(f"/api/v1/batches/{batch_id}/artifacts.zip")
    names = zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    assert names == ["manifest.json", f"{jobs[0]}/video.mp4", f"{jobs[1]}/video.mp4"]


def test_a_client_that_stalls_is_disconnected(
    client: TestClient, database: Database, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_archive, "STALLED_SECONDS", 0.2)
    slots = client.app_state["context"].archives
    for _ in range(4):
        slots.take()
    made = batch_archive.archives.archive(store, [], b"{}" * 300_000)
    response = batch_archive._Archive(slots, made, {})
    scope = {"type": "http", "asgi": {"spec_version": "2.4"}}

    async def stalled() -> None:
        async def receive() -> dict[str, str]:
            await anyio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.body":
                await anyio.sleep(60)

        with anyio.fail_after(10):
            await response(scope, receive, send)  # type: ignore[arg-type]

    anyio.run(stalled)
    slots.take()  # its slot is free again


class TestInABucket:
    @pytest.fixture
    def settings(self, settings: Settings, s3_server: S3Server) -> Settings:
        return in_bucket(settings, s3_server.url)

    def test_an_archive_from_a_bucket(self, client: TestClient, database: Database, store: Store) -> None:
        content = os.urandom(9_000_000)
        batch_id, jobs = batch_with_videos(database, store, 2, content)
        answer = client.get(f"/api/v1/batches/{batch_id}/artifacts.zip")
        assert int(answer.headers["content-length"]) == len(answer.content)
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            assert archive.read(f"{jobs[1]}/video.mp4") == content
