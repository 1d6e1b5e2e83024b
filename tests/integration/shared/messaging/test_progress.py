"""What a job leaves in Redis: a stream as long as somebody runs it and a little longer, and soon nothing at all."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from api.services.waker import Waker
from shared.messaging import celery, progress
from shared.messaging.progress import Progress, RestingRedis, cancel_key, hint_key, stream_key
from shared.stored_names import WAKE_KEY
from shared.telemetry import metrics
from shared.telemetry.metrics import FENCED, Meters
from tests.support.stack import wait_for

JOB = "01900000-0000-7000-8000-000000000000"
HOUR = 3600


@pytest.fixture
def server(redis_url: str) -> "redis.Redis":
    return progress.connect(redis_url, 5)


@pytest.fixture
def told(redis_url: str) -> Progress:
    return Progress(RestingRedis(redis_url, timeout=5))


def run(told: Progress, steps: int = 50) -> None:
    told.report(JOB, {"kind": "state", "attempt": 1, "status": "running"})
    for step in range(steps):
        event = {"kind": "progress", "phase": "denoising", "step": step, "steps": steps, "percent": 1.5 * step,
                 "eta_seconds": 3.25, "attempt": 1}  # fmt: skip
        told.report(JOB, event)


def keys(server: "redis.Redis") -> dict[str, int]:
    """The job's keys, and in how many seconds each of them goes; -1: never."""
    found: list[bytes] = list(server.scan_iter(match=f"*{JOB}*"))  # type: ignore[arg-type]
    return {key.decode(): int(server.ttl(key)) for key in found}  # type: ignore[arg-type]


def test_nothing_is_left_of_a_job_an_hour_after_its_end(server: "redis.Redis", told: Progress) -> None:
    run(told)
    told.ask_to_cancel(JOB)
    told.hint(JOB)
    told.report(JOB, {"kind": "state", "attempt": 1, "status": "cancelled"}, ended=True)
    assert list(keys(server)) == [stream_key(JOB)], "the cancel and the hint have been heard"
    assert 500 < keys(server)[stream_key(JOB)] <= 600, "a client that returns is told what it missed"


def test_nothing_is_left_of_a_job_whose_end_nobody_said(server: "redis.Redis", told: Progress) -> None:
    """It died with its worker, or Redis was away in that moment."""
    run(told)
    told.ask_to_cancel(JOB)
    told.hint(JOB)
    assert set(keys(server)) == {stream_key(JOB), cancel_key(JOB), hint_key(JOB)}
    assert all(0 < seconds < HOUR for seconds in keys(server).values())


def test_a_job_that_reports_rarely_keeps_its_stream(server: "redis.Redis", told: Progress) -> None:
    run(told)
    server.expire(stream_key(JOB), 3)  # as if it had been silent for nearly half an hour
    told.listen(JOB)
    assert keys(server)[stream_key(JOB)] > 1700
    assert server.xlen(stream_key(JOB)) == 51


def test_what_a_deleted_jobs_attempt_still_says_goes_too(server: "redis.Redis", told: Progress) -> None:
    run(told)
    told.forget(JOB)
    assert keys(server) == {}
    told.report(JOB, {"kind": "progress", "attempt": 1, "percent": 99})
    assert all(0 < seconds < HOUR for seconds in keys(server).values())


# --- the threads that tell Redis


def once_wrong(right: Callable[..., Any]) -> tuple[Callable[..., Any], threading.Event]:
    """The function, but the first call raises what nobody foresaw."""
    failed = threading.Event()

    def call(*given: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise KeyError("unforeseen")
        return right(*given)

    return call, failed


def test_counts_go_on_after_an_error_and_none_is_lost(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_FLUSH_SECONDS", 0.02)
    client = RestingRedis(redis_url, timeout=5)
    counts = Meters(client)
    ask, failed = once_wrong(client.ask)
    monkeypatch.setattr(client, "ask", ask)
    counts.count(FENCED, "here")
    assert failed.wait(5)
    counts.count(FENCED, "here")

    def sum() -> float:
        return next(one.totals.get(("here",), 0.0) for one in metrics.read(client) or () if one.meter == FENCED)

    wait_for(lambda: sum() == 2.0, 5)
    counts.close()


@pytest.mark.parametrize(("rest_seconds", "asked_again"), [(60.0, False), (0.0, True)])
def test_a_redis_that_did_not_answer_is_left_alone_for_a_while(
    redis_url: str, rest_seconds: float, asked_again: bool
) -> None:
    client = RestingRedis(redis_url, rest=rest_seconds)

    def no_answer(server: "redis.Redis") -> bool:
        raise redis.TimeoutError

    assert client.ask(no_answer) is None
    assert client.ask(lambda server: server.ping()) is (True if asked_again else None)


def test_the_dispatcher_is_woken_after_an_error(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wake, failed = once_wrong(celery.wake)
    monkeypatch.setattr(celery, "wake", wake)
    waker = Waker(RestingRedis(redis_url, timeout=5))
    waker.wake()
    assert failed.wait(5)
    waker.wake()
    wait_for(lambda: progress.connect(redis_url, 5).exists(WAKE_KEY), 5)
    waker.close()
