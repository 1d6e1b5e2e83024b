"""Event streams of jobs: a snapshot, changes, missed events, and always the end, with and without Redis."""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from shared.database.engine import Database
from shared.jobs import attempts
from shared.messaging.progress import connect, stream_key
from shared.settings import Settings
from tests.conftest import RedisServer, WebProcess
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.support import working


@dataclass(frozen=True)
class Event:
    name: str
    data: dict[str, Any]
    id: str | None


class Watcher:
    """Reads an event stream. `closed` is set when the server has ended it."""

    def __init__(self, http: httpx2.Client, job_id: str, last_event_id: str | None = None) -> None:
        self.closed = threading.Event()
        self._events: queue.Queue[Event] = queue.Queue()
        self._headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        self._arguments = (http, f"/api/v1/jobs/{job_id}/events")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def next(self, name: str | None = None, timeout: float = 15) -> Event:
        """Return the next event, or the next one with this name."""
        deadline = time.monotonic() + timeout
        while True:
            event = self._events.get(timeout=max(0.01, deadline - time.monotonic()))
            if name is None or event.name == name:
                return event

    def rest(self) -> list[Event]:
        """Return all events until the server ended the stream."""
        assert self.closed.wait(15)
        return [self._events.get() for _ in range(self._events.qsize())]

    def _read(self) -> None:
        http, path = self._arguments
        fields: dict[str, str] = {}
        try:
            with http.stream("GET", path, headers=self._headers) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                for line in answer.iter_lines():
                    if line:
                        name, _, value = line.partition(": ")
                        fields[name] = value
                    elif "event" in fields:
                        self._events.put(Event(fields["event"], json.loads(fields["data"]), fields.get("id")))
                        fields = {}
        except httpx2.TransportError:
            pass  # the server was stopped; the events until then are kept
        finally:
            self.closed.set()


@contextmanager
def started(settings: Settings) -> Iterator[WebProcess]:
    process = WebProcess(settings).start()
    try:
        yield process
    finally:
        process.stop()
        process.http.close()


@pytest.fixture
def watch(web: WebProcess) -> Callable[..., Watcher]:
    return lambda job_id, last=None: Watcher(web.http, job_id, last)


def submit(web: WebProcess) -> str:
    return str(web.http.post(URL, json=GOOD).json()["id"])


def test_a_job_is_watched_from_queue_to_end(
    web: WebProcess, watch: Callable[..., Watcher], database: Database, redis_url: str
) -> None:
    job_id = submit(web)
    watcher = watch(job_id)
    snapshot = watcher.next()
    assert (snapshot.name, snapshot.data["status"], snapshot.data["id"]) == ("snapshot", "queued", job_id)
    job = working.claim(database, job_id)
    working.publish(redis_url, job)
    assert watcher.next().data == {"attempt": 1, "status": "running"}
    for percent in (10, 40, 30, 90):
        working.report(redis_url, job_id, 1, percent, step=percent // 10, steps=10)
    shown = [watcher.next("progress").data for _ in range(4)]
    assert [data["percent"] for data in shown] == [10, 40, 40, 90], "progress never goes back"
    assert (shown[0]["step"], shown[0]["steps"], shown[0]["phase"]) == (1, 10, "denoising")
    working.publish(redis_url, working.finish(database, job, []))
    (*_, last) = watcher.rest()
    assert (last.name, last.data["status"], last.data["progress"]["percent"]) == ("end", "succeeded", 100)
    assert last.data["result"]["frames"] == 9


def test_a_snapshot_contains_the_progress(
    web: WebProcess, watch: Callable[..., Watcher], database: Database, redis_url: str
) -> None:
    job_id = submit(web)
    working.claim(database, job_id)
    working.report(redis_url, job_id, 1, 55)
    assert watch(job_id).next().data["progress"]["percent"] == 55


def test_a_reconnecting_client_receives_missed_events(
    web: WebProcess, watch: Callable[..., Watcher], database: Database, redis_url: str
) -> None:
    job_id = submit(web)
    job = working.claim(database, job_id)
    first = watch(job_id)
    assert first.next().name == "snapshot"
    for percent in range(10, 60, 10):
        working.report(redis_url, job_id, 1, percent)
    seen = [first.next("progress") for _ in range(2)][-1]
    second = watch(job_id, seen.id)
    assert second.next().name == "snapshot"
    assert [second.next("progress").data["percent"] for _ in range(3)] == [30, 40, 50]
    working.publish(redis_url, working.finish(database, job, []))
    assert second.rest()[-1].name == "end"

    late = watch(job_id, seen.id).rest()
    assert [event.data["percent"] for event in late if event.name == "progress"] == [30, 40, 50]
    assert (late[-1].name, late[-1].data["status"]) == ("end", "succeeded")


def test_the_end_is_sent_without_the_stream(
    web: WebProcess, watch: Callable[..., Watcher], database: Database, redis_url: str
) -> None:
    job_id = submit(web)
    job = working.claim(database, job_id)
    working.report(redis_url, job_id, 1, 10)
    first = watch(job_id)
    first.next("snapshot")
    working.report(redis_url, job_id, 1, 20)
    seen = first.next("progress").id
    working.finish(database, job, [])
    connect(redis_url, 5).delete(stream_key(job_id))
    for last in (seen, None):
        events = watch(job_id, last).rest()
        assert (events[-1].name, events[-1].data["status"]) == ("end", "succeeded")
        assert not [event for event in events if event.name == "progress"]


def test_an_ended_job_is_sent_at_once(web: WebProcess, watch: Callable[..., Watcher]) -> None:
    job_id = submit(web)
    web.http.post(f"/api/v1/jobs/{job_id}/cancel")
    events = watch(job_id).rest()
    assert [(event.name, event.data["status"]) for event in events] == [("snapshot", "cancelled"), ("end", "cancelled")]
    assert watch(job_id, "nonsense").rest()[0].name == "snapshot", "a malformed Last-Event-ID is ignored"


def test_a_watcher_learns_of_a_cancel_at_once(web: WebProcess, watch: Callable[..., Watcher]) -> None:
    job_id = submit(web)
    watcher = watch(job_id)
    watcher.next("snapshot")
    started_at = time.monotonic()
    web.http.post(f"/api/v1/jobs/{job_id}/cancel")
    assert watcher.next("end").data["status"] == "cancelled"
    assert time.monotonic() - started_at < 3


def test_a_watched_job_is_deleted(web: WebProcess, watch: Callable[..., Watcher], database: Database) -> None:
    job_id = submit(web)
    watcher = watch(job_id)
    watcher.next("snapshot")
    working.claim(database, job_id)
    web.http.delete(f"/api/v1/jobs/{job_id}")
    assert watcher.next("end").data == {"id": job_id, "status": "cancelled", "deleted": True}


def test_another_attempt_starts_at_zero(
    web: WebProcess, watch: Callable[..., Watcher], database: Database, redis_url: str
) -> None:
    job_id = submit(web)
    watcher = watch(job_id)
    working.claim(database, job_id)
    working.report(redis_url, job_id, 1, 80)
    assert watcher.next("progress").data["percent"] == 80
    attempts.give_back(database, job_id, 1)
    working.claim(database, job_id)
    working.report(redis_url, job_id, 2, 5)
    working.report(redis_url, job_id, 1, 95)  # the first attempt, which counts as lost, reports again
    working.report(redis_url, job_id, 2, 10)
    shown = [watcher.next("progress").data for _ in range(2)]
    assert [(data["attempt"], data["percent"]) for data in shown] == [(2, 5), (2, 10)]


@pytest.mark.parametrize("url", [None, "redis://127.0.0.1:1/0"])
def test_without_redis_every_state_is_read_from_sql(settings: Settings, database: Database, url: str | None) -> None:
    with started(Settings(**{**settings.model_dump(), "redis_url": url})) as web:
        job_id = submit(web)
        watcher = Watcher(web.http, job_id)
        assert watcher.next().data["status"] == "queued"
        job = working.claim(database, job_id)
        assert watcher.next("state").data == {"attempt": 1, "status": "running", "phase": "loading"}
        working.finish(database, job, [])
        assert watcher.next("end").data["status"] == "succeeded"
        assert watcher.rest() == []


def test_redis_dies_under_a_watcher(settings: Settings, database: Database, redis_server: RedisServer) -> None:
    with started(Settings(**{**settings.model_dump(), "redis_url": redis_server.url})) as web:
        job_id = submit(web)
        watcher = Watcher(web.http, job_id)
        job = working.claim(database, job_id)
        working.report(redis_server.url, job_id, 1, 50)
        assert watcher.next("progress").data["percent"] == 50
        redis_server.kill()
        working.finish(database, job, [])
        assert watcher.next("end").data["status"] == "succeeded"


def test_the_end_is_sent_if_the_stream_did_not_report_it(
    web: WebProcess, watch: Callable[..., Watcher], database: Database, settings: Settings
) -> None:
    job_id = submit(web)
    watcher = watch(job_id)
    watcher.next("snapshot")
    working.finish(database, working.claim(database, job_id), [])
    assert watcher.next("end", timeout=10).data["status"] == "succeeded"


def test_the_process_stops_with_watchers_open(web: WebProcess, watch: Callable[..., Watcher]) -> None:
    watchers = [watch(submit(web)) for _ in range(3)]
    for watcher in watchers:
        watcher.next("snapshot")
    started_at = time.monotonic()
    assert web.stop() == 0
    assert time.monotonic() - started_at < 5
    for watcher in watchers:
        assert watcher.closed.wait(2)


def test_the_process_stops_under_a_long_poll(web: WebProcess) -> None:
    job_id = submit(web)
    failed: list[Exception] = []

    def poll() -> None:
        try:
            web.http.get(f"/api/v1/jobs/{job_id}", headers={"Prefer": "wait=60"})
        except httpx2.TransportError as error:
            failed.append(error)

    thread = threading.Thread(target=poll)
    thread.start()
    time.sleep(0.3)
    started_at = time.monotonic()
    web.stop()
    assert time.monotonic() - started_at < 6
    thread.join(5)
    assert not thread.is_alive()
