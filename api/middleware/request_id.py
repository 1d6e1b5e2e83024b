"""Give every request an id: the client's, if it is valid. It is returned in a header and in every problem document.

This is the outermost layer, so it also handles exceptions that no other layer has handled.
"""

import random
import re

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.errors import answer
from shared.telemetry import logs

HEADER = "X-Request-ID"
_NAME = HEADER.lower().encode()
_DECENT = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class RequestId:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = sent.decode() if _DECENT.fullmatch(sent) else f"{random.getrandbits(96):024x}"
        scope["wanworks.request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                others = (one for one in message["headers"] if one[0] != _NAME)
                message["headers"] = [*others, (_NAME, request_id.encode())]
            await send(message)

        with logs.bound(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except Exception as error:
                if started:  # too late for an error response: the server closes the connection
                    raise
                await answer(Request(scope), error)(scope, receive, send_with_id)
