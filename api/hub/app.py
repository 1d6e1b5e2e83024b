"""The part of the Hub's protocol that huggingface_hub needs to list and fetch models, over a `Mirror`.

    GET  /api/models/{repo}[/revision/{rev}]        ?blobs= adds size and checksums to each file
    GET  /api/models/{repo}/tree/{rev}[/{path}]     ?recursive= ?expand= ?limit= ?cursor=
    POST /api/models/{repo}/paths-info/{rev}
    GET  /api/models/{repo}/refs
    GET  /api/models/{repo}/commits/{rev}
    GET, HEAD /{repo}/resolve/{rev}/{path}

Revisions and paths may contain slashes, encoded as ``%2F``, so the URL's path is split before it is unquoted.
"""

import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from api.hub.errors import HubError, no_entry, no_repo, no_revision, no_token, wrong_token
from api.hub.mirror import Entry, Mirror, Repo, folders

_PAGE = 1000  # entries of a tree in one response, as on the Hub
# A fifth faster than the framework's 64 KiB. Larger ones help only a single client on the same machine, and every
# connection allocates one.
_CHUNK_BYTES = 80 << 10
_KINDS = ("revision", "tree", "paths-info", "refs", "commits", "resolve")


def create_app(root: Path, token: str | None = None) -> Starlette:
    """Create the application that serves `root`. With a token, clients must send it."""
    hub = Hub(Mirror(root), token)
    routes = [
        Route("/api/models/{rest:path}", hub.api, methods=["GET", "POST"]),
        Route("/{rest:path}", hub.resolve, methods=["GET", "HEAD"]),
    ]
    return Starlette(routes=routes, exception_handlers={HubError: _refuse})


class Hub:
    """The handlers of one mirror."""

    def __init__(self, mirror: Mirror, token: str | None) -> None:
        self._mirror = mirror
        self._token = token

    async def api(self, request: Request) -> Response:
        """Handle everything under /api/models."""
        self._admit(request)
        segments = _segments(request)[2:]
        repo, kind, rest = self._repo(segments)
        if request.method == "POST":
            if kind != "paths-info":
                raise no_repo()
            paths = await _requested_paths(request)
            return await to_thread.run_sync(lambda: _paths_info(repo, _commit(repo, rest), paths))
        answer: Callable[[], Response]
        match kind:
            case None:
                answer = lambda: _model(repo, _commit(repo, ["main"]), request)  # noqa: E731
            case "revision":
                answer = lambda: _model(repo, _commit(repo, rest), request)  # noqa: E731
            case "tree":
                answer = lambda: _tree(repo, _commit(repo, rest), "/".join(rest[1:]), request)  # noqa: E731
            case "refs":
                answer = lambda: _refs(repo)  # noqa: E731
            case "commits":
                answer = lambda: _commits(repo, _commit(repo, rest))  # noqa: E731
            case _:
                raise no_repo()
        return await to_thread.run_sync(answer)

    async def resolve(self, request: Request) -> Response:
        """Return a file, or its headers only."""
        self._admit(request)
        repo, kind, rest = self._repo(_segments(request))
        if kind != "resolve":
            raise no_repo()
        return await to_thread.run_sync(lambda: _file(repo, _commit(repo, rest), "/".join(rest[1:])))

    def _admit(self, request: Request) -> None:
        if self._token is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise no_token()
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            raise wrong_token()

    def _repo(self, segments: list[str]) -> tuple[Repo, str | None, list[str]]:
        """Split a path into the repo, whose name has one or two parts, the action, and the rest."""
        for length in (2, 1):
            kind = segments[length] if len(segments) > length else None
            if len(segments) >= length and (kind is None or kind in _KINDS):
                repo = self._mirror.repo("/".join(segments[:length]))
                if repo is not None:
                    return repo, kind, segments[length + 1 :]
        raise no_repo()


def _model(repo: Repo, sha: str, request: Request) -> Response:
    blobs = request.query_params.get("blobs", "false").lower() in ("true", "1")
    siblings = [_sibling(entry) if blobs else {"rfilename": entry.path} for entry in repo.entries(sha)]
    content = {
        "_id": sha[:24],
        "id": repo.repo_id,
        "modelId": repo.repo_id,
        "author": repo.repo_id.rpartition("/")[0],
        "sha": sha,
        "lastModified": _date(repo, sha),
        "private": False,
        "gated": False,
        "disabled": False,
        "tags": [],
        "siblings": siblings,
    }
    return JSONResponse(content, headers={"X-Repo-Commit": sha})


def _tree(repo: Repo, sha: str, folder: str, request: Request) -> Response:
    query = request.query_params
    recursive = query.get("recursive", "false").lower() in ("true", "1")
    expand = query.get("expand", "false").lower() in ("true", "1")
    entries = repo.entries(sha)
    described = [_folder(path, oid) for path, oid in folders(entries)] + [_described(entry) for entry in entries]
    if folder:
        described = [item for item in described if str(item["path"]).startswith(f"{folder}/")]
        if not described:
            raise no_entry(sha)
    if not recursive:
        depth = folder.count("/") + 1 if folder else 0
        described = [item for item in described if str(item["path"]).count("/") == depth]
    described.sort(key=lambda item: str(item["path"]))
    if expand:
        last = {"id": sha, "title": "", "date": _date(repo, sha)}
        described = [{**item, "lastCommit": last} for item in described]
    start, limit = _number(query.get("cursor"), 0), max(1, min(_number(query.get("limit"), _PAGE), _PAGE))
    headers = {"X-Repo-Commit": sha}
    if start + limit < len(described):
        following = urlencode({**query, "cursor": start + limit, "limit": limit})
        headers["Link"] = f'<{request.url.replace(query=following)}>; rel="next"'
    return JSONResponse(described[start : start + limit], headers=headers)


def _paths_info(repo: Repo, sha: str, paths: list[str]) -> Response:
    entries = repo.entries(sha)
    known: dict[str, dict[str, Any]] = {path: _folder(path, oid) for path, oid in folders(entries)}
    known |= {entry.path: _described(entry) for entry in entries}
    return JSONResponse([known[path] for path in paths if path in known], headers={"X-Repo-Commit": sha})


def _refs(repo: Repo) -> Response:
    # The cache does not record which names are branches and which are tags: all are reported as branches.
    branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in repo.refs().items()]
    return JSONResponse({"branches": branches, "converts": [], "tags": []})


def _commits(repo: Repo, sha: str) -> Response:
    # A copy has no history, only the commit itself.
    commit = {"id": sha, "title": "", "message": "", "authors": [], "date": _date(repo, sha)}
    return JSONResponse([commit], headers={"X-Total-Count": "1"})


def _file(repo: Repo, sha: str, path: str) -> Response:
    entry = repo.entry(sha, path)
    if entry is None:
        raise no_entry(sha)
    headers = {"X-Repo-Commit": sha, "ETag": f'"{entry.etag}"', "Cache-Control": "no-transform"}
    if entry.sha256 is not None:
        headers |= {"X-Linked-ETag": f'"{entry.etag}"', "X-Linked-Size": str(entry.size)}
    state = entry.location.stat()
    return _File(entry.location, headers=headers, media_type="application/octet-stream", stat_result=state)


class _File(FileResponse):
    chunk_size = _CHUNK_BYTES


def _sibling(entry: Entry) -> dict[str, Any]:
    described: dict[str, Any] = {"rfilename": entry.path, "size": entry.size, "blobId": entry.oid}
    if entry.sha256 is not None:
        described["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
    return described


def _described(entry: Entry) -> dict[str, Any]:
    described: dict[str, Any] = {"type": "file", "path": entry.path, "size": entry.size, "oid": entry.oid}
    if entry.sha256 is not None:
        described["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
    return described


def _folder(path: str, oid: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": oid}


def _commit(repo: Repo, rest: list[str]) -> str:
    sha = repo.commit(rest[0]) if rest else None
    if sha is None:
        raise no_revision()
    return sha


async def _requested_paths(request: Request) -> list[str]:
    """Return the requested paths, from a form, as the client sends, or JSON, which the Hub also accepts."""
    body = await request.body()
    if "json" in request.headers.get("content-type", ""):
        content = await request.json()
        paths = content.get("paths", []) if isinstance(content, dict) else []
        return [str(path) for path in (paths if isinstance(paths, list) else [paths])]
    return parse_qs(body.decode("utf-8", "replace")).get("paths", [])


def _segments(request: Request) -> list[str]:
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return [unquote(segment) for segment in raw.decode("latin-1").partition("?")[0].strip("/").split("/")]


def _date(repo: Repo, sha: str) -> str:
    return f"{repo.committed_at(sha):%Y-%m-%dT%H:%M:%S}.000Z"


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() else default


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HubError)
    return error.response()
