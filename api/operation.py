"""One operation of the API: a method and path, its handler, and its documentation.

`api/routes.py` joins them to one table. The router and `/openapi.json` are both built from it, so they cannot differ.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio.to_thread
from pydantic import BaseModel, ConfigDict
from sse_starlette.sse import AppStatus
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, request_response
from starlette.types import Receive, Scope, Send

from api.access.caller import Caller, caller_of, is_for_another, is_known, set_caller
from api.context import Context, context_of
from api.http.errors import request_id, status_of
from api.http.query import read_query
from shared.access import audit
from shared.access.audit import Act
from shared.errors import StoreFull, Unavailable
from shared.states import Scope as KeyScope

log = logging.getLogger(__name__)

_TOO_MANY = 429  # not audited, because a database write per refused request would defeat the rate limit


class NoQuery(BaseModel):
    """The query model of routes without parameters. Refuses every parameter."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Answer:
    """A documented successful response. `schema` None: no body, or one that is not JSON."""

    status: int
    description: str
    schema: type[BaseModel] | None = None
    media_type: str | None = "application/json"
    headers: tuple[str, ...] = ()  # names in `api/documentation/openapi.py`
    at_times: tuple[str, ...] = ()  # headers that some of these responses do not have
    also: str | None = None  # another media type in which the client may request it


Handler = Callable[[Context, Request, Any], Response | Awaitable[Response]]


@dataclass(frozen=True)
class Operation:
    """A method on a path. Plain handlers run in a thread, coroutine functions on the event loop.

    `scope`: the scope that a key needs; None: no key is needed. Requests that change state and need `admin`, because
    of `scope` or because they act on another key's job, are recorded in the audit log with their outcome.
    """

    method: str
    path: str
    handler: Handler
    id: str
    summary: str
    answers: tuple[Answer, ...]
    problems: tuple[int, ...] = ()
    tag: str = "jobs"
    description: str = ""
    query: type[BaseModel] = NoQuery
    headers: tuple[str, ...] = ()  # request headers, by their names in `api/documentation/openapi.py`
    body: type[BaseModel] | None = None
    body_required: bool = True
    takes_file: bool = False  # whether the body is a file
    documented: bool = True
    scope: KeyScope | None = field(kw_only=True)
    by_link: bool = False  # whether a signed link to the path is accepted instead of a key
    changes: bool = True  # whether it may change state; a GET never does

    @property
    def audited(self) -> bool:
        return self.scope is KeyScope.ADMIN and self.changes and self.method != "GET"


def router_table(operations: Sequence[Operation]) -> list[BaseRoute]:
    """Return one route for each path, with all its methods, so that `Allow` headers are complete.

    Literal paths come before those with parameters, in whatever order the packages are joined.
    """
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    routes = [Route(path, _Endpoint(path, methods)) for path, methods in sorted(by_path.items(), key=_literal_first)]
    literal = {route.path: route for route in routes if "{" not in route.path}
    return [_LiteralRoutes(literal), *(route for route in routes if route.path not in literal)]


class _LiteralRoutes(BaseRoute):
    """The routes whose paths have no parameters, found in a table: a comparison with each of them takes 20 us."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        route = self._routes.get(_path_of(scope)) if scope["type"] == "http" else None
        return route.matches(scope) if route is not None else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._routes[_path_of(scope)].handle(scope, receive, send)


def _path_of(scope: Scope) -> str:
    """Return the request's path below the one that the application is served under."""
    path: str = scope["path"]
    root = scope.get("root_path", "")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _literal_first(item: tuple[str, Any]) -> list[tuple[int, str]]:
    """Return a sort key: in each segment, literals come before parameters, and these before `:path` parameters."""
    return [(2 if ":path}" in part else 1 if "{" in part else 0, part) for part in item[0].split("/")]


class _Endpoint:
    """Dispatch the methods of one path. Other methods get a 405."""

    def __init__(self, path: str, operations: dict[str, Operation]) -> None:
        self._path = path
        self._calls = {method: _call(operation) for method, operation in operations.items()}
        if "GET" in self._calls:
            self._calls["HEAD"] = self._calls["GET"]
        self._app = request_response(self._answer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["wanworks.route"] = self._path
        await self._app(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.method not in self._calls:
            raise HTTPException(405, headers={"Allow": ", ".join(self._calls)})
        return await self._calls[request.method](request)


def _call(operation: Operation) -> Callable[[Request], Awaitable[Response]]:
    handler: Any = operation.handler
    waits = inspect.iscoroutinefunction(handler)

    async def answered(context: Context, request: Request) -> Response:
        if operation.scope is not None:
            set_caller(request, await _admitted(context, request, operation, operation.scope))
        query = read_query(request, operation.query)
        if waits:
            answer: Response = await handler(context, request, query)
            return answer
        # Slow reads must not use up the threads that submitting and signing in need.
        limiter = context.reads if operation.method == "GET" else None
        return await anyio.to_thread.run_sync(partial(handler, context, request, query), limiter=limiter)

    async def call(request: Request) -> Response:
        context = context_of(request)
        try:
            answer = await answered(context, request)
        except asyncio.CancelledError:
            if not AppStatus.should_exit:
                raise
            # The process is stopping and has waited long enough for this request.
            raise Unavailable("The server is stopping. Send the request again.") from None
        except Exception as error:
            await _note(context, request, operation, status_of(error))
            raise
        await _note(context, request, operation, answer.status_code)
        return answer

    return call


async def _admitted(context: Context, request: Request, operation: Operation, scope: KeyScope) -> Caller:
    if operation.by_link:
        signature, expires = (request.query_params.get(name, "") for name in ("signature", "expires"))
        if signature and expires.isascii() and expires.isdigit():
            return await context.access.holder(request.scope["path"], expires, signature)
    return await context.access.admit(request, scope)


async def _note(context: Context, request: Request, operation: Operation, status: int) -> None:
    """Record the request in the audit if it is an administrative act of a known caller; others could fill the audit."""
    if not (operation.audited or is_for_another(request)) or not is_known(request) or status == _TOO_MANY:
        return
    caller = caller_of(request)
    address = request.client.host if request.client is not None else None
    act = Act(operation.id, request.scope["path"], status, caller.name, caller.key_id, request_id(request), address)
    try:
        await anyio.to_thread.run_sync(audit.record, context.database, act)
    except (StoreFull, Unavailable) as error:
        # The action cannot be undone, so it is recorded in the log instead.
        log.error("could not be recorded in the audit (%s): %s", error, act)
