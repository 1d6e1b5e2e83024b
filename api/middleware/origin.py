"""Whose pages may use the API: its own, and those of the origins that are allowed by setting.

A browser sends `Origin` with every WebSocket and with every request that changes something; what is no browser sends
none. So a page of another site can neither start a job nor watch one, whatever it makes its visitor's browser send.
"""

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.errors import answer
from shared.errors import Forbidden

_Place = tuple[str, str | None, int | None]
"""(scheme, host, port); an origin that is none (`null`) has no host."""

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_POLICY_VIOLATION = 1008


class SameOrigin:
    """Answers 403 to what another origin's page asks to be changed, and to its WebSockets."""

    def __init__(self, app: ASGIApp, allowed: str) -> None:
        self.app = app
        self._allowed = frozenset(_place(origin.strip()) for origin in allowed.split(",") if origin.strip())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        changing = scope["type"] == "http" and scope["method"] not in _READING
        if not (changing or scope["type"] == "websocket") or self._may(HTTPConnection(scope)):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})  # before it is accepted: a 403
        else:
            refusal = Forbidden("Pages of another origin may not use this API")
            await answer(Request(scope), refusal)(scope, receive, send)

    def _may(self, asked: HTTPConnection) -> bool:
        return is_own_page(asked) or _place(asked.headers.get("origin", "")) in self._allowed


def is_own_page(asked: HTTPConnection) -> bool:
    """Whether one of our own pages asks, or what is no page at all."""
    origin = asked.headers.get("origin")
    if origin is None:
        return True
    scheme, host, port = _place(origin)
    # The scheme is left out: behind a proxy that ends TLS this process speaks http, and its pages https.
    return host is not None and (scheme, host, port) == _place(f"{scheme}://{asked.headers.get('host', '')}")


def _place(origin: str) -> _Place:
    try:
        parts = urlsplit(origin)
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return "", None, None
