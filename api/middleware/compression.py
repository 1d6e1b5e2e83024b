"""Compress JSON responses for clients that accept gzip.

Everything else passes unchanged: event streams must not wait in a compressor, media and archives are compressed
already, the page's files are compressed once, and a file that is served in ranges must have the same bytes in each.
"""

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipResponder, IdentityResponder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.headers import takes_gzip

_MINIMUM_BYTES = 1000  # below, the headers and a packet cost more than what is saved
_LEVEL = 5
_JSON = ("application/json", "application/problem+json")


class Compression:
    """Starlette's compression, for JSON alone."""

    def __init__(self, app: ASGIApp, minimum_size: int = _MINIMUM_BYTES) -> None:
        self.app = app
        self._minimum_size = minimum_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        accepted = takes_gzip(Headers(scope=scope).get("accept-encoding", ""))
        responder: IdentityResponder = (
            _Gzip(self.app, self._minimum_size, _LEVEL) if accepted else _Plain(self.app, self._minimum_size)
        )
        await responder(scope, receive, send)


class _JsonOnly(IdentityResponder):
    """Passes on what is not JSON, or is served in ranges."""

    _passes = False

    async def send_with_compression(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = Headers(raw=message.get("headers", []))
            media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
            self._passes = media_type not in _JSON or "accept-ranges" in headers
        if self._passes:
            await self.send(message)
        else:
            await super().send_with_compression(message)


class _Plain(_JsonOnly):
    """Only marks the responses that would be compressed for others."""


class _Gzip(_JsonOnly, GZipResponder):
    """Compresses."""
