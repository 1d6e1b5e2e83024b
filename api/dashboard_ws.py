"""The dashboard's WebSocket: everything at once, then what changes, and the figures at least every ten seconds.

A client that reads slowly holds up nobody: what it has not taken is replaced by newer words on the same thing, and if
that is too much, by everything anew. What a client sends is not read for meaning.
"""

import asyncio
import contextlib

from starlette.websockets import WebSocket, WebSocketDisconnect

from api.feed import Feed, Watcher


async def dashboard(socket: WebSocket) -> None:
    feed: Feed = socket.state.feed
    await socket.accept()
    async with feed.watch() as watcher:
        reading = asyncio.create_task(_read(socket))
        telling = asyncio.create_task(_tell(socket, feed, watcher))
        done, pending = await asyncio.wait((reading, telling), return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in (*done, *pending):
            with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
                await task


async def _read(socket: WebSocket) -> None:
    """Until the client goes: its pings and its farewell are seen only while somebody reads."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def _tell(socket: WebSocket, feed: Feed, watcher: Watcher) -> None:
    while True:
        messages = await watcher.take()
        if watcher.behind:
            messages = await feed.everything()
            watcher.behind = False
        for message in messages:
            await socket.send_text(message)
