"""Read jobs' event streams in Redis. Without Redis, every read is a short sleep with an empty result."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from shared.messaging.progress import read_event, stream_key

_REST_SECONDS = 5.0
_NAP_SECONDS = 1.0
_TIMEOUT_SECONDS = 0.5
_ENTRIES = 200


@dataclass(frozen=True)
class Entry:
    """An event of a stream, with the id that a client may send as Last-Event-ID."""

    id: str
    event: dict[str, Any]


class Streams:
    def __init__(self, url: str | None) -> None:
        self._client: Any = None  # redis-py types its asynchronous commands like the synchronous ones
        if url:
            self._client = redis.asyncio.Redis.from_url(
                url, socket_connect_timeout=_TIMEOUT_SECONDS, socket_keepalive=True, retry=Retry(NoBackoff(), 0)
            )
        self._resting_until = 0.0

    @property
    def away(self) -> bool:
        """Return whether Redis is currently unavailable."""
        return self._client is None or time.monotonic() < self._resting_until

    async def last_id(self, job_id: str) -> str:
        """Return the id of the newest event."""
        entries = await self._run(lambda client: client.xrevrange(stream_key(job_id), count=1))
        if entries is None:
            return "$"
        return str(entries[0][0].decode()) if entries else "0-0"

    async def read(self, job_id: str, after: str, wait_seconds: float) -> list[Entry]:
        """Return the events after the id, or an empty list if there is none within `wait_seconds`."""
        if self.away:
            await asyncio.sleep(min(wait_seconds, _NAP_SECONDS))
            return []
        block = max(1, round(wait_seconds * 1000))
        key = stream_key(job_id)
        found = await self._run(lambda client: client.xread({key: after}, _ENTRIES, block), wait_seconds)
        return [
            Entry(entry_id.decode(), read_event(fields)) for _, entries in found or () for entry_id, fields in entries
        ]

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _run(self, command: Callable[[Any], Awaitable[Any]], wait_seconds: float = 0.0) -> Any:
        """Run a command. Returns None if Redis is unavailable, and then does not try again for a while."""
        if self.away:
            return None
        try:
            async with asyncio.timeout(wait_seconds + _TIMEOUT_SECONDS):
                return await command(self._client)
        except (RedisError, OSError, TimeoutError, RuntimeError):
            # uvloop raises RuntimeError for a connection that was closed meanwhile.
            self._resting_until = time.monotonic() + _REST_SECONDS
            return None
