"""Refuse changes and WebSockets from pages of other origins, except the origins allowed by a setting.

Browsers send `Origin` with every WebSocket and every request that changes something; other clients send none. So a
page of another site cannot use a visitor's session to start or watch jobs.
"""

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.errors import answer
from shared.errors import Forbidden

_Place = tuple[str, str | None, int | None]
"""(scheme, host, port); the opaque origin (`null`) has no host."""

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_POLICY_VIOLATION = 1008


class SameOrigin:
    """Answer 403 to changes and WebSockets that come from a page of another origin."""

    def __init__(self, app: ASGIApp, allowed: str) -> None:
        self.app = app
        self._allowed = frozenset(_place(origin.strip()) for origin in allowed.split(",") if origin.strip())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        changing = scope["type"] == "http" and scope["method"] not in _READING
        if not (changing or scope["type"] == "websocket") or self._is_allowed(HTTPConnection(scope)):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            # Closed before it is accepted, so the client receives a 403.
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            refusal = Forbidden(
                "Pages of other origins may not use this API. Allow an origin in the setting WANWORKS_ALLOWED_ORIGINS."
            )
            await answer(Request(scope), refusal)(scope, receive, send)

    def _is_allowed(self, connection: HTTPConnection) -> bool:
        return is_own_page(connection) or _place(connection.headers.get("origin", "")) in self._allowed


def is_own_page(connection: HTTPConnection) -> bool:
    """Return whether the request comes from a page of this server, or from a client that is not a browser."""
    if not any(name == b"origin" for name, _ in connection.scope["headers"]):
        return True
    origin = connection.headers["origin"]
    scheme, host, port = _place(origin)
    # The scheme is not compared: behind a proxy that terminates TLS, this process sees http and its pages https.
    return host is not None and (scheme, host, port) == _place(f"{scheme}://{connection.headers.get('host', '')}")


def _place(origin: str) -> _Place:
    try:
        parts = urlsplit(origin)
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return "", None, None
