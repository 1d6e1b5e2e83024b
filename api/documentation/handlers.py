"""Serve the OpenAPI document and the interactive documentation, which loads nothing from another host.

The page's files come from the package `offapi`. It is not imported, because that would read all its files into memory.
"""

import hashlib
import importlib.util
import json
from functools import cache
from pathlib import Path

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from api.context import Context
from api.documentation.openapi import document
from api.http import headers
from api.operation import Answer, Operation
from shared.catalogue.models import Catalogue
from shared.errors import NotFound

_FILES = {
    "swagger.js": ("swagger_bundle.js", "text/javascript"),
    "preset.js": ("swagger_preset.js", "text/javascript"),
    "swagger.css": ("swagger_style.css", "text/css"),
}
_START = """window.ui = SwaggerUIBundle({
  url: "{base}/openapi.json", dom_id: "#swagger-ui", validatorUrl: null, deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset], layout: "BaseLayout"
});
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>wanworks API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{base}/docs/swagger.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{base}/docs/swagger.js"></script>
<script src="{base}/docs/preset.js"></script>
<script src="{base}/docs/start.js"></script>
</body>
</html>
"""
# Swagger UI sets style attributes; scripts come from this server only.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def page(context: Context, request: Request, query: BaseModel) -> Response:
    return Response(
        _PAGE.replace("{base}", context.settings.public_path),
        headers={"Content-Security-Policy": _POLICY},
        media_type="text/html",
    )


async def file(context: Context, request: Request, query: BaseModel) -> Response:
    name = str(request.path_params["file"])
    if name == "start.js":
        return Response(_START.replace("{base}", context.settings.public_path), media_type="text/javascript")
    if name not in _FILES:
        raise NotFound("file", name)
    source, media_type = _FILES[name]
    return FileResponse(_folder() / source, media_type=media_type, headers={"Cache-Control": "max-age=86400"})


async def openapi(context: Context, request: Request, query: BaseModel) -> Response:
    body, etag = _document(request.app.state.operations, context.catalogue, context.settings.public_path)
    known = {"ETag": etag, "Cache-Control": "no-cache"}
    if headers.none_match(request.headers, etag):
        return Response(status_code=304, headers=known)
    return Response(body, headers=known, media_type="application/json")


@cache
def _document(operations: tuple[Operation, ...], catalogue: Catalogue, public_path: str) -> tuple[bytes, str]:
    """Return the document and its ETag. Cached, because building it is slow and it needs no key."""
    body = json.dumps(document(operations, catalogue, public_path)).encode()
    return body, f'"{hashlib.sha256(body).hexdigest()}"'


@cache
def _folder() -> Path:
    spec = importlib.util.find_spec("offapi")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the package offapi, which contains the documentation page's files, is not installed")
    return Path(spec.submodule_search_locations[0])


OPERATIONS = (
    Operation(
        "GET", "/openapi.json", openapi, "openapi", "Get this document",
        answers=(
            Answer(200, "OpenAPI 3.1.", headers=("ETag",)),
            Answer(304, "Not modified.", media_type=None, headers=("ETag",)),
        ),
        headers=("If-None-Match",), tag="operations", scope=None,
    ),
    Operation(
        "GET", "/docs", page, "docs", "Get the interactive documentation",
        answers=(Answer(200, "An HTML page that loads nothing from another host.", media_type="text/html"),),
        tag="operations", scope=None,
    ),
    Operation(
        "GET", "/docs/{file}", file, "docsFile", "Get a file of the documentation page", answers=(), documented=False,
        scope=None,
    ),
)  # fmt: skip
