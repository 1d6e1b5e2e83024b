"""The reader of event streams with a connection to Redis that was closed unnoticed."""

import asyncio
from typing import Any

import pytest
import uvloop

from api.services.streams import Streams


async def _read_over_a_closed_connection(url: str) -> tuple[object, bool]:
    streams = Streams(url)
    assert await streams.last_id("job") == "0-0"
    connection = await streams._client.connection_pool.get_connection()
    await streams._client.connection_pool.release(connection)
    connection._writer.transport.abort()  # as if Redis was killed: uvloop closes the connection in its next iteration
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    connection._reader._eof = False  # the pool has not noticed yet
    found = await streams.read("job", "0-0", 0.05)
    away = streams.away
    await streams.close()
    return found, away


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_closed_connection_counts_as_an_unreachable_redis(redis_url: str, loop: Any) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        found, away = runner.run(_read_over_a_closed_connection(redis_url))
    assert found == []
    assert away
