"""Progress through Redis: one capped stream for each job, the cancel key, and hints.

A stream is kept while the job runs, however rarely it reports, and for ten minutes after its end, for clients that
reconnect. Redis may be lost at any time. Then reports are dropped, nothing waits, and after a failure the client
pauses, so that a missing Redis never slows a step.
"""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

STREAM_LENGTH = 1000
ENDED_SECONDS = 600  # how long a stream is kept after the job's end
# And after the last sign of life of an attempt, because nothing reports the end of one that died.
LIVE_SECONDS = 1800
_CANCEL_KEEP_SECONDS = 600  # the row decides, and an attempt reads it at each heartbeat
_TIMEOUT_SECONDS = 0.2
_REST_SECONDS = 5.0
_LONG_TIMEOUT_SECONDS = 2.0

T = TypeVar("T")


def stream_key(job_id: str) -> str:
    return f"wanworks:events:{job_id}"


# The channel for live pages: {"job": id, **event} of each report, {"kind": "queue"} when rows have changed, and
# {"kind": "alert"} when alerts have. The next read of SQL makes up for a lost message.
FEED_CHANNEL = "wanworks:feed"


def cancel_key(job_id: str) -> str:
    return f"wanworks:cancel:{job_id}"


def hint_key(job_id: str) -> str:
    return f"wanworks:hint:{job_id}"


def preview_key(job_id: str) -> str:
    return f"wanworks:preview:{job_id}"


class RestingRedis:
    """A Redis client that gives up after 0.2 s and then pauses for 5 s."""

    def __init__(self, url: str | None, timeout: float = _TIMEOUT_SECONDS, rest: float = _REST_SECONDS) -> None:
        self._client = connect(url, timeout) if url else None
        self._rest = rest
        self._resting_until = 0.0

    def ask(self, question: Callable[["redis.Redis"], T]) -> T | None:
        """Call `question` with the client and return its result; None if Redis is unavailable or the client pauses."""
        if self._client is None or time.monotonic() < self._resting_until:
            return None
        try:
            return question(self._client)
        except (redis.RedisError, OSError):
            self._resting_until = time.monotonic() + self._rest
            return None


class Progress:
    """Reports and reads progress. It never raises for a missing Redis."""

    def __init__(self, client: RestingRedis) -> None:
        self._redis = client

    def report(self, job_id: str, event: dict[str, Any], *, ended: bool = False) -> bool:
        """Append to the job's stream. Return, from the same round trip, whether a cancel was requested."""

        def question(client: "redis.Redis") -> bool:
            pipe = client.pipeline(transaction=False)
            entry = {"event": json.dumps(event, separators=(",", ":"))}
            pipe.xadd(stream_key(job_id), entry, maxlen=STREAM_LENGTH, approximate=False)  # type: ignore[arg-type]
            pipe.exists(cancel_key(job_id))
            pipe.publish(FEED_CHANNEL, json.dumps({"job": job_id, **event}, separators=(",", ":")))
            pipe.expire(stream_key(job_id), ENDED_SECONDS if ended else LIVE_SECONDS)
            if ended:
                pipe.delete(cancel_key(job_id), hint_key(job_id), preview_key(job_id))
            return bool(pipe.execute()[1])

        return bool(self._redis.ask(question))

    def ask_to_cancel(self, job_id: str) -> None:
        self._redis.ask(lambda client: client.set(cancel_key(job_id), 1, ex=_CANCEL_KEEP_SECONDS))

    def hint(self, job_id: str) -> None:
        """Make the job's attempt read its row now, because the row has a new request."""
        self._redis.ask(lambda client: client.set(hint_key(job_id), 1, ex=60))

    def listen(self, job_id: str) -> tuple[bool, bool] | None:
        """Return (whether a cancel was requested, whether the row should be read); None if Redis is unavailable.

        Running attempts call it all the time, so it also extends the life of the job's stream.
        """

        def question(client: "redis.Redis") -> tuple[bool, bool]:
            pipe = client.pipeline(transaction=False)
            pipe.exists(cancel_key(job_id))
            pipe.getdel(hint_key(job_id))
            pipe.expire(stream_key(job_id), LIVE_SECONDS)
            cancel, hint, _ = pipe.execute()
            return bool(cancel), hint is not None

        return self._redis.ask(question)

    def latest(self, job_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the last progress event by job id, for jobs that have one."""

        def question(client: "redis.Redis") -> list[Any]:
            pipe = client.pipeline(transaction=False)
            for job_id in job_ids:
                pipe.xrevrange(stream_key(job_id), count=1)
            return pipe.execute()

        answers = (self._redis.ask(question) if job_ids else None) or []
        return {job_id: read_event(entries[0][1]) for job_id, entries in zip(job_ids, answers, strict=False) if entries}

    def reports(self, job_ids: Sequence[str]) -> dict[str, tuple[float, dict[str, Any]]] | None:
        """Return each job's last report and its age in seconds, by Redis's clock; None if Redis is unavailable."""

        def question(client: "redis.Redis") -> list[Any]:
            pipe = client.pipeline(transaction=False)
            pipe.time()
            for job_id in job_ids:
                pipe.xrevrange(stream_key(job_id), count=1)
            return pipe.execute()

        answers = self._redis.ask(question)
        if answers is None:
            return None
        (seconds, microseconds), *entries = answers
        now = seconds + microseconds / 1e6
        return {
            job_id: (max(0.0, now - int(found[0][0].split(b"-")[0]) / 1000), read_event(found[0][1]))
            for job_id, found in zip(job_ids, entries, strict=True)
            if found
        }

    def silence(self, job_ids: Sequence[str]) -> dict[str, float] | None:
        """Return the seconds since each job's last report; None if Redis is unavailable."""
        found = self.reports(job_ids)
        return None if found is None else {job_id: age for job_id, (age, _) in found.items()}

    def forget(self, job_id: str) -> None:
        self._redis.ask(
            lambda client: client.delete(stream_key(job_id), cancel_key(job_id), hint_key(job_id), preview_key(job_id))
        )


def answers(url: str | None) -> bool | None:
    """Return whether Redis responds: False if it cannot be reached, None if it does not respond within two seconds.

    It opens a new connection, because a pause of `RestingRedis` only means that one reply was late.
    """
    if url is None:
        return False
    client = connect(url, _LONG_TIMEOUT_SECONDS, retry=Retry(NoBackoff(), 0))
    try:
        return bool(client.ping())
    except redis.TimeoutError:
        return None
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()


def publish_change(client: RestingRedis, kind: str) -> None:
    """Publish on the feed that rows of that kind have changed."""
    client.ask(lambda redis: redis.publish(FEED_CHANNEL, json.dumps({"kind": kind})))


def read_event(fields: dict[Any, Any]) -> dict[str, Any]:
    """Return the reported event from a stream entry's fields."""
    event: dict[str, Any] = json.loads(fields[b"event"])
    return event


def connect(url: str, timeout: float, **options: Any) -> "redis.Redis":
    """Return a client that cannot hang: each call completes within `timeout` seconds or raises."""
    return redis.Redis.from_url(
        url, socket_timeout=timeout, socket_connect_timeout=timeout, socket_keepalive=True, **options
    )
