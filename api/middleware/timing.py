"""Measure the duration of requests, by route and status, without streams, which last as long as clients listen."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.telemetry.metrics import HTTP_SECONDS, Meters


class Stopwatch:
    """Observe each request when its response starts. Requests without a matching route have an empty label."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def observe(message: Message) -> None:
            if message["type"] == "http.response.start" and not _is_stream(message):
                meters: Meters = scope["state"]["meters"]
                route, method = scope.get("wanworks.route", ""), scope["method"] if "wanworks.route" in scope else ""
                seconds = time.perf_counter() - began
                meters.observe(HTTP_SECONDS, method, route, str(message["status"]), seconds=seconds)
            await send(message)

        await self.app(scope, receive, observe)


def _is_stream(message: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in message["headers"])
