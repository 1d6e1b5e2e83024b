"""The dashboard's WebSocket of a real web process: everything at first, then changes, also with slow readers."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from shared import clock
from shared.cluster import alerts
from shared.cluster.alerts import Changes
from shared.database.engine import Database
from shared.jobs.claims import pauses
from shared.jobs.claims.pauses import EVERYTHING, Scope
from shared.messaging import progress
from shared.messaging.previews import Preview, Previews
from shared.messaging.progress import FEED_CHANNEL, RestingRedis, publish_change
from shared.settings import Settings
from tests.conftest import RedisServer, WebProcess
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.integration.scheduler.alerts.test_alerts import open_one
from tests.support import working
from tests.support.jobs import accepted
from tests.support.models import library
from tests.support.stack import wait_for

JOBS = "/api/v1/jobs"

Message = dict[str, Any]


class Dashboard:
    """A client that keeps all received messages."""

    def __init__(self, web: WebProcess, **options: Any) -> None:
        self._connecting = connect(f"ws://127.0.0.1:{web.port}/api/v1/dashboard/ws", **options)
        self.socket: ClientConnection = self._connecting.__enter__()
        self.received: list[Message] = []

    def close(self) -> None:
        self._connecting.__exit__(None, None, None)

    def until(self, fits: Callable[[Message], bool], seconds: float = 15.0) -> Message:
        """Return the first matching message, including earlier ones."""
        for message in self.received:
            if fits(message):
                return message
        deadline = time.monotonic() + seconds
        while True:
            message = json.loads(self.socket.recv(timeout=max(0.01, deadline - time.monotonic())))
            self.received.append(message)
            if fits(message):
                return message

    def of(self, kind: str, **data: Any) -> Message:
        return self.until(
            lambda one: one["type"] == kind and all(one["data"].get(name) == value for name, value in data.items())
        )


@pytest.fixture
def watch(web: WebProcess) -> Iterator[Callable[..., Dashboard]]:
    opened: list[Dashboard] = []

    def start(**options: Any) -> Dashboard:
        opened.append(Dashboard(web, **options))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_pauses_begin_and_end_while_the_page_is_open(watch: Callable[..., Dashboard], database: Database) -> None:
    library.device(database, "T2V-A14B")
    there = pauses.pause(database, Scope("device", "here/0"), by="admin", reason="a new cooler", running="finish")
    dashboard = watch()
    assert dashboard.of("pause_update", id=there.id)["data"]["reason"] == "a new cooler"
    dashboard.of("worker_update", pause_reason="a new cooler")
    whole = pauses.pause(database, EVERYTHING, by="admin", running="finish")
    assert dashboard.of("pause_update", id=whole.id)["data"]["scope"] == "everything"
    pauses.resume(database, EVERYTHING)
    dashboard.of("pause_update", id=whole.id, ended=True)
    late = watch()
    late.of("pause_update", id=there.id)
    assert all(one["data"].get("id") != whole.id for one in late.received)


def test_everything_at_once(watch: Callable[..., Dashboard], database: Database, web: WebProcess) -> None:
    library.node(database)
    library.device(database, "T2V-A14B")
    (alert,) = open_one(database)
    job = accepted(database)
    dashboard = watch()
    first = dashboard.until(lambda one: True)
    assert first["type"] == "metrics_update"
    assert first["data"].keys() == web.http.get("/api/v1/dashboard/metrics").json().keys()
    assert first["timestamp"].endswith("Z")
    assert dashboard.of("alert", id=alert.id)["data"]["title"] == alert.title
    worker = dashboard.of("worker_update", node="here")["data"]
    (listed,) = web.http.get("/api/v1/workers").json()["devices"]
    assert {**worker, "last_seen": 0} == {**listed, "last_seen": 0}
    told, read = dashboard.of("job_update", id=job.id)["data"], web.http.get(f"/api/v1/jobs/{job.id}").json()
    assert {**told, "estimate": None} == {**read, "estimate": None}, (
        "but for the forecast, which the feed does not wait for"
    )
    later = watch()  # receives the same, although nothing has changed since
    assert later.until(lambda one: True)["type"] == "metrics_update"
    later.of("job_update", id=job.id)
    later.of("alert", id=alert.id)
    later.of("worker_update", node="here")


def test_every_change_is_sent(
    watch: Callable[..., Dashboard], database: Database, web: WebProcess, redis_url: str, settings: Settings
) -> None:
    dashboard, other = watch(), watch()
    job_id = web.http.post(URL, json=GOOD).json()["id"]
    for one in (dashboard, other):
        one.of("job_update", id=job_id, status="queued")
    job = working.claim(database, job_id)
    working.publish(redis_url, job)
    dashboard.of("job_update", id=job_id, status="running")
    working.report(redis_url, job_id, job.attempt, 42.0, step=3, steps=8)
    moved = dashboard.until(lambda one: one["type"] == "job_update" and one["data"]["progress"]["percent"] == 42.0)
    assert (moved["data"]["progress"]["step"], moved["data"]["progress"]["phase"]) == (3, "denoising")
    working.finish(database, job, [])  # not published: the feed must read it from SQL
    for one in (dashboard, other):
        one.of("job_update", id=job_id, status="succeeded")
    web.http.delete(f"{JOBS}/{accepted(database).id}")
    (alert,) = open_one(database)
    publish_change(RestingRedis(redis_url), "alert")
    dashboard.of("alert", id=alert.id, acknowledged=False)
    web.http.post(f"/api/v1/dashboard/alerts/{alert.id}/acknowledge", json={"by": "Ada"})
    dashboard.of("alert", id=alert.id, acknowledged=True)
    alerts.apply(database, Changes(resolved=((alert.rule, alert.subject),)), clock.now(), deliver=False)
    dashboard.until(lambda one: one["type"] == "alert" and one["data"]["resolved_at"] is not None)


@pytest.mark.parametrize("message", ["[]", "7", "no JSON", '{"kind": []}'])
def test_a_malformed_message_does_not_stop_the_feed(
    watch: Callable[..., Dashboard], redis_url: str, message: str
) -> None:
    watch().of("metrics_update")
    redis = progress.connect(redis_url, 5)

    def is_subscribed() -> bool:
        return bool(redis.pubsub_numsub(FEED_CHANNEL)[0][1])

    wait_for(is_subscribed, 10)
    assert redis.publish(FEED_CHANNEL, message) == 1
    redis.publish(FEED_CHANNEL, message)  # messages directly after it may be lost, later ones must not be
    died_by = time.monotonic() + 1
    wait_for(lambda: not is_subscribed() or time.monotonic() > died_by, 5)
    wait_for(is_subscribed, 10, "for the feed to subscribe again")


def test_a_deleted_job_is_sent(watch: Callable[..., Dashboard], web: WebProcess) -> None:
    dashboard = watch()
    job_id = web.http.post(URL, json=GOOD).json()["id"]
    dashboard.of("job_update", id=job_id, status="queued")
    web.http.delete(f"{JOBS}/{job_id}")
    assert dashboard.of("job_update", id=job_id, deleted=True)["data"] == {"id": job_id, "deleted": True}


def test_without_redis_the_feed_reads_sql(redis_server: RedisServer, settings: Settings, database: Database) -> None:
    web = WebProcess(settings.model_copy(update={"redis_url": None})).start()
    try:
        dashboard = Dashboard(web)
        job = accepted(database)
        dashboard.of("job_update", id=job.id, status="queued")
        working.claim(database, job.id)
        dashboard.of("job_update", id=job.id, status="running")
        dashboard.close()
    finally:
        web.http.close()
        web.stop()


def test_metrics_are_sent_at_least_every_ten_seconds(watch: Callable[..., Dashboard]) -> None:
    dashboard = watch()
    dashboard.of("metrics_update")
    dashboard.received.clear()
    began = time.monotonic()
    dashboard.of("metrics_update")
    assert time.monotonic() - began < 11


def test_a_slow_reader_delays_no_other(
    watch: Callable[..., Dashboard], web: WebProcess, database: Database, redis_url: str
) -> None:
    job = working.claim(database, accepted(database).id)
    lazy = socket.create_connection(("127.0.0.1", web.port))
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.sendall(
        b"GET /api/v1/dashboard/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    lively = watch()
    for percent in range(1, 30):
        working.report(redis_url, job.id, job.attempt, float(percent), note="x" * 100)
    lively.until(lambda one: one["type"] == "job_update" and one["data"]["progress"]["percent"] == 29.0)
    lazy.close()


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_another_origins_page_may_not_watch(watch: Callable[..., Dashboard], origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        watch(additional_headers={"Origin": origin})
    assert refused.value.response.status_code == 403


def test_its_own_page_may_watch(watch: Callable[..., Dashboard], web: WebProcess) -> None:
    watch(additional_headers={"Origin": f"http://127.0.0.1:{web.port}"}).of("metrics_update")


def test_messages_from_clients_are_ignored(watch: Callable[..., Dashboard]) -> None:
    dashboard = watch()
    dashboard.socket.send("hello")
    dashboard.socket.send(b"\x00" * 1000)
    dashboard.of("metrics_update")


def test_a_web_process_that_stops_closes_its_sockets(watch: Callable[..., Dashboard], web: WebProcess) -> None:
    dashboard = watch()
    dashboard.of("metrics_update")
    assert web.stop() == 0


def test_previews_of_running_jobs_are_announced_to_who_may_see_them(
    watch: Callable[..., Dashboard], database: Database, settings: Settings, web: WebProcess
) -> None:
    job = accepted(database)
    running = working.claim(database, job.id)
    dashboard = watch()
    dashboard.of("job_update", id=job.id, status="running")
    previews = Previews(RestingRedis(settings.redis))

    def told(step: int) -> Message:
        previews.put(job.id, Preview(running.attempt, step, 4, b"picture"))
        return dashboard.of("preview_update", job_id=job.id, step=step)["data"]

    first = told(1)
    assert first["url"] == f"{JOBS}/{job.id}/preview?attempt=1&step=1"
    assert web.http.get(first["url"]).content == b"picture"
    assert told(2)["steps"] == 4
    assert watch().of("preview_update", job_id=job.id)["data"]["step"] == 2, "a page that comes later sees it too"
    working.finish(database, running, [])
    publish_change(RestingRedis(settings.redis), "queue")
    dashboard.of("job_update", id=job.id, status="succeeded")
    late = watch()
    late.of("metrics_update")
    assert not [one for one in late.received if one["type"] == "preview_update"]
