"""JSON responses."""

from pydantic import BaseModel
from starlette.responses import Response


def json_response(body: BaseModel, status: int = 200, extra: dict[str, str] | None = None) -> Response:
    return serialized_response(body.model_dump_json().encode(), status, extra)


def serialized_response(content: bytes, status: int = 200, extra: dict[str, str] | None = None) -> Response:
    """Return a response whose content is serialised already."""
    return Response(content, status, {"Cache-Control": "no-store", **(extra or {})}, "application/json")
