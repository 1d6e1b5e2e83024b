"""Events reach the stream in their order, and the device waits for none of them."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from shared.database.engine import Database
from shared.database.tables import Job
from shared.messaging.progress import STREAM_LENGTH, Progress, RestingRedis, stream_key
from shared.settings import Settings
from tests.support.jobs import accepted
from workers.generation.reporting import publishing
from workers.generation.reporting.publishing import ProgressSender

_LIMIT = 30.0


class Gate(Progress):
    """Publishes once it is open, as a Redis that does not answer until then."""

    def __init__(self, client: RestingRedis) -> None:
        super().__init__(client)
        self.open, self.reached = threading.Event(), threading.Event()

    def report(self, job_id: str, event: dict[str, Any], *, ended: bool = False) -> bool:
        self.reached.set()
        assert self.open.wait(_LIMIT)
        return super().report(job_id, event, ended=ended)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_FLUSH_SECONDS", _LIMIT)


@pytest.fixture
def gate(redis_url: str) -> Gate:
    return Gate(RestingRedis(redis_url, timeout=5.0))


@pytest.fixture
def job(database: Database) -> Job:
    return accepted(database)


def sender(
    settings: Settings, database: Database, gate: Gate, job: Job, on_cancel: Callable[[], None] = lambda: None
) -> ProgressSender:
    return ProgressSender(settings, database, gate, job, on_cancel)


def published(redis_url: str, job: Job) -> list[dict[str, Any]]:
    rows: Any = redis.Redis.from_url(redis_url).xrange(stream_key(job.id))
    return [json.loads(fields[b"event"]) for _, fields in rows]


def steps(redis_url: str, job: Job) -> list[int]:
    return [event["step"] for event in published(redis_url, job) if "step" in event]


def test_a_redis_that_does_not_answer_holds_no_step(
    settings: Settings, database: Database, gate: Gate, job: Job, redis_url: str
) -> None:
    with sender(settings, database, gate, job) as send:
        for step in range(50):
            send({"kind": "progress", "step": step})
        assert steps(redis_url, job) == []
        gate.open.set()
        send.flush()
        assert steps(redis_url, job) == list(range(50))
        send({"kind": "progress", "step": 50})
    assert steps(redis_url, job) == list(range(51)), "the end of the block waits for the last one"
    assert {event["attempt"] for event in published(redis_url, job) if "step" in event} == {job.attempt}


def test_no_more_events_wait_than_the_stream_keeps(
    settings: Settings, database: Database, gate: Gate, job: Job, redis_url: str
) -> None:
    with sender(settings, database, gate, job) as send:
        send({"kind": "progress", "step": -1})
        assert gate.reached.wait(_LIMIT)
        for step in range(STREAM_LENGTH + 10):
            send({"kind": "progress", "step": step})
        gate.open.set()
    assert steps(redis_url, job) == list(range(10, STREAM_LENGTH + 10))


def test_after_an_error_nothing_more_is_sent(
    settings: Settings, database: Database, gate: Gate, job: Job, redis_url: str
) -> None:
    send = sender(settings, database, gate, job)

    def fail() -> None:
        with send:
            send({"kind": "progress", "step": 0})
            assert gate.reached.wait(_LIMIT)
            send({"kind": "progress", "step": 1})
            threading.Timer(0.1, gate.open.set).start()  # while the end of the block waits for the first one
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    send({"kind": "progress", "step": 2})
    assert steps(redis_url, job) == [0]


def test_a_cancel_is_seen_with_the_next_event(settings: Settings, database: Database, gate: Gate, job: Job) -> None:
    seen: list[int] = []
    gate.open.set()
    with sender(settings, database, gate, job, on_cancel=lambda: seen.append(1)) as send:
        send({"kind": "progress", "step": 0})
        send.flush()
        assert seen == []
        gate.ask_to_cancel(job.id)
        send({"kind": "progress", "step": 1})
        send.flush()
        assert seen == [1]


def test_an_event_that_cannot_be_sent_does_not_stop_those_after_it(
    settings: Settings, database: Database, gate: Gate, job: Job, redis_url: str
) -> None:
    gate.open.set()
    with sender(settings, database, gate, job) as send:
        send({"kind": "progress", "step": object()})
        send({"kind": "progress", "step": 1})
    assert steps(redis_url, job) == [1]


def test_a_gang_waits_until_its_step_is_reported(
    settings: Settings, database: Database, gate: Gate, job: Job, redis_url: str
) -> None:
    """Its members agree after each step whether to stop, so what the report answers must be known by then."""
    job.devices = 2
    with sender(settings, database, gate, job) as send:
        step = threading.Thread(target=send, args=({"kind": "progress", "step": 0},))
        step.start()
        assert gate.reached.wait(_LIMIT)
        assert step.is_alive()
        gate.open.set()
        step.join(_LIMIT)
        assert steps(redis_url, job) == [0]
