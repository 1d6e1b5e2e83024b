"""Progress and downloads outlast a cut connection and a restart of the server."""

import hashlib
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from shared.database.engine import Database
from shared.settings import Settings
from tests.conftest import WebProcess
from tests.integration.api.jobs.generation_requests import GOOD
from tests.integration.wanworks.client.meddling import VIDEO, Fault, Following, Meddler, made
from tests.support import working
from tests.support.stack import wait_for
from wanworks.client.client import Client
from wanworks.client.event_stream import Event, EventStream
from wanworks.errors import (
    TimedOut,
    TransferBroken,
)


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


def test_events_are_read_however_the_bytes_fall() -> None:
    said = b': ping\r\n\r\nevent: progress\r\nid: 1-0\r\ndata: {"percent":\r\ndata: 4}\r\n\r\nid: 2-0\ndata: {'
    whole, apart = EventStream(), EventStream()
    events = whole.feed(said)
    assert events == [Event("progress", {"percent": 4})]
    assert [event for byte in said for event in apart.feed(bytes([byte]))] == events
    assert whole.last_id == "1-0", "the second never came whole, so it is asked for again"
    whole.start_again()
    assert whole.feed(b'data: {"a": 1}\n\n') == [Event("", {"a": 1})]
