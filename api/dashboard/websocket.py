"""The dashboard's WebSocket: everything at once, then what changes, and the figures at least every ten seconds.

A client that reads slowly holds up nobody: what it has not taken is replaced by newer words on the same thing, and if
that is too much, by everything anew. What a client sends is not read for meaning.
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
_ASK_AGAIN_SECONDS = 5.0  # whether the key is still good


async def dashboard(socket: WebSocket) -> None:
    context: Context = socket.state.context
    feed: Feed = socket.state.feed
    try:
        caller = await context.access.admit(socket, SCOPE)
    except RequestError:
        await socket.close(_POLICY_VIOLATION)  # before it is accepted: a 403
        return
    except Unavailable:
        await socket.close(_TRY_AGAIN)
        return
    await socket.accept()
    async with feed.watch(caller) as watcher:
        reading = asyncio.create_task(_read(socket))
        telling = asyncio.create_task(_tell(socket, feed, watcher))
        asking = asyncio.create_task(_while_admitted(socket, context.access))
        done, pending = await asyncio.wait((reading, telling, asking), return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in (*done, *pending):
            with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
                await task
        if asking in done:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await socket.close(_POLICY_VIOLATION)


async def _while_admitted(socket: WebSocket, access: Access) -> None:
    """Returns when the key that opened the socket lets nobody in any more."""
    while True:
        await asyncio.sleep(_ASK_AGAIN_SECONDS)
        try:
            (await access.caller(socket)).require(SCOPE)
        except RequestError:
            return
        except Unavailable:
            continue  # nobody can say; what is told comes from the database too


async def _read(socket: WebSocket) -> None:
    """Until the client goes: its pings and its farewell are seen only while somebody reads."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def _tell(socket: WebSocket, feed: Feed, watcher: Watcher) -> None:
    while True:
        messages = await watcher.take()
        if watcher.behind:
            messages = await feed.everything(watcher.caller)
            watcher.behind = False
        for message in messages:
            await socket.send_text(message)
