"""The client library against a real web process, also while the connection or the server fails."""

import hashlib
import inspect
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from shared.database.engine import Database
from shared.settings import Settings
from shared.storage.directory import DirectoryStore
from shared.storage.store import Store
from tests.conftest import WebProcess, free_port
from tests.integration.api.jobs.test_generation import GOOD, picture
from tests.support import working
from tests.support.jobs import accepted
from tests.support.stack import wait_for
from wanworks.client import calls
from wanworks.client.client import AsyncClient, Client, Retry
from wanworks.client.event_stream import Event, EventStream
from wanworks.client.retries import pause_seconds, retry_after
from wanworks.client.steps import Answer
from wanworks.errors import (
    AccessRefused,
    ApiUnreachable,
    BadRequest,
    NotThere,
    StateForbids,
    TimedOut,
    TooBusy,
    TransferBroken,
)

VIDEO = bytes(range(256)) * 4000  # 1.02 MB
NOBODY = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Fault:
    """A fault of the first request whose path contains this."""

    path: str
    status: int | None = None  # answered so, and never forwarded
    headers: str = ""
    cut_after: int | None = None  # so many bytes of the body come through, then the connection is gone


@dataclass
class Meddler:
    """Between a client and the server: sees every request, and lets faults happen."""

    server_port: int
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def asked(self, path: str) -> list[dict[str, str]]:
        return [headers for line, headers in self.seen if path in line]

    def meddle(self, connection: socket.socket) -> None:
        head, body = _message(connection)
        line, *rest = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in rest)}
        self.seen.append((line, headers))
        fault = next((each for each in self.faults if each.path in line), None)
        if fault is not None:
            self.faults.remove(fault)
        if fault is not None and fault.status is not None:
            said = f"HTTP/1.1 {fault.status} No\r\n{fault.headers}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}"
            connection.sendall(said.encode())
            return
        with socket.create_connection(("127.0.0.1", self.server_port)) as server:
            closing = re.sub(rb"(?i)connection: keep-alive", b"Connection: close", head)
            server.sendall(closing + b"\r\n\r\n" + body)
            head, body = _message(server, whole=False)
            if fault is not None and fault.cut_after == 0:
                return  # carried out, and never told
            connection.sendall(head + b"\r\n\r\n")
            left = fault.cut_after if fault is not None else None
            while body:
                connection.sendall(body if left is None else body[:left])
                left = None if left is None else left - len(body)
                if left is not None and left <= 0:
                    return
                body = server.recv(65536)


def _message(connection: socket.socket, whole: bool = True) -> tuple[bytes, bytes]:
    """The head of what comes, and of the body what has come with it, or (`whole`) all that its length names."""
    content = b""
    while b"\r\n\r\n" not in content:
        content += (chunk := connection.recv(65536))
        if not chunk:
            raise ConnectionError("closed before a head")
    head, _, body = content.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while whole and length and len(body) < int(length[1]):
        body += connection.recv(65536)
    return head, body or (b"" if whole else connection.recv(65536))


@pytest.fixture
def meddler(web: WebProcess) -> Iterator[Meddler]:
    meddler = Meddler(web.port)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # one of the two has gone, which is what this is for
                meddler.meddle(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        meddler.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield meddler
        server.shutdown()


class Awaited:
    """An AsyncClient, used from a synchronous test."""

    def __init__(self, client: AsyncClient, portal: BlockingPortal) -> None:
        self._client, self._portal = client, portal

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **fields: Any) -> Any:
            made = getattr(self._client, name)(*args, **fields)
            return self._all(made) if inspect.isasyncgen(made) else self._portal.call(lambda: made)

        return call

    def _all(self, told: Any) -> Iterator[Any]:
        while True:
            try:
                yield self._portal.call(told.__anext__)
            except StopAsyncIteration:
                return


@contextmanager
def opened(kind: str, url: str, **options: Any) -> Iterator[Any]:
    if kind == "sync":
        with Client(url, **options) as client:
            yield client
        return
    with start_blocking_portal() as portal:
        client = portal.call(partial(AsyncClient, url, **options))
        yield Awaited(client, portal)
        portal.call(client.close)


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, meddler: Meddler) -> Iterator[Any]:
    """A Client, then an AsyncClient."""
    with opened(request.param, meddler.url) as client:
        yield client


@pytest.fixture
def store(settings: Settings) -> Store:
    return DirectoryStore(settings.store_dir)


def made(database: Database, settings: Settings, client: Any) -> Any:
    """A job that has a video."""
    asked = client.generate(**GOOD)
    job = working.claim(database, asked["id"])
    store = DirectoryStore(settings.store_dir)
    working.finish(database, job, working.make(store, job, {"video.mp4": VIDEO, "manifest.json": b"{}"}))
    return client.job(asked["id"])


class Following:
    """A job's progress, taken as it comes."""

    def __init__(self, told: Iterator[Any]) -> None:
        self.seen: list[Any] = []
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._take, args=(told,), daemon=True)
        self._thread.start()

    def _take(self, told: Iterator[Any]) -> None:
        try:
            for job in told:
                self.seen.append(job)
        except Exception as error:
            self.failure = error

    def percents(self) -> list[float]:
        return [job["progress"]["percent"] for job in self.seen]

    def until(self, percent: float) -> None:
        wait_for(lambda: percent in self.percents(), 30, f"for {percent} %, saw {self.percents()}, {self.failure}")

    def end(self) -> Any:
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.failure is None, self.failure
        assert self.percents() == sorted(self.percents()), "never back"
        return self.seen[-1]


def test_a_video_from_asking_to_file(client: Any, database: Database, settings: Settings, tmp_path: Path) -> None:
    job = made(database, settings, client)
    assert job["status"] == "succeeded"
    assert client.wait(job["id"])["id"] == job["id"]
    video = next(each for each in job["result"]["artifacts"] if each["name"] == "video.mp4")
    target = tmp_path / "boat.mp4"
    assert client.download(video, target) == len(VIDEO)
    assert target.read_bytes() == VIDEO
    assert [path.name for path in tmp_path.glob("boat*")] == ["boat.mp4"]
    again = client.retry(job["id"])
    assert again["retry_of"] == job["id"]
    assert client.cancel(again["id"])["status"] == "cancelled"
    client.delete(again["id"])
    with pytest.raises(NotThere):
        client.job(again["id"])


def test_an_image_goes_as_bytes_or_as_a_file(client: Any, tmp_path: Path) -> None:
    fields = {**GOOD, "model_id": "I2V-A14B"}
    assert client.generate(**fields, image=picture())["params"]["image"] is True
    file = tmp_path / "in.png"
    file.write_bytes(picture())
    assert client.generate(**fields, image=file)["params"]["image"] is True
    with pytest.raises(FileNotFoundError):
        client.generate(**fields, image=tmp_path / "none.png")


def test_all_pages_are_one_iterator(client: Any, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [accepted(database).id for _ in range(5)]
    monkeypatch.setattr(calls, "_PAGE", 2)
    assert [job["id"] for job in client.jobs(type="generation", status=None)] == ids[::-1]
    page = client.jobs_page(limit=2)
    assert (len(page["data"]), page["has_more"], page["next"]) == (2, True, ids[3])


def test_what_else_there_is_to_ask(client: Any) -> None:
    assert client.workers()["devices"] == []
    assert client.queues()["queued"] == 0
    assert "T2V-A14B" in client.models()["models"]
    assert "T2V-A14B" in client.analytics(7)["model_analytics"]
    assert client.alerts() == []
    assert client.fallback("T2V-A14B", quality="low")["fallback_strategy"]["strategy_type"]
    assert client.cleanup()["job_ids"] == []
    assert client.pin("T2V-A14B")["pinned"] is True
    assert client.pin("T2V-A14B", False)["pinned"] is False
    with pytest.raises(NotThere):
        client.acknowledge(NOBODY, "me")
    with pytest.raises(NotThere):
        client.fetch_model("NONE")


def test_a_refusal_says_all_that_the_server_said(client: Any) -> None:
    with pytest.raises(BadRequest) as wrong:
        client.generate(**{**GOOD, "fps": 23, "frames": 100_000})
    error = wrong.value
    assert (error.status, error.problem_code) == (422, "validation_error")
    assert {each.name for each in error.fields} == {"fps", "frames"}
    assert "fps: 23 is not supported" in str(error)
    assert error.request_id
    job = client.generate(**GOOD)
    client.cancel(job["id"])
    client.cancel(job["id"])  # idempotent
    with pytest.raises(NotThere) as gone:
        client.job("../workers")
    assert gone.value.status == 404


def test_ended_otherwise_cannot_be_cancelled(client: Any, database: Database, settings: Settings) -> None:
    with pytest.raises(StateForbids):
        client.cancel(made(database, settings, client)["id"])


def test_a_busy_server_is_retried_with_the_same_key(client: Any, meddler: Meddler, database: Database) -> None:
    meddler.faults += [
        Fault("/jobs/generation", status=503, headers="Retry-After: 0\r\n"),
        Fault("/jobs/generation", status=429),
        Fault("/jobs/generation", cut_after=0),  # the job is made, and nobody is told
    ]
    job = client.generate(**GOOD)
    keys = [headers["idempotency-key"] for headers in meddler.asked("POST /api/v1/jobs/generation")]
    assert len(keys) == 4
    assert len(set(keys)) == 1
    assert [each["id"] for each in client.jobs()] == [job["id"]]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_patience_ends(kind: str, meddler: Meddler) -> None:
    meddler.faults += [Fault("/workers", status=503, headers="Retry-After: 7\r\n")] * 2
    with opened(kind, meddler.url, retry=Retry(seconds=2)) as client:
        with pytest.raises(TooBusy) as busy:
            client.workers()
        assert busy.value.retry_after_seconds == 7
        assert len(meddler.asked("/workers")) == 1, "7 seconds are more than 2"
    nobody = f"http://127.0.0.1:{free_port()}"
    with opened(kind, nobody, retry=Retry(seconds=0.5)) as client, pytest.raises(ApiUnreachable, match="be reached"):
        client.workers()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://127.0.0.1:none"])
def test_an_invalid_url_is_reported_at_once(url: str) -> None:
    with pytest.raises(ApiUnreachable), Client(url, retry=Retry(seconds=60)) as client:
        client.workers()


def test_what_may_not_be_done_twice_is_not(client: Any, meddler: Meddler) -> None:
    meddler.faults.append(Fault("/models/cleanup", cut_after=0))
    with pytest.raises(ApiUnreachable):
        client.cleanup(dry_run=False, keep_recent_days=36500)
    assert len(meddler.asked("/models/cleanup")) == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_key_is_sent_as_a_bearer(kind: str, meddler: Meddler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANWORKS_API_KEY", "from-outside")
    with opened(kind, meddler.url) as client:
        client.workers()
    with opened(kind, meddler.url, api_key="given") as client:
        client.workers()
        meddler.faults.append(Fault("/workers", status=401))
        with pytest.raises(AccessRefused):
            client.workers()
    sent = [headers["authorization"] for headers in meddler.asked("/workers")]
    assert sent == ["Bearer from-outside", "Bearer given", "Bearer given"]


def test_progress_outlasts_a_cut_stream(client: Any, meddler: Meddler, database: Database, redis_url: str) -> None:
    job_id = client.generate(**GOOD)["id"]
    job = working.claim(database, job_id)
    meddler.faults.append(Fault("/events", cut_after=3000))
    following = Following(client.progress(job_id))
    wait_for(lambda: meddler.asked("/events"))
    for percent in range(1, 40):
        working.report(redis_url, job_id, 1, percent)
    following.until(39)
    working.publish(redis_url, working.finish(database, job, []))
    last = following.end()
    assert (last["status"], last["result"]["frames"]) == ("succeeded", 9)
    first, second, *_ = meddler.asked("/events")
    assert "last-event-id" not in first
    assert re.fullmatch(r"\d+-\d+", second["last-event-id"])
    told = [percent for percent in following.percents() if percent]
    assert told[:-1] == list(range(int(told[0]), 40)), "each once, and none is missed"


def test_progress_outlasts_a_restart_of_the_server(
    client: Any, web: WebProcess, database: Database, redis_url: str
) -> None:
    job_id = client.generate(**GOOD)["id"]
    job = working.claim(database, job_id)
    following = Following(client.progress(job_id))
    working.report(redis_url, job_id, 1, 30)
    following.until(30)
    web.stop()
    working.report(redis_url, job_id, 1, 45)
    web.start()
    following.until(45)
    working.report(redis_url, job_id, 1, 60)
    following.until(60)
    working.publish(redis_url, working.finish(database, job, []))
    assert following.end()["status"] == "succeeded"


def test_without_a_stream_it_asks(client: Any, meddler: Meddler, database: Database) -> None:
    job_id = client.generate(**GOOD)["id"]
    job = working.claim(database, job_id)
    meddler.faults += [Fault("/events", status=503)] * 20
    following = Following(client.progress(job_id))
    wait_for(lambda: len(following.seen) > 2)
    working.finish(database, job, [])
    assert following.end()["status"] == "succeeded"


def test_a_wait_ends_with_the_job_or_with_the_time(client: Any, database: Database, redis_url: str) -> None:
    job_id = client.generate(**GOOD)["id"]
    with pytest.raises(TimedOut, match="the job continues"):
        client.wait(job_id, timeout=0.3)
    job = working.claim(database, job_id)
    threading.Timer(0.5, lambda: working.publish(redis_url, working.finish(database, job, []))).start()
    assert client.wait(job_id, timeout=20)["status"] == "succeeded"


def test_a_job_that_is_deleted_meanwhile_has_ended(meddler: Meddler, database: Database, redis_url: str) -> None:
    with Client(meddler.url) as client:
        job_id = client.generate(**GOOD)["id"]
        working.claim(database, job_id)
        following = Following(client.progress(job_id))
        wait_for(lambda: meddler.asked("/events"))
        working.report(redis_url, job_id, 1, 10)
        following.until(10)
        client.delete(job_id)
        assert following.end()["status"] == "cancelled"


def test_a_download_resumes_where_it_was_cut(
    client: Any, meddler: Meddler, database: Database, settings: Settings, tmp_path: Path
) -> None:
    video = made(database, settings, client)["result"]["artifacts"][0]
    meddler.faults += [Fault("/artifacts/", cut_after=500_000), Fault("/artifacts/", status=503)]
    target = tmp_path / "boat.mp4"
    assert client.download(video, target) == len(VIDEO)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == video["sha256"]
    first, *_, last = meddler.asked("/artifacts/")
    assert "range" not in first
    assert last["range"] == "bytes=500000-"
    client.download(video, target)
    assert len(meddler.asked("/artifacts/")) == 3, "what is whole is not fetched again"


def test_a_download_of_an_earlier_run_is_gone_on_with_if_it_is_right(
    client: Any, meddler: Meddler, database: Database, settings: Settings, tmp_path: Path
) -> None:
    video = made(database, settings, client)["result"]["artifacts"][0]
    target, part = tmp_path / "boat.mp4", tmp_path / "boat.mp4.partial"
    for found in (VIDEO[:700_000], b"x" * 700_000, VIDEO + b"x", VIDEO):
        target.unlink(missing_ok=True)
        part.write_bytes(found)
        client.download(video, target)
        assert target.read_bytes() == VIDEO
        assert not part.exists()
    asked = [headers.get("range") for headers in meddler.asked("/artifacts/")]
    assert asked == ["bytes=700000-", "bytes=700000-", None, None]


def test_a_download_without_progress_fails(
    client: Any, meddler: Meddler, database: Database, settings: Settings, tmp_path: Path
) -> None:
    video = made(database, settings, client)["result"]["artifacts"][0]
    with pytest.raises(TransferBroken, match="wrong checksum"):
        client.download({**video, "sha256": "0" * 64}, tmp_path / "a.mp4")
    assert list(tmp_path.glob("a.mp4*")) == []


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)

    def asked(said: str) -> float | None:
        return retry_after(Answer(503, httpx.Headers({"Retry-After": said}), ""), now)

    assert asked("7") == 7
    assert asked("Sat, 31 Jan 2026 12:01:30 GMT") == 90
    assert asked("Sat, 31 Jan 2026 11:00:00 GMT") == 0
    assert asked("soon") is None
    assert asked("") is None


def test_pauses_double_with_jitter_and_respect_retry_after() -> None:
    assert [pause_seconds(tries, None, 1.0) for tries in (0, 1, 2, 5, 99)] == [0.25, 0.5, 1.0, 8.0, 8.0]
    assert pause_seconds(2, None, 0.0) == 0.5
    assert 7 < pause_seconds(0, 7.0, 0.0) < 8


def test_events_are_read_however_the_bytes_fall() -> None:
    said = b': ping\r\n\r\nevent: progress\r\nid: 1-0\r\ndata: {"percent":\r\ndata: 4}\r\n\r\nid: 2-0\ndata: {'
    whole, apart = EventStream(), EventStream()
    events = whole.feed(said)
    assert events == [Event("progress", {"percent": 4})]
    assert [event for byte in said for event in apart.feed(bytes([byte]))] == events
    assert whole.last_id == "1-0", "the second never came whole, so it is asked for again"
    whole.start_again()
    assert whole.feed(b'data: {"a": 1}\n\n') == [Event("", {"a": 1})]
