"""Sign in to the live page: exchange an API key for a session cookie.

The cookie is a signed token that expires and does not contain the key. It is invalid once the key is revoked, is not
readable by scripts, and is not sent from pages of other sites.
"""

import re
from functools import cache
from pathlib import Path

import jinja2
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from api.access.authentication import COOKIE, SESSION_SECONDS
from api.context import Context
from api.dashboard import page_files
from api.operation import Operation
from shared.errors import Forbidden, MalformedRequest, Unauthenticated
from shared.states import Scope

_TEMPLATE = Path(__file__).parent / "page" / "login.html"
_POLICY = (
    "default-src 'none'; script-src 'self'; img-src data:; style-src 'self' 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HOME = "/"
_MAX_NEXT = 2000
_MAX_BYTES = 4096 + 3 * _MAX_NEXT
# A path of this site: no second slash or backslash first, no control character, no fragment.
_PATH = re.compile(r"/(?![/\\\\])[\x21-\x22\x24-\x5b\x5d-\x7e]*")
_PAGES = re.compile(r"/|/docs.*|/flower/.*|/api/v1/dashboard/html")


class LoginQuery(BaseModel):
    """The path to return to after signing in. Others than paths of this site are ignored."""

    model_config = ConfigDict(extra="forbid")

    next: str | None = Field(None, max_length=_MAX_NEXT)


async def page(context: Context, request: Request, query: LoginQuery) -> Response:
    if await context.access.is_open():
        return _redirect(same_site(query.next))
    return _form(context, "", next=same_site(query.next))


def same_site(path: str | None) -> str:
    """Return the path if it leads to a page of this site, else the home page.

    `//host` and `/\\host` are other hosts to browsers, and they drop tabs and newlines from addresses.
    """
    if path is None or not _PATH.fullmatch(path) or not _PAGES.fullmatch(path):
        return _HOME
    return path


async def sign_in(context: Context, request: Request, query: BaseModel) -> Response:
    secret, next = await _read_form(request)
    try:
        caller = await context.access.with_key(secret)
        caller.require(Scope.READ)
    except (Unauthenticated, Forbidden) as error:
        return _form(context, error.message, 403, next=next)
    response = _redirect(next)
    response.set_cookie(
        COOKIE,
        await context.access.session(caller),
        max_age=SESSION_SECONDS,
        path=f"{context.settings.public_path}/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


async def sign_out(context: Context, request: Request, query: BaseModel) -> Response:
    response = _redirect("/login")
    response.delete_cookie(COOKIE, path=f"{context.settings.public_path}/", httponly=True, samesite="strict")
    return response


async def _read_form(request: Request) -> tuple[str, str]:
    """Return the key in the submitted form, and the path to return to. Raises MalformedRequest."""
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and int(length) <= _MAX_BYTES):
        raise MalformedRequest(
            f"The sign-in form needs a Content-Length of at most {_MAX_BYTES} bytes. Use the page /login."
        )
    async with request.form(max_files=0, max_fields=4) as form:
        value, next = form.get("key"), form.get("next")
    if value is None or isinstance(value, UploadFile):
        raise MalformedRequest("The form has no text field `key`. Use the page /login.")
    return value.strip(), same_site(next if isinstance(next, str) else None)


def _form(context: Context, wrong: str, status: int = 200, next: str = _HOME) -> Response:
    known = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
    return Response(
        _template().render(wrong=wrong, base=context.settings.public_path, next=next, files=page_files.version()),
        status,
        known,
        "text/html; charset=utf-8",
    )


def _redirect(path: str) -> RedirectResponse:
    return RedirectResponse(path, 303, {"Cache-Control": "no-store"})


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))


OPERATIONS = (
    Operation(
        "GET", "/login", page, "loginPage", "Get the sign-in page", answers=(), documented=False,
        query=LoginQuery, scope=None,
    ),
    Operation(
        "POST", "/login", sign_in, "signIn", "Sign in with a key", answers=(), documented=False, scope=None,
    ),
    Operation(
        "POST", "/logout", sign_out, "signOut", "Sign out", answers=(), documented=False, scope=None,
    ),
)  # fmt: skip
