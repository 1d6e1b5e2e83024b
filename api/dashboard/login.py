"""The live page's way in: a key is shown once and becomes a session, which no script can read.

The session is a signed word with an end, not the key; it dies with the key, and a page of another site cannot use it.
"""

from functools import cache
from pathlib import Path

import jinja2
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from api.access.authentication import COOKIE, SESSION_SECONDS
from api.context import Context
from api.operation import Operation
from shared.errors import Forbidden, MalformedRequest, Unauthenticated
from shared.states import Scope

_TEMPLATE = Path(__file__).parent / "page" / "login.html"
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'self' 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_HOME = "/"
_MOST_BYTES = 4096


async def page(context: Context, request: Request, query: BaseModel) -> Response:
    if await context.access.is_open():
        return _to(_HOME)
    return _form(context, "")


async def sign_in(context: Context, request: Request, query: BaseModel) -> Response:
    secret = await _key(request)
    try:
        caller = await context.access.with_key(secret)
        caller.require(Scope.READ)
    except (Unauthenticated, Forbidden) as error:
        return _form(context, error.message, 403)
    answer = _to(_HOME)
    answer.set_cookie(
        COOKIE,
        await context.access.session(caller),
        max_age=SESSION_SECONDS,
        path=f"{context.settings.public_path}/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


async def sign_out(context: Context, request: Request, query: BaseModel) -> Response:
    answer = _to("/login")
    answer.delete_cookie(COOKIE, path=f"{context.settings.public_path}/", httponly=True, samesite="strict")
    return answer


async def _key(request: Request) -> str:
    """Raises MalformedRequest."""
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and int(length) <= _MOST_BYTES):
        raise MalformedRequest("This is not the form of the page /login")
    async with request.form(max_files=0, max_fields=4) as form:
        sent = form.get("key")
    if sent is None or isinstance(sent, UploadFile):
        raise MalformedRequest("The form has no field `key`")
    return sent.strip()


def _form(context: Context, wrong: str, status: int = 200) -> Response:
    known = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
    return Response(
        _template().render(wrong=wrong, base=context.settings.public_path), status, known, "text/html; charset=utf-8"
    )


def _to(path: str) -> RedirectResponse:
    return RedirectResponse(path, 303, {"Cache-Control": "no-store"})


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))


OPERATIONS = (
    Operation(
        "GET", "/login", page, "loginPage", "Where the page asks for a key", answers=(), documented=False,
        scope=None,
    ),
    Operation(
        "POST", "/login", sign_in, "signIn", "A session for a key", answers=(), documented=False, scope=None,
    ),
    Operation(
        "POST", "/logout", sign_out, "signOut", "The session's end", answers=(), documented=False, scope=None,
    ),
)  # fmt: skip
