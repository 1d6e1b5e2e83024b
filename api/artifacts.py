"""Serves what the winning attempt made, and only that: the job's result says which files there are."""

from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from api import headers
from api.context import Context
from api.errors import problem
from api.jobs import job_id_of
from shared import jobs
from shared.errors import NotFound
from shared.tables import Job


def get_artifact(context: Context, request: Request, query: BaseModel) -> Response:
    return served(context, request, jobs.get(context.database, job_id_of(request)), str(request.path_params["name"]))


def served(context: Context, request: Request, job: Job, name: str) -> Response:
    """The file of that name which the job's result lists, or the part of it that is asked for. Raises NotFound."""
    made: dict[str, Any] = {item["name"]: item for item in (job.result or {}).get("artifacts", [])}
    if name not in made:
        raise NotFound("artifact", name)
    path = context.storage.store().artifact(job.id, job.attempt, name)
    etag = f'"{made[name]["sha256"]}"'
    extra = {"ETag": etag, "Cache-Control": "private, no-cache", "Accept-Ranges": "bytes"}
    if headers.none_match(request.headers, etag):
        return Response(status_code=304, headers=extra)
    size = path.stat().st_size
    wanted = request.headers.get("range")
    ranges = headers.byte_ranges(wanted, size) if wanted is not None else None
    file = _File(
        path, headers=extra, media_type=made[name]["content_type"], filename=name, content_disposition_type="inline"
    )
    if isinstance(ranges, headers.Unsatisfiable) and not _range_is_void(request, etag):
        detail = f"The artifact has {size} bytes; the range asks for others"
        return problem(request, 416, "range_not_satisfiable", detail, {"Content-Range": f"bytes */{size}"})
    file.ranges = ranges if isinstance(ranges, str) else None
    return file


class _File(FileResponse):
    """Starlette's, told which ranges to serve: it answers 400 to headers that are to be ignored."""

    ranges: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept = [(name, value) for name, value in scope["headers"] if name != b"range"]
        if self.ranges is not None:
            kept.append((b"range", self.ranges.encode()))
        await super().__call__({**scope, "headers": kept}, receive, send)


def _range_is_void(request: Request, etag: str) -> bool:
    """``If-Range`` names another version, so the whole file is due whatever the range says."""
    condition = request.headers.get("if-range")
    return condition is not None and condition != etag
