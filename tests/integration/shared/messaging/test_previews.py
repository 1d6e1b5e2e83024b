"""Previews in Redis: the latest alone, for a time, and gone with the job."""

import json

import pytest
import redis

from shared.messaging.previews import KEEP_SECONDS, MOST_BYTES, Preview, Previews
from shared.messaging.progress import FEED_CHANNEL, Progress, RestingRedis, preview_key
from shared.telemetry.metrics import Meters, read
from workers.generation.frames.geometry import Plan
from workers.generation.frames.previews import Cells
from workers.generation.reporting.previews import Publisher

numpy = pytest.importorskip("numpy")


@pytest.fixture
def client(redis_url: str) -> RestingRedis:
    return RestingRedis(redis_url, timeout=5.0)


def cells(step: int) -> Cells:
    return Cells(step, 9, numpy.full((4, 4, 3), step, "uint8"), Plan(32, 32, 9, 32, 32, 9))


def test_the_latest_replaces_the_one_before_and_expires(client: RestingRedis, redis_url: str) -> None:
    previews, direct = Previews(client), redis.Redis.from_url(redis_url)
    with direct.pubsub() as feed:
        feed.subscribe(FEED_CHANNEL)
        feed.get_message(timeout=5)
        assert previews.put("job", Preview(1, 2, 9, b"first"))
        assert previews.put("job", Preview(1, 3, 9, b"second"))
        told = feed.get_message(timeout=5)
    assert json.loads(told["data"]) == {"job": "job", "kind": "preview", "attempt": 1, "step": 2, "steps": 9}
    assert previews.get("job") == Preview(1, 3, 9, b"second")
    assert 0 < direct.ttl(preview_key("job")) <= KEEP_SECONDS
    assert previews.get("another") is None


def test_the_end_of_the_job_removes_it(client: RestingRedis) -> None:
    previews, progress = Previews(client), Progress(client)
    previews.put("job", Preview(1, 2, 9, b"picture"))
    progress.report("job", {"kind": "progress"})
    assert previews.get("job") is not None
    progress.report("job", {"kind": "state", "status": "succeeded"}, ended=True)
    assert previews.get("job") is None
    previews.put("job", Preview(1, 2, 9, b"picture"))
    progress.forget("job")
    assert previews.get("job") is None


def test_what_is_too_large_is_not_stored(client: RestingRedis) -> None:
    assert not Previews(client).put("job", Preview(1, 1, 9, bytes(MOST_BYTES + 1)))
    assert Previews(client).get("job") is None


def test_without_redis_nothing_raises() -> None:
    previews = Previews(RestingRedis("redis://127.0.0.1:1"))
    assert not previews.put("job", Preview(1, 1, 9, b"x"))
    assert previews.get("job") is None


def test_the_publisher_stores_the_last_preview_and_counts(
    client: RestingRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.generation.reporting.previews._CLOSE_SECONDS", 30.0)
    meters = Meters(client)
    with Publisher(Previews(client), meters, "job", 3) as publisher:
        for step in range(1, 10):
            publisher.put(cells(step))
    found = Previews(client).get("job")
    assert found is not None
    assert (found.attempt, found.step, found.steps) == (3, 9, 9)
    assert found.image[8:12] == b"WEBP"
    with Publisher(Previews(RestingRedis("redis://127.0.0.1:1")), meters, "lost", 1) as publisher:
        publisher.put(cells(1))
    with Publisher(Previews(client), meters, "failed", 1) as publisher:
        publisher.put(Cells(1, 9, "no pixels", cells(1).plan))  # type: ignore[arg-type]
    publisher.failed()
    meters.flush()
    (family,) = [one for one in read(client) or () if one.meter.name == "wanworks_previews"]
    totals = {labels[0]: count for labels, count in family.totals.items()}
    assert totals["lost"] == 1
    assert totals["failed"] == 2
    assert totals["stored"] >= 1
