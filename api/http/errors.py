"""Map exceptions to error responses.

They are RFC 9457 problem documents, under `/v1/` the `openai` client's envelope, and pages for browsers.

No traceback, path, SQL or secret reaches the client: unexpected errors are logged with the request id and answered
with a general message.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from api.http import pages
from api.http.near_path import near_path
from shared import errors, invalid_values
from shared.errors import FieldError, InvalidField, WanworksError

log = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
CONVENTION = "/v1/"  # routes under it use the `openai` client's format
_MAX_ERRORS = 50
_MAX_DETAIL = 1000

# The first matching class counts, so subclasses come before their base classes.
STATUS: tuple[tuple[type[WanworksError], int], ...] = (
    (errors.MalformedRequest, 400),
    (errors.InvalidField, 422),
    (errors.NotEnoughMemory, 422),
    (errors.Unauthenticated, 401),
    (errors.Forbidden, 403),
    (errors.LimitReached, 429),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.TooLarge, 413),
    (errors.UnsupportedMedia, 415),
    (errors.Unavailable, 503),
    (errors.StoreFull, 507),
)
_HTTP_CODES = {400: "malformed_request", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}


_CONVENTION_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_NO_RETRY = frozenset({409, 507})  # the client retries these unless a header forbids it


def problem(
    request: Request, status: int, code: str, detail: str, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    """Return a problem document, the `openai` client's envelope for routes under `/v1/`, or a page for browsers."""
    if str(request.scope["path"]).startswith(CONVENTION):
        return _envelope(status, code, detail, headers or {}, more.get("errors", ()))
    if pages.wanted(request):
        return pages.error(request, status, detail[:_MAX_DETAIL], request_id(request), headers or {})
    body = {
        "type": f"urn:wanworks:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail[:_MAX_DETAIL],
        "code": code,
        "request_id": request_id(request),
        **more,
    }
    # ASCII only, because text of the client may contain characters that cannot be encoded.
    return Response(json.dumps(body), status, {"Cache-Control": "no-store", **(headers or {})}, PROBLEM_TYPE)


def request_id(request: Request) -> str:
    return str(request.scope.get("wanworks.request_id", ""))


def answer(request: Request, error: Exception) -> Response:
    """Return the error response. Unexpected errors are logged and answered with 500."""
    if isinstance(error, HTTPException):
        code = _HTTP_CODES.get(error.status_code, "http_error")
        detail = _http_detail(request, error)
        return problem(request, error.status_code, code, detail, dict(error.headers or {}))
    if isinstance(error, WanworksError) and (status := _status(error)) is not None:
        return _known(request, error, status)
    log.error("request %s failed", request_id(request), exc_info=error)
    return problem(
        request,
        500,
        "internal_error",
        "An internal error occurred. The server's log has the details under the request id.",
    )


def status_of(error: Exception) -> int:
    """Return the HTTP status for the error."""
    return error.status_code if isinstance(error, HTTPException) else _status(error) or 500


def invalid(error: ValidationError, where: Literal["body", "query"], model: type[BaseModel]) -> InvalidField:
    """Convert pydantic's errors about a `model` to InvalidField."""
    found = error.errors(include_url=False)
    return InvalidField(*(_field_error(where, model, item) for item in found[:_MAX_ERRORS]))


def _status(error: Exception) -> int | None:
    return next((status for kind, status in STATUS if isinstance(error, kind)), None)


def _known(request: Request, error: WanworksError, status: int) -> Response:
    if isinstance(error, errors.InvalidField):
        wrong = [{"loc": list(item.loc), "msg": item.msg, "type": item.type} for item in error.errors]
        return problem(request, status, error.code, error.message, errors=wrong)
    if isinstance(error, errors.NotEnoughMemory):
        more: dict[str, Any] = {"errors": [], "missing": error.missing, "alternatives": error.alternatives}
        return problem(request, status, error.code, error.message, None, **more)
    if isinstance(error, errors.Unavailable):
        log.warning("request %s: %s (%r)", request_id(request), error, error.__cause__)
        return problem(request, status, error.code, error.message, {"Retry-After": str(error.retry_after_seconds)})
    if isinstance(error, errors.LimitReached):
        return problem(request, status, error.code, error.message, {"Retry-After": str(error.retry_after_seconds)})
    if isinstance(error, errors.Unauthenticated):
        return problem(request, status, error.code, error.message, {"WWW-Authenticate": 'Bearer realm="wanworks"'})
    if isinstance(error, errors.StoreFull):
        log.error("request %s: the disk is full", request_id(request))
    return problem(request, status, error.code, error.message)


def _envelope(
    status: int, code: str, detail: str, headers: dict[str, str], wrong: Sequence[Mapping[str, Any]]
) -> Response:
    """Return `{"error": {...}}`. Invalid fields are a 400 there, and `param` names the first."""
    status = 400 if status == 422 else status
    usual = "server_error" if status >= 500 else "invalid_request_error"
    error = {
        "message": detail[:_MAX_DETAIL],
        "type": _CONVENTION_TYPES.get(status, usual),
        "param": ".".join(map(str, wrong[0]["loc"][1:])) or None if wrong else None,
        "code": wrong[0]["type"] if wrong else code,
    }
    extra = {"Cache-Control": "no-store", **headers}
    if status in _NO_RETRY:
        extra["x-should-retry"] = "false"
    return Response(json.dumps({"error": error}), status, extra, "application/json")


def _field_error(where: str, model: type[BaseModel], item: ErrorDetails) -> FieldError:
    loc = tuple(part if isinstance(part, int) else str(part)[:100] for part in item["loc"])
    if item["type"] == "extra_forbidden":
        noun = "field" if where == "body" else "query parameter"
        msg = invalid_values.unknown(loc[-1], invalid_values.names_at(model, item["loc"]), noun)
    else:
        msg = invalid_values.message(item, bare=where == "query")
    return FieldError((where, *loc), msg[:300], item["type"])


def _http_detail(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        path = str(request.scope["path"])
        below = str(request.scope.get("wanworks.public_path", ""))
        templates = (operation.path for operation in request.app.state.operations)
        like = near_path(path, templates)
        hint = f"; {below}/docs lists them" if like is None else f"; did you mean {below}{like}?"
        return f"There is no route {below}{path[:100]}{hint}"
    if error.status_code == 405:
        return f"{request.method} is not allowed here. The Allow header lists the allowed methods."
    return error.detail
