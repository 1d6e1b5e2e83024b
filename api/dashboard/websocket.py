"""Serve the dashboard's WebSocket: everything at first, then changes, and metrics at least every ten seconds.

A slow client delays no other: a waiting message is replaced by a newer one on the same subject, and a client that is
too far behind receives everything again. Messages from clients are ignored.
"""

import asyncio
import contextlib

from starlette.websockets import WebSocket, WebSocketDisconnect

from api.access.authentication import Access
from api.context import Context
from api.dashboard.feed import Feed, Watcher
from shared.errors import RequestError, Unavailable
from shared.states import Scope

DASHBOARD_WS = "/api/v1/dashboard/ws"
SCOPE = Scope.READ
_POLICY_VIOLATION, _TRY_AGAIN = 1008, 1013
_CHECK_SECONDS = 5.0  # between checks that the key is still valid


async def dashboard(socket: WebSocket) -> None:
    context: Context = socket.state.context
    feed: Feed = socket.state.feed
    try:
        caller = await context.access.admit(socket, SCOPE)
    except RequestError:
        await socket.close(_POLICY_VIOLATION)  # before it is accepted, so the client receives a 403
        return
    except Unavailable:
        await socket.close(_TRY_AGAIN)
        return
    await socket.accept()
    async with feed.watch(caller) as watcher:
        reading = asyncio.create_task(_read(socket))
        sending = asyncio.create_task(_send(socket, feed, watcher))
        checking = asyncio.create_task(_until_refused(socket, context.access))
        done, pending = await asyncio.wait((reading, sending, checking), return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in (*done, *pending):
            with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
                await task
        if checking in done:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await socket.close(_POLICY_VIOLATION)


async def _until_refused(socket: WebSocket, access: Access) -> None:
    """Return when the key that opened the socket is no longer valid."""
    while True:
        await asyncio.sleep(_CHECK_SECONDS)
        try:
            (await access.caller(socket)).require(SCOPE)
        except RequestError:
            return
        except Unavailable:
            continue  # the messages come from the same database, so none are sent meanwhile


async def _read(socket: WebSocket) -> None:
    """Return when the client disconnects. Pings and disconnects are processed only while the socket is read."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def _send(socket: WebSocket, feed: Feed, watcher: Watcher) -> None:
    while True:
        messages = await watcher.take()
        if watcher.behind:
            messages = await feed.everything(watcher.caller)
            watcher.behind = False
        for message in messages:
            await socket.send_text(message)
