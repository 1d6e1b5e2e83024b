"""One operation of the API: a method on a path, who answers it, and all that its documentation says.

The table in `api/routes.py` is made of these; the router and `/openapi.json` both come from it, so that neither can
know a route that the other does not.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio.to_thread
from pydantic import BaseModel, ConfigDict
from sse_starlette.sse import AppStatus
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, request_response
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

_TOO_MANY = 429  # no act: to write these down would undo what the limit is for


class NoQuery(BaseModel):
    """A route without query parameters: any that is given is refused."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Answer:
    """One documented good answer. `schema` None: no body, or one that is no JSON."""

    status: int
    description: str
    schema: type[BaseModel] | None = None
    media_type: str | None = "application/json"
    headers: tuple[str, ...] = ()  # names in `api/documentation/openapi.py`


Handler = Callable[[Context, Request, Any], Response | Awaitable[Response]]


@dataclass(frozen=True)
class Operation:
    """A plain function is run in a thread; a coroutine function on the event loop.

    `scope`: what a key must be good for to call it; None: anybody may. What needs `admin` and changes something is
    written into the audit, however it ends: because the operation does, or because it is done to another key's job.
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
    documented: bool = True
    scope: KeyScope | None = field(kw_only=True)
    by_link: bool = False  # a signed link to the path lets its holder in as well
    changes: bool = True  # whether it may change anything; a GET never does

    @property
    def audited(self) -> bool:
        return self.scope is KeyScope.ADMIN and self.changes and self.method != "GET"


def router_table(operations: Sequence[Operation]) -> list[Route]:
    """One Route for each path, whatever the number of its methods: only then is `Allow` right.

    Where two paths fit a request, the one with the literal word comes first, in whatever order the packages are joined.
    """
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    return [Route(path, _Endpoint(path, methods)) for path, methods in sorted(by_path.items(), key=_literal_first)]


def _literal_first(item: tuple[str, Any]) -> list[tuple[int, str]]:
    """A sort key: at each part of the path a literal word precedes a parameter, and that one the rest of a path."""
    return [(2 if ":path}" in part else 1 if "{" in part else 0, part) for part in item[0].split("/")]


class _Endpoint:
    """All methods of one path, and the answer to the others: a path that fits is never taken for another's."""

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
        # Slow reads must not take the threads that submitting and signing in need.
        limiter = context.reads if operation.method == "GET" else None
        return await anyio.to_thread.run_sync(partial(handler, context, request, query), limiter=limiter)

    async def call(request: Request) -> Response:
        context = context_of(request)
        try:
            answer = await answered(context, request)
        except asyncio.CancelledError:
            if not AppStatus.should_exit:
                raise
            # The process is stopping and has waited for this one long enough.
            raise Unavailable("The server is stopping; ask again.") from None
        except Exception as error:
            await _note(context, request, operation, status_of(error))
            raise
        await _note(context, request, operation, answer.status_code)
        return answer

    return call


async def _admitted(context: Context, request: Request, operation: Operation, scope: KeyScope) -> Caller:
    signature, expires = (request.query_params.get(name, "") for name in ("signature", "expires"))
    if operation.by_link and signature and expires.isascii() and expires.isdigit():
        return await context.access.holder(request.scope["path"], expires, signature)
    return await context.access.admit(request, scope)


async def _note(context: Context, request: Request, operation: Operation, status: int) -> None:
    """Writes it down, if it is an administrative act of somebody whom we know: others cannot fill the audit."""
    if not (operation.audited or is_for_another(request)) or not is_known(request) or status == _TOO_MANY:
        return
    caller = caller_of(request)
    address = request.client.host if request.client is not None else None
    act = Act(operation.id, request.scope["path"], status, caller.name, caller.key_id, request_id(request), address)
    try:
        await anyio.to_thread.run_sync(audit.record, context.database, act)
    except (StoreFull, Unavailable) as error:
        # It is done and cannot be undone; the log then is what stays of it.
        log.error("not in the audit (%s): %s", error, act)
