"""Responses that are JSON."""

from pydantic import BaseModel
from starlette.responses import Response


def answered(body: BaseModel, status: int = 200, extra: dict[str, str] | None = None) -> Response:
    return ready(body.model_dump_json().encode(), status, extra)


def ready(content: bytes, status: int = 200, extra: dict[str, str] | None = None) -> Response:
    """An answer that is JSON already."""
    return Response(content, status, {"Cache-Control": "no-store", **(extra or {})}, "application/json")
