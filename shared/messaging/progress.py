"""Progress through Redis: one capped stream for each job, its latest word, and the cancel key.

No key of a job outlives it by much. A stream is kept while somebody runs the job, however rarely it reports, and for
ten minutes after its end, for clients that return. Redis may be gone at any moment. Then reports are dropped, nothing
waits, and after a failure the client rests, so that a missing Redis never slows a step.
"""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

STREAM_LENGTH = 1000
ENDED_SECONDS = 600  # a stream is kept for so long after the job's end
# And for so long after the last sign of life of an attempt: nobody says the end of one that died.
LIVE_SECONDS = 1800
_CANCEL_KEEP_SECONDS = 600  # the row is the truth, and an attempt reads it within a heartbeat
_TIMEOUT_SECONDS = 0.2
_REST_SECONDS = 5.0
_PATIENT_SECONDS = 2.0

T = TypeVar("T")


def stream_key(job_id: str) -> str:
    return f"wanworks:events:{job_id}"


# What watchers of everything listen to: {"job": id, **event} of each report, {"kind": "queue"} where rows have changed,
# {"kind": "alert"} where alerts have. A word that is lost is made up for by the next look at SQL.
FEED_CHANNEL = "wanworks:feed"


def cancel_key(job_id: str) -> str:
    return f"wanworks:cancel:{job_id}"


def hint_key(job_id: str) -> str:
    return f"wanworks:hint:{job_id}"


class RestingRedis:
    """A Redis client that gives up within 0.2 s and then asks nothing for 5 s."""

    def __init__(self, url: str | None, timeout: float = _TIMEOUT_SECONDS, rest: float = _REST_SECONDS) -> None:
        self._client = connect(url, timeout) if url else None
        self._rest = rest
        self._resting_until = 0.0

    def ask(self, question: Callable[["redis.Redis"], T]) -> T | None:
        """The answer; None where Redis is away or resting."""
        if self._client is None or time.monotonic() < self._resting_until:
            return None
        try:
            return question(self._client)
        except (redis.RedisError, OSError):
            self._resting_until = time.monotonic() + self._rest
            return None


class Progress:
    """Reports and reads progress. Never raises on a missing Redis."""

    def __init__(self, client: RestingRedis) -> None:
        self._redis = client

    def report(self, job_id: str, event: dict[str, Any], *, ended: bool = False) -> bool:
        """Appends to the job's stream and, in the same round trip, says whether a cancel has been asked for."""

        def question(client: "redis.Redis") -> bool:
            pipe = client.pipeline(transaction=False)
            entry = {"event": json.dumps(event, separators=(",", ":"))}
            pipe.xadd(stream_key(job_id), entry, maxlen=STREAM_LENGTH, approximate=False)  # type: ignore[arg-type]
            pipe.exists(cancel_key(job_id))
            pipe.publish(FEED_CHANNEL, json.dumps({"job": job_id, **event}, separators=(",", ":")))
            pipe.expire(stream_key(job_id), ENDED_SECONDS if ended else LIVE_SECONDS)
            if ended:
                pipe.delete(cancel_key(job_id), hint_key(job_id))
            return bool(pipe.execute()[1])

        return bool(self._redis.ask(question))

    def ask_to_cancel(self, job_id: str) -> None:
        self._redis.ask(lambda client: client.set(cancel_key(job_id), 1, ex=_CANCEL_KEEP_SECONDS))

    def hint(self, job_id: str) -> None:
        """Tells whoever runs the job to look at its row now: something is asked of it there."""
        self._redis.ask(lambda client: client.set(hint_key(job_id), 1, ex=60))

    def listen(self, job_id: str) -> tuple[bool, bool] | None:
        """(a cancel has been asked for, the row should be looked at); None where Redis is away.

        Asked all the time by whoever runs the job, so it keeps the job's stream.
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
        """The last progress event of each of the jobs that has one."""

        def question(client: "redis.Redis") -> list[Any]:
            pipe = client.pipeline(transaction=False)
            for job_id in job_ids:
                pipe.xrevrange(stream_key(job_id), count=1)
            return pipe.execute()

        answers = (self._redis.ask(question) if job_ids else None) or []
        return {job_id: read_event(entries[0][1]) for job_id, entries in zip(job_ids, answers, strict=False) if entries}

    def silence(self, job_ids: Sequence[str]) -> dict[str, float] | None:
        """Seconds since the last word of each of the jobs that has said one, by Redis's clock; None: Redis is away."""

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
            job_id: max(0.0, now - int(found[0][0].split(b"-")[0]) / 1000)
            for job_id, found in zip(job_ids, entries, strict=True)
            if found
        }

    def forget(self, job_id: str) -> None:
        self._redis.ask(lambda client: client.delete(stream_key(job_id), cancel_key(job_id), hint_key(job_id)))


def answers(url: str | None) -> bool | None:
    """Whether Redis answers; False where it is not there, None where it has not answered within two seconds.

    Asked with a connection of its own: that `RestingRedis` rests says only that one answer was late.
    """
    if url is None:
        return False
    client = connect(url, _PATIENT_SECONDS, retry=Retry(NoBackoff(), 0))
    try:
        return bool(client.ping())
    except redis.TimeoutError:
        return None
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()


def tell_watchers(client: RestingRedis, kind: str) -> None:
    """Says on the feed that rows of that kind have changed."""
    client.ask(lambda redis: redis.publish(FEED_CHANNEL, json.dumps({"kind": kind})))


def read_event(fields: dict[Any, Any]) -> dict[str, Any]:
    """A stream entry's fields as the event that was reported."""
    event: dict[str, Any] = json.loads(fields[b"event"])
    return event


def connect(url: str, timeout: float, **options: Any) -> "redis.Redis":
    """A client that cannot hang: connects and answers within `timeout` seconds or raises."""
    return redis.Redis.from_url(
        url, socket_timeout=timeout, socket_connect_timeout=timeout, socket_keepalive=True, **options
    )
