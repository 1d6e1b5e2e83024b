"""The way to Flower, whose page another process serves on a port of its own: where it is, and whether it answers."""

import socket

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.jobs import answered
from api.page_schemas import Flower
from shared.settings import Settings

_EVERYWHERE = ("0.0.0.0", "::", "")
_PATIENCE_SECONDS = 0.3


def flower(context: Context, request: Request, query: BaseModel) -> Response:
    return answered(told(context.settings, request.url.hostname))


def told(settings: Settings, asked_host: str | None) -> Flower:
    """Flower's place for a browser that reached this server under `asked_host`; asks its port whether it listens."""
    everywhere = settings.host in _EVERYWHERE
    host = (asked_host or "127.0.0.1") if everywhere else settings.host
    try:
        near = "127.0.0.1" if everywhere else settings.host
        socket.create_connection((near, settings.flower_port), _PATIENCE_SECONDS).close()
        listens = True
    except OSError:
        listens = False
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.flower_port}"
    return Flower(url=url, user=settings.flower_user, reachable=listens)
