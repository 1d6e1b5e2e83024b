"""Flower behind this server's own door: its pages under `/flower/`, for keys that may administer.

Flower itself listens on loopback, or on a network that only this server reaches, and asks this server for a password;
what it shows to anybody who asks, its `/metrics`, is not passed on.
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
from api.http.responses import answered
from api.operation import Answer, Operation
from api.schemas import page as page_schemas
from api.schemas.page import Flower
from shared.errors import MalformedRequest, NotFound, TooLarge, Unavailable
from shared.messaging import flower as flower_process
from shared.settings import Settings
from shared.states import Scope

FLOWER_PATH = "/flower/"
FLOWER_TABLE = f"{FLOWER_PATH}tasks/datatable"  # what its page of tasks asks for by POST, every few seconds
_OPEN_TO_ALL = frozenset({"metrics", "healthcheck"})
_KEEP_SECONDS = 5.0  # that an answer counts
_PROXY_SECONDS = 5.0  # until Flower has begun to answer
_MOST_BYTES = 1 << 20
_ASKED = ("accept", "accept-language", "content-type", "if-modified-since", "if-none-match", "x-requested-with")
_ANSWERED = ("content-type", "content-length", "cache-control", "etag", "last-modified", "location")
# Its pages have scripts of their own in them; all of what they load is Flower's.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class FlowerUnavailable(Unavailable):
    """Flower does not answer."""

    code = "flower_unavailable"


def flower(context: Context, request: Request, query: BaseModel) -> Response:
    return answered(told(context.settings))


def told(settings: Settings) -> Flower:
    """The way to Flower, and whether it has answered a request in the last seconds."""
    return Flower(url=f"{settings.public_path}{FLOWER_PATH}", user=settings.flower_user, reachable=_reachable(settings))


class _Asked:
    """The last answer; one thread asks at a time. The others take the answer before, and wait where there is none."""

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


_reachable = _Asked()


async def with_slash(context: Context, request: Request, query: BaseModel) -> Response:
    asked = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(f"{FLOWER_PATH}{asked}", 308)


async def proxied(context: Context, request: Request, query: BaseModel) -> Response:
    """What Flower answers. Raises NotFound, TooLarge or FlowerUnavailable."""
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
    except httpx.InvalidURL:  # longer than any page of Flower's
        raise NotFound("page", path) from None
    asked = client.build_request(
        request.method,
        target,
        headers={
            **{name: value for name in _ASKED if (value := request.headers.get(name)) is not None},
            "accept-encoding": "identity",  # passed on as it comes
        },
        content=body,
    )
    auth = httpx.BasicAuth(context.settings.flower_user, password.get_secret_value() if password is not None else "")
    try:
        with anyio.fail_after(_PROXY_SECONDS):
            answer = await client.send(asked, auth=auth, stream=True, follow_redirects=False)
    except (httpx.TimeoutException, TimeoutError) as error:
        raise FlowerUnavailable(f"Flower has not answered within {_PROXY_SECONDS:g} s") from error
    except httpx.HTTPError as error:
        raise FlowerUnavailable() from error
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        # Passed on, it would make the browser ask for a password that is not the visitor's to know.
        await answer.aclose()
        raise FlowerUnavailable("Flower does not accept this server's password: WANWORKS_FLOWER_PASSWORD differs")
    known = {name: value for name in _ANSWERED if (value := answer.headers.get(name)) is not None}
    if "location" in known:  # Flower knows the public path, which is put before every path that leaves
        known["location"] = known["location"].removeprefix(context.settings.public_path)
    known |= {"Content-Security-Policy": _POLICY, "Cache-Control": known.get("cache-control", "no-store")}
    return StreamingResponse(answer.aiter_raw(), answer.status_code, known, background=BackgroundTask(answer.aclose))


async def _body(request: Request) -> bytes:
    """Raises MalformedRequest or TooLarge."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_BYTES:
                raise TooLarge("Flower takes no body that is larger than 1 MB")
    except ClientDisconnect:
        raise MalformedRequest("The body ended early") from None
    return body


def _raw_target(request: Request) -> bytes:
    query = request.scope["query_string"]
    path: bytes = request.scope.get("raw_path") or request.url.path.encode()
    return path.partition(b"?")[0] + (b"?" + query if query else b"")


OPERATIONS = (
    Operation(
        "GET", "/api/v1/dashboard/flower", flower, "whereIsFlower", "The way to Flower",
        answers=(Answer(200, "Where it is, and whether it answers.", page_schemas.Flower),), tag="dashboard",
        scope=Scope.READ,
    ),
    Operation(
        "GET", FLOWER_PATH.rstrip("/"), with_slash, "flowerWithoutSlash", "The way to Flower", answers=(),
        documented=False, query=AnyQuery, scope=None,
    ),
    Operation(
        "GET", FLOWER_TABLE, proxied, "readFlowerTasks", "Flower's table of tasks", answers=(), documented=False,
        query=AnyQuery, scope=Scope.ADMIN,
    ),
    Operation(
        "POST", FLOWER_TABLE, proxied, "askFlowerTasks", "Flower's table of tasks", answers=(), documented=False,
        query=AnyQuery, scope=Scope.ADMIN, changes=False,
    ),
    Operation(
        "GET", f"{FLOWER_PATH}{{path:path}}", proxied, "readFlower", "Flower's pages", answers=(),
        documented=False, query=AnyQuery, scope=Scope.ADMIN,
    ),
    Operation(
        "POST", f"{FLOWER_PATH}{{path:path}}", proxied, "askFlower", "What Flower's pages ask for", answers=(),
        documented=False, query=AnyQuery, scope=Scope.ADMIN,
    ),
)  # fmt: skip
