"""Serve the live page: a document with the initial state, and its scripts, style and icon.

After the first paint the scripts load everything through the public routes. Nothing is loaded from another host, and
no script is inline.
"""

import gzip
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from urllib.parse import quote

import anyio.to_thread
import jinja2
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from api.access.caller import UNKNOWN, Caller
from api.context import Context
from api.dashboard import page_files
from api.dashboard.initial_state import initial_state
from api.http import headers
from api.operation import Answer, Operation
from api.ops import flower
from shared.errors import DatabaseUnavailable, NotFound, Unauthenticated
from shared.states import Scope as KeyScope

_FOLDER = Path(__file__).parent / "page"
_UNKNOWN = "\N{EN DASH}"
# `{bucket}` is the origin of signed artifact URLs, if artifacts are stored in a bucket.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:{bucket}; "
    "media-src 'self'{bucket}; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# With the referrer policy `same-origin`, other hosts never see which job a user opened.
_SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}


async def page(context: Context, request: Request, query: BaseModel) -> Response:
    """Return the document, or redirect to the sign-in page. While the database is unavailable, data is missing."""
    try:
        caller = await context.access.admit(request, KeyScope.READ)
    except Unauthenticated:
        path = request.scope["path"]
        next = "" if path == "/" else f"?next={quote(path)}"
        return RedirectResponse(f"/login{next}", 303, {"Cache-Control": "no-store"})
    except DatabaseUnavailable:
        caller = UNKNOWN
    return await anyio.to_thread.run_sync(_page, context, request, caller)


def _page(context: Context, request: Request, caller: Caller) -> Response:
    text = _template().render(
        initial=initial_state(context, caller),
        files=page_files.version(),
        base=context.settings.public_path,
        scripts=page_files.scripts(),
        styles=page_files.styles(),
        flower=flower.flower_status(context.settings) if caller.may(KeyScope.ADMIN) else None,
        caller=caller,
        demo=context.catalogue.name == "demo",
        # Those who only make videos see theirs first.
        first="gallery" if caller.may(KeyScope.SUBMIT) and not caller.may(KeyScope.ADMIN) else "overview",
        scopes=[scope.value for scope in KeyScope if caller.may(scope)],
    )
    origin = context.storage.link_origin()
    policy = _POLICY.format(bucket=f" {origin}" if origin is not None else "")
    known = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "X-Wanworks-Page": page_files.version(),
        **_SAFE,
    }
    return _packed(request, text.encode(), None, "text/html; charset=utf-8", known)


def file(context: Context, request: Request, query: BaseModel) -> Response:
    """Return a script, the style or the icon, immutable under the current version's path. Raises NotFound."""
    name = str(request.path_params["file"])
    found = page_files.files().get(name)  # by their names alone, so no path leads out of the folder
    if found is None:
        raise NotFound("file", name)
    current = request.path_params["version"] == page_files.version()
    known = {
        "ETag": found.etag,
        "Cache-Control": "public, max-age=31536000, immutable" if current else "no-cache",
        "Content-Security-Policy": "default-src 'none'",  # the usual one, which is long, is of use to documents alone
        **_SAFE,
    }
    if headers.none_match(request.headers, found.etag):
        return Response(status_code=304, headers=known)
    return _packed(request, found.content, found.packed, found.media_type, known)


def _packed(
    request: Request, content: bytes, packed: bytes | None, media_type: str, known: Mapping[str, str]
) -> Response:
    """Return the content, compressed if the client accepts gzip."""
    if not headers.takes_gzip(request.headers.get("accept-encoding", "")):
        return Response(content, headers={**known, "Vary": "Accept-Encoding"}, media_type=media_type)
    small = packed if packed is not None else gzip.compress(content, 5, mtime=0)
    return Response(
        small, headers={**known, "Vary": "Accept-Encoding", "Content-Encoding": "gzip"}, media_type=media_type
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = lambda count: _UNKNOWN if count is None else str(count)
    environment.filters["seconds"] = _seconds
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    return environment.get_template("page.html")


def _seconds(value: float) -> str:
    """Format seconds as the page's script does."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


OPERATIONS = (
    Operation(
        "GET", "/api/v1/dashboard/html", page, "livePage", "Get the live page",
        answers=(Answer(200, "An HTML page that loads nothing from another host.", media_type="text/html"),),
        tag="dashboard", scope=None,
    ),
    Operation("GET", "/", page, "home", "Get the live page", answers=(), documented=False, scope=None),
    Operation(
        "GET", "/static/{version}/{file:path}", file, "pageFile", "Get a file of the live page", answers=(),
        documented=False, scope=None,
    ),
)  # fmt: skip
