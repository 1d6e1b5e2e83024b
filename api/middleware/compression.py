"""Compress JSON responses for clients that accept gzip.

Everything else passes unchanged: event streams must not wait in a compressor, media and archives are compressed
already, the page's files are compressed once, and a file that is served in ranges must have the same bytes in each.
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipResponder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.headers import takes_gzip

_MINIMUM_BYTES = 1000  # below, the headers and a packet cost more than what is saved
_LEVEL = 5
_JSON = (b"application/json", b"application/problem+json")


class Compression:
    """Starlette's compression, for JSON alone."""

    def __init__(self, app: ASGIApp, minimum_size: int = _MINIMUM_BYTES) -> None:
        self.app = app
        self._minimum_size = minimum_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if takes_gzip(Headers(scope=scope).get("accept-encoding", "")):
            await _JsonOnly(self.app, self._minimum_size, _LEVEL)(scope, receive, send)
            return

        async def mark(message: Message) -> None:
            """Say that the response depends on the header, because others get it compressed."""
            if message["type"] == "http.response.start" and _is_compressed(message):
                MutableHeaders(raw=message["headers"]).add_vary_header("Accept-Encoding")
            await send(message)

        await self.app(scope, receive, mark)


class _JsonOnly(GZipResponder):
    """Passes on what is not JSON, or is served in ranges."""

    _passes = False

    async def send_with_compression(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._passes = not _is_compressed(message)
        if self._passes:
            await self.send(message)
        else:
            await super().send_with_compression(message)


def _is_compressed(message: Message) -> bool:
    """Return whether a response with these headers is compressed if it is long enough."""
    headers = dict(message.get("headers", ()))
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    return media_type in _JSON and b"accept-ranges" not in headers
