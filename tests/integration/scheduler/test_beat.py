"""Two beats on two hosts: one sends each tick, and when it is killed the other does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.messaging import celery
from shared.settings import load
from tests.conftest import RedisServer
from tests.support.stack import wait_for

_LOCK = "wanworks:redbeat::lock"


class Beat:
    def __init__(self, redis_url: str, home: Path) -> None:
        home.mkdir()
        self.log = home / "beat.log"
        environment = {
            **os.environ,
            "WANWORKS_HOME": str(home),
            "WANWORKS_REDIS_URL": redis_url,
            "WANWORKS_BEAT": "redbeat",
            "WANWORKS_BEAT_TAKEOVER_SECONDS": "5",
        }
        argv = [sys.executable, "-m", "scheduler.app"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def sent(self) -> int:
        return self.log.read_text().count("Sending due task")

    def stored(self) -> bool:
        """Has set its schedule up, which it does before it leads or waits."""
        return "beat: Starting" in self.log.read_text()


@pytest.fixture
def two_beats(redis_server: RedisServer, tmp_path: Path) -> Iterator[tuple[Beat, Beat]]:
    first = Beat(redis_server.url, tmp_path / "one")
    wait_for(lambda: redis_server.client().exists(_LOCK), 20, "for the first beat to lead")
    second = Beat(redis_server.url, tmp_path / "two")
    yield first, second
    first.kill()
    second.kill()


def make_due(server: RedisServer, schedule: str) -> None:
    client = server.client()
    client.hdel(f"wanworks:redbeat:{schedule}", "meta")
    client.zadd("wanworks:redbeat::schedule", {f"wanworks:redbeat:{schedule}": 1})


def test_one_of_two_beats_sends_and_the_other_takes_over_from_a_killed_one(
    redis_server: RedisServer, two_beats: tuple[Beat, Beat]
) -> None:
    first, second = two_beats
    client = redis_server.client()
    wait_for(second.stored, 20, "for the second beat")
    leader = client.get(_LOCK)
    make_due(redis_server, "snapshot")
    wait_for(lambda: client.llen(celery.TICKS_QUEUE) == 1, 10, "for a tick")
    make_due(redis_server, "retention")
    wait_for(lambda: client.llen(celery.TICKS_QUEUE) == 2, 10, "for another")
    assert (first.sent(), second.sent()) == (2, 0)
    first.kill()
    make_due(redis_server, "sweep")
    wait_for(lambda: client.get(_LOCK) not in (leader, None), 15, "for the second beat to lead")
    wait_for(lambda: client.llen(celery.TICKS_QUEUE) == 3, 10, "for its tick")
    assert second.sent() == 1


def test_a_beat_whose_redis_has_lost_its_data_ends_so_that_the_next_one_sets_it_up_anew(
    redis_server: RedisServer, two_beats: tuple[Beat, Beat]
) -> None:
    first, _ = two_beats
    redis_server.client().flushall()
    assert first.process.wait(15) != 0


def test_several_beats_are_for_postgresql_unless_said_otherwise() -> None:
    assert not load(database_url="sqlite:////tmp/x.db").several_beats
    assert load(database_url="postgresql+psycopg://h/d").several_beats
    assert not load(database_url="postgresql+psycopg://h/d", beat="file").several_beats
    assert load(database_url="sqlite:////tmp/x.db", beat="redbeat").several_beats
