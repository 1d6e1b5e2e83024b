"""The web application: routes, middleware and error handling. Must not import torch or Celery."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute

from api.context import load_catalogue, open_context
from api.dashboard.feed import Feed
from api.dashboard.feed_source import feed_source
from api.dashboard.websocket import DASHBOARD_WS, dashboard
from api.http import errors
from api.middleware.compression import Compression
from api.middleware.origin import SameOrigin
from api.middleware.request_id import RequestId
from api.middleware.security_headers import SecureHeaders
from api.middleware.sub_path import SubPath
from api.middleware.timing import Stopwatch
from api.middleware.tracing import Traces
from api.operation import router_table
from api.routes import OPERATIONS
from shared.errors import WanworksError
from shared.settings import Settings

# Response headers that pages of allowed origins may read.
_TOLD = (
    "Location", "Retry-After", "ETag", "Content-Range", "Accept-Ranges", "X-Request-ID", "Idempotency-Replayed",
    "Preference-Applied", "openai-poll-after-ms", "WWW-Authenticate",
)  # fmt: skip


def create_app(settings: Settings) -> Starlette:
    """Create the application. Raises ConfigurationError if the catalogue cannot be read.

    It also starts while the database and Redis are unavailable; requests that need them are answered with 503.
    """
    catalogue = load_catalogue(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with open_context(settings, catalogue) as context:
            feed = Feed(settings.redis, feed_source(context))
            try:
                yield {"context": context, "feed": feed, "meters": context.meters}
            finally:
                await feed.close()

    origins = [origin.strip() for origin in settings.allowed_origins.split(",") if origin.strip()]
    handlers: dict[Any, Any] = {HTTPException: _answer, WanworksError: _answer}
    app = Starlette(
        routes=[*router_table(OPERATIONS), WebSocketRoute(DASHBOARD_WS, dashboard)],
        middleware=[
            *([Middleware(SubPath, public_path=settings.public_path)] if settings.public_path else []),
            *([Middleware(Traces)] if settings.otlp_endpoint is not None else []),
            Middleware(SecureHeaders, other_origins=bool(origins)),
            Middleware(RequestId),
            *([_cors(origins)] if origins else []),
            Middleware(Compression),
            Middleware(Stopwatch),
            Middleware(SameOrigin, allowed=settings.allowed_origins),
        ],
        exception_handlers=handlers,
        lifespan=lifespan,
    )
    app.state.operations = OPERATIONS  # for the documentation
    app.router.redirect_slashes = False  # a path with an extra slash is another path: 404
    return app


def _cors(origins: list[str]) -> Middleware:
    """Allow pages of these origins to send requests with a key, but not with the session cookie."""
    return Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST", "PATCH", "DELETE"],
        allow_headers=["*"],
        expose_headers=_TOLD,
        max_age=600,
    )


async def _answer(request: Request, error: Exception) -> Response:
    return errors.answer(request, error)
