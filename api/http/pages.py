"""Pages for people: whether a browser opens an address itself, and the page of an error."""

from functools import cache
from http import HTTPStatus
from pathlib import Path

import jinja2
from starlette.requests import Request
from starlette.responses import Response

_TEMPLATE = Path(__file__).parent / "error.html"
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
_TITLES = {
    401: "Sign in first",
    403: "This is not allowed",
    404: "There is nothing at this address",
    500: "An error occurred",
    503: "Not available at the moment",
}


def wanted(request: Request) -> bool:
    """Return whether a browser opens the address. Programs, scripts and players do not ask for HTML."""
    accepted = {part.split(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")}
    return request.method in ("GET", "HEAD") and "text/html" in accepted


def error(request: Request, status: int, detail: str, request_id: str, headers: dict[str, str]) -> Response:
    """Return the error as a page that leads to the live page."""
    text = _template().render(
        title=_TITLES.get(status, HTTPStatus(status).phrase),
        detail=detail.encode(errors="replace").decode(),  # text of the client may contain what cannot be encoded
        status=status,
        request_id=request_id,
        home=f"{request.scope.get('wanworks.public_path', '')}/",
    )
    known = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store", "Vary": "Accept"}
    return Response(text, status, known | headers, "text/html; charset=utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
