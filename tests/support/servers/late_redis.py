"""A TCP proxy in front of Redis that delays every response."""

import asyncio
import threading
from types import TracebackType
from typing import Self

from tests.conftest import RedisServer


class LateRedis:
    """``with LateRedis(server, 0.5) as late``: the same Redis at `late.url`, answering so many seconds late."""

    def __init__(self, server: RedisServer, seconds: float) -> None:
        self._server = server
        self._seconds = seconds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.start_server(self._serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(10)
        port = server.sockets[0].getsockname()[1]
        self.url = self._server.url.replace(str(self._server.port), str(port))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        server_in, server_out = await asyncio.open_connection("127.0.0.1", self._server.port)
        await asyncio.gather(
            _pass_on(client_in, server_out, 0.0),
            _pass_on(server_in, client_out, self._seconds),
            return_exceptions=True,
        )


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    while data := await reader.read(65536):
        await asyncio.sleep(seconds)
        writer.write(data)
        await writer.drain()
    writer.close()
