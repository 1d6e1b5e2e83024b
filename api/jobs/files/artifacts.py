"""Serve the artifacts that the job's result lists, which are those of the successful attempt."""

import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from api.access.caller import LINK, caller_of, note_owner
from api.context import Context
from api.http import headers, pages
from api.http.body import has_body, read_json
from api.http.errors import problem
from api.http.query import job_id_of
from api.http.responses import json_response
from api.jobs.files import shared_video
from api.operation import Answer, Operation
from api.schemas.jobs import jobs as job_schemas
from api.schemas.jobs.job_queries import ArtifactQuery
from api.schemas.jobs.jobs import ArtifactLink, LinkRequest
from shared import clock
from shared.database.tables import Job
from shared.errors import NotFound
from shared.jobs import records
from shared.states import JobState
from shared.states import Scope as KeyScope
from shared.storage.store import InBucket


def get_artifact(context: Context, request: Request, query: ArtifactQuery) -> Response:
    caller = caller_of(request)
    job = records.get(context.database, job_id_of(request), only=caller.only)
    # A signed link must not give access to one that is valid for longer.
    name, left = str(request.path_params["name"]), None
    if caller is LINK and query.expires is not None:
        left = max(1, query.expires - int(time.time()))
        artifact = _artifacts(job).get(name)
        is_video = artifact is not None and artifact["content_type"].startswith("video/")
        if artifact is not None and is_video and not query.download and pages.wanted(request):
            path = f"{context.settings.public_path}{request.scope['path']}"
            address = f"{path}?expires={query.expires}&signature={query.signature}"
            return shared_video.page(address, artifact, query.expires, context.storage.link_origin())
    return served(context, request, job, name, at_most_seconds=left, attached=query.download)


async def make_link(context: Context, request: Request, query: BaseModel) -> Response:
    body = await read_json(request, LinkRequest) if has_body(request) else LinkRequest()
    job_id, name = job_id_of(request), str(request.path_params["name"])
    job = await anyio.to_thread.run_sync(partial(records.get, context.database, job_id, only=caller_of(request).only))
    note_owner(request, job.owner)
    if name not in _artifacts(job):
        raise _no_artifact(job, name)
    path = f"/api/v1/jobs/{job.id}/artifacts/{name}"
    url, expires = await context.access.link(path, body.expires_in_seconds)
    return json_response(
        ArtifactLink(
            url=f"{context.settings.public_path}{url}", expires_at=clock.iso(datetime.fromtimestamp(expires, UTC)) or ""
        )
    )


def served(
    context: Context,
    request: Request,
    job: Job,
    name: str,
    *,
    at_most_seconds: int | None = None,
    attached: bool = False,
) -> Response:
    """Return the named artifact of the job, or the requested ranges of it. Raises NotFound.

    `at_most_seconds`: the maximum validity of a signed URL of the bucket. `attached`: a browser saves the file.
    """
    artifacts = _artifacts(job)
    if name not in artifacts:
        raise _no_artifact(job, name)
    artifact = artifacts[name]
    found = context.storage.store().artifact(job.id, job.attempt, name)
    etag = f'"{artifact["sha256"]}"'
    # A browser that opens a signed link gets a page from the same address.
    extra = {"ETag": etag, "Cache-Control": "private, no-cache", "Accept-Ranges": "bytes", "Vary": "Accept"}
    if headers.none_match(request.headers, etag):
        return Response(status_code=304, headers=extra)
    if not isinstance(found, Path):
        if context.settings.store_redirect and request.method != "HEAD" and not attached:
            link = found.link(artifact["content_type"], at_most_seconds)
            return RedirectResponse(link, 307, {"Cache-Control": "no-store"})
        return _streamed(request, found, artifact, extra, _disposition(job, name, attached))
    ranges = _ranges(request, found.stat().st_size, etag)
    if isinstance(ranges, Response):
        return ranges
    file = _File(
        found,
        headers={**extra, "Content-Disposition": _disposition(job, name, attached)},
        media_type=artifact["content_type"],
    )
    file.ranges = ranges
    return file


def _ranges(request: Request, size: int, etag: str) -> str | Response | None:
    """Return the ranges to serve, None for the whole file, or an error response if no range is satisfiable."""
    wanted = request.headers.get("range")
    ranges = headers.byte_ranges(wanted, size) if wanted is not None else None
    if not isinstance(ranges, headers.Unsatisfiable):
        return ranges
    if _range_is_void(request, etag):
        return None
    detail = f"The artifact has {size} bytes; the requested range is outside of them"
    return problem(request, 416, "range_not_satisfiable", detail, {"Content-Range": f"bytes */{size}"})


def _disposition(job: Job, name: str, attached: bool) -> str:
    """Return the header: a file that is saved is named after its job, because each has a video of the same name."""
    return f'attachment; filename="{job.id}-{name}"' if attached else f'inline; filename="{name}"'


def _streamed(
    request: Request, found: InBucket, artifact: dict[str, Any], extra: dict[str, str], disposition: str
) -> Response:
    """Stream from the bucket. Requests for several ranges get the whole file, as the standard permits."""
    size: int = artifact["bytes"]
    start, end, status = 0, size, 200
    ranges = _ranges(request, size, extra["ETag"])
    if isinstance(ranges, Response):
        return ranges
    if ranges is not None and "," not in ranges and not _range_is_void(request, extra["ETag"]):
        first, _, last = ranges.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        status = 206
        extra = {**extra, "Content-Range": f"bytes {start}-{end - 1}/{size}"}
    extra = {
        **extra,
        "Content-Length": str(end - start),
        "Content-Type": artifact["content_type"],
        "Content-Disposition": disposition,
    }
    if request.method == "HEAD":  # the row has all headers, so the bucket is not contacted
        return Response(status_code=status, headers=extra)
    return StreamingResponse(found.read(start, end), status, extra)


def _no_artifact(job: Job, name: str) -> NotFound:
    if job.status == JobState.SUCCEEDED:
        made = ", ".join(sorted(_artifacts(job))) or "none"
        return NotFound("artifact", name, f"The job has: {made}")
    return NotFound("artifact", name, f"The job is {job.status}; only jobs that have succeeded have artifacts")


def _artifacts(job: Job) -> dict[str, Any]:
    return {item["name"]: item for item in (job.result or {}).get("artifacts", [])}


class _File(FileResponse):
    """Starlette's response with given ranges; by itself it answers 400 to headers that must be ignored."""

    ranges: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept = [(name, value) for name, value in scope["headers"] if name != b"range"]
        if self.ranges is not None:
            kept.append((b"range", self.ranges.encode()))
        await super().__call__({**scope, "headers": kept}, receive, send)


def _range_is_void(request: Request, etag: str) -> bool:
    """Return whether ``If-Range`` names another version, so that the whole file must be sent."""
    condition = request.headers.get("if-range")
    return condition is not None and condition != etag


OPERATIONS = (
    Operation(
        "GET", "/api/v1/jobs/{id}/artifacts/{name}", get_artifact, "getArtifact", "Get an artifact of a job",
        answers=(
            Answer(
                200, "The whole file. For a browser (`Accept: text/html`) that opens a signed link to a video, a page "
                "that plays it.", media_type="*/*", at_times=("ETag", "Accept-Ranges"),
            ),
            Answer(206, "The requested ranges.", media_type="*/*", headers=("ETag", "Content-Range")),
            Answer(304, "Not modified.", media_type=None, headers=("ETag",)),
            Answer(307, "The file is in a bucket, at this signed URL.", media_type=None, headers=("Location",)),
        ),
        problems=(404, 416, 503), headers=("Range", "If-Range", "If-None-Match"), query=ArtifactQuery,
        scope=KeyScope.READ, by_link=True,
    ),
    Operation(
        "POST", "/api/v1/jobs/{id}/artifacts/{name}/link", make_link, "linkArtifact",
        "Create a link to an artifact that needs no key and expires",
        answers=(Answer(200, "The link.", job_schemas.ArtifactLink),), problems=(400, 404, 413, 415, 503),
        body=job_schemas.LinkRequest, body_required=False, scope=KeyScope.READ,
    ),
)  # fmt: skip
