"""The web application: the table of routes between the request's id and the problem map. Knows no torch, no Celery."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute

from api import errors
from api.context import load_catalogue, open_context
from api.dashboard_ws import dashboard
from api.feed import Feed
from api.feed_source import feed_source
from api.operation import router_table
from api.origin import SameOrigin
from api.request_id import RequestId
from api.routes import OPERATIONS
from api.stopwatch import Stopwatch
from shared.errors import WanworksError
from shared.settings import Settings


def create_app(settings: Settings) -> Starlette:
    """The application for these settings. Raises ConfigurationError where the catalogue cannot be read.

    It starts, and answers 503 where need be, also while the database and Redis are away.
    """
    catalogue = load_catalogue(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with open_context(settings, catalogue) as context:
            feed = Feed(settings.redis, feed_source(context))
            try:
                yield {"context": context, "feed": feed}
            finally:
                await feed.close()

    handlers: dict[Any, Any] = {HTTPException: _answer, WanworksError: _answer}
    app = Starlette(
        routes=[*router_table(OPERATIONS), WebSocketRoute("/api/v1/dashboard/ws", dashboard)],
        middleware=[
            Middleware(RequestId),
            Middleware(Stopwatch),
            Middleware(SameOrigin, allowed=settings.allowed_origins),
        ],
        exception_handlers=handlers,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a path with one slash too many is another path: 404
    return app


async def _answer(request: Request, error: Exception) -> Response:
    return errors.answer(request, error)
