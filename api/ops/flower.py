"""Proxy Flower's pages under `/flower/`, for keys with the admin scope.

Flower listens on loopback, or on a network that only this server reaches, and requires a password from this server.
Its unprotected `/metrics` is not passed on.
"""

import threading
import time

import anyio
import httpx
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from api.context import Context
from api.http.query import AnyQuery
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas.dashboard import page as page_schemas
from api.schemas.dashboard.page import Flower
from shared.errors import MalformedRequest, NotFound, TooLarge, Unavailable
from shared.messaging import flower as flower_process
from shared.settings import Settings
from shared.states import Scope

FLOWER_PATH = "/flower/"
FLOWER_TABLE = f"{FLOWER_PATH}tasks/datatable"  # its page of tasks polls this by POST
_OPEN_TO_ALL = frozenset({"metrics", "healthcheck"})
_KEEP_SECONDS = 5.0  # how long the result of a check is cached
_PROXY_SECONDS = 5.0  # until Flower starts its response
_MAX_BYTES = 1 << 20
_ASKED = ("accept", "accept-language", "content-type", "if-modified-since", "if-none-match", "x-requested-with")
_RESPONSE_HEADERS = ("content-type", "content-length", "cache-control", "etag", "last-modified", "location")
# Flower's pages contain inline scripts; everything they load comes from Flower.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


_OPTIONAL = "Jobs do not need it. It may be off, or starting: try again in a few seconds."


class FlowerUnavailable(Unavailable):
    """Flower does not respond."""

    code = "flower_unavailable"


def flower(context: Context, request: Request, query: BaseModel) -> Response:
    return json_response(flower_status(context.settings))


def flower_status(settings: Settings) -> Flower:
    """Return the URL of Flower, and whether it responded within the last seconds."""
    return Flower(url=f"{settings.public_path}{FLOWER_PATH}", user=settings.flower_user, reachable=_reachable(settings))


class _Reachability:
    """Cache whether Flower responds. One thread checks at a time; others use the last result, or wait for the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, bool]] = {}

    def __call__(self, settings: Settings) -> bool:
        url = flower_process.url(settings)
        if self._is_fresh(url) or not self._lock.acquire(blocking=url not in self._known):
            return self._known[url][1]
        try:
            if not self._is_fresh(url):
                self._known[url] = (time.monotonic(), flower_process.answers(settings))
        finally:
            self._lock.release()
        return self._known[url][1]

    def _is_fresh(self, url: str) -> bool:
        return url in self._known and time.monotonic() - self._known[url][0] <= _KEEP_SECONDS


_reachable = _Reachability()


async def with_slash(context: Context, request: Request, query: BaseModel) -> Response:
    suffix = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(f"{FLOWER_PATH}{suffix}", 308)


async def proxied(context: Context, request: Request, query: BaseModel) -> Response:
    """Return Flower's response. Raises NotFound, TooLarge or FlowerUnavailable."""
    path = request.scope["path"].removeprefix(FLOWER_PATH)
    if path.strip("/") in _OPEN_TO_ALL:
        raise NotFound("page", path)
    body = await _body(request)
    password = context.settings.flower_password
    client = context.flower
    try:
        target = httpx.URL(flower_process.url(context.settings)).copy_with(
            raw_path=context.settings.public_path.encode() + _raw_target(request)
        )
    except httpx.InvalidURL:  # longer than any URL of Flower
        raise NotFound("page", path) from None
    proxied_request = client.build_request(
        request.method,
        target,
        headers={
            **{name: value for name in _ASKED if (value := request.headers.get(name)) is not None},
            "accept-encoding": "identity",  # the response is passed on unchanged
        },
        content=body,
    )
    auth = httpx.BasicAuth(context.settings.flower_user, password.get_secret_value() if password is not None else "")
    try:
        with anyio.fail_after(_PROXY_SECONDS):
            answer = await client.send(proxied_request, auth=auth, stream=True, follow_redirects=False)
    except (httpx.TimeoutException, TimeoutError) as error:
        raise FlowerUnavailable(f"Flower did not respond within {_PROXY_SECONDS:g} s. {_OPTIONAL}") from error
    except httpx.HTTPError as error:
        raise FlowerUnavailable(f"Flower does not respond. {_OPTIONAL}") from error
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        # If passed on, the browser would ask the user for Flower's password.
        await answer.aclose()
        raise FlowerUnavailable(
            "Flower refuses this server's password. Set WANWORKS_FLOWER_PASSWORD to the same value for both."
        )
    known = {name: value for name in _RESPONSE_HEADERS if (value := answer.headers.get(name)) is not None}
    if "location" in known:  # contains the public path, which SubPath adds again
        known["location"] = known["location"].removeprefix(context.settings.public_path)
    known |= {"Content-Security-Policy": _POLICY, "Cache-Control": known.get("cache-control", "no-store")}
    return StreamingResponse(answer.aiter_raw(), answer.status_code, known, background=BackgroundTask(answer.aclose))


async def _body(request: Request) -> bytes:
    """Return the request body. Raises MalformedRequest or TooLarge."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BYTES:
                raise TooLarge("The body is larger than 1 MB, the maximum for Flower")
    except ClientDisconnect:
        raise MalformedRequest("The connection ended before the whole body was received") from None
    return body


def _raw_target(request: Request) -> bytes:
    query = request.scope["query_string"]
    path: bytes = request.scope.get("raw_path") or request.url.path.encode()
    return path.partition(b"?")[0] + (b"?" + query if query else b"")


OPERATIONS = (
    Operation(
        "GET", "/api/v1/dashboard/flower", flower, "whereIsFlower", "Get the URL of Flower",
        answers=(Answer(200, "The URL, and whether Flower responds.", page_schemas.Flower),), tag="dashboard",
        scope=Scope.READ,
    ),
    Operation(
        "GET", FLOWER_PATH.rstrip("/"), with_slash, "flowerWithoutSlash", "Redirect to Flower", answers=(),
        documented=False, query=AnyQuery, scope=None,
    ),
    Operation(
        "GET", FLOWER_TABLE, proxied, "readFlowerTasks", "Get Flower's table of tasks", answers=(), documented=False,
        query=AnyQuery, scope=Scope.ADMIN,
    ),
    Operation(
        "POST", FLOWER_TABLE, proxied, "askFlowerTasks", "Get Flower's table of tasks", answers=(), documented=False,
        query=AnyQuery, scope=Scope.ADMIN, changes=False,
    ),
    Operation(
        "GET", f"{FLOWER_PATH}{{path:path}}", proxied, "readFlower", "Get a page of Flower", answers=(),
        documented=False, query=AnyQuery, scope=Scope.ADMIN,
    ),
    Operation(
        "POST", f"{FLOWER_PATH}{{path:path}}", proxied, "askFlower", "Send a request of Flower's pages", answers=(),
        documented=False, query=AnyQuery, scope=Scope.ADMIN,
    ),
)  # fmt: skip
