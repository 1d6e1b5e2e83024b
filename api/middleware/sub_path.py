"""Serve the API under a path of a reverse proxy, whether the proxy strips the path or not.

Handlers see paths without it. Links and `Location` headers in responses begin with the public path.
"""

from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wanworks.net.paths import within

_REDIRECTED = frozenset({"GET", "HEAD"})


class SubPath:
    def __init__(self, app: ASGIApp, public_path: str) -> None:
        self.app = app
        self._path = public_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if scope["path"] == self._path and scope.get("method") in _REDIRECTED:
            # Without the slash, relative links would be resolved against the wrong path. The browser keeps the query.
            query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
            await RedirectResponse(f"{self._path}/{query}", 308)(scope, receive, send)
            return
        scope = {**scope, "wanworks.public_path": self._path}
        if (path := within(scope["path"], self._path)) is not None:
            raw = within(scope.get("raw_path", b"").decode("latin-1"), self._path)
            scope = {**scope, "path": path, "raw_path": (raw if raw is not None else quote(path)).encode("latin-1")}

        async def send_with_path(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                location = headers.get("location", "")
                if location.startswith("/") and not location.startswith("//"):
                    headers["location"] = self._path + location
            await send(message)

        await self.app(scope, receive, send_with_path)
