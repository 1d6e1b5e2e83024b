"""Serve the pictures that a job starts from and ends with, to those who may see the job."""

from pathlib import PurePosixPath

from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import caller_of
from api.context import Context
from api.http import headers
from api.http.query import job_id_of
from api.operation import Answer, Operation
from api.schemas.jobs.job_queries import ImageQuery
from shared.errors import NotFound
from shared.jobs import records
from shared.states import Scope

_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


def get_image(context: Context, request: Request, query: ImageQuery) -> Response:
    """Return the picture as the store has it. Raises NotFound for a job without one."""
    job = records.get(context.database, job_id_of(request), only=caller_of(request).only)
    reference = job.params.get(query.which)
    if not isinstance(reference, str):
        raise NotFound("input picture of the job", job.id)
    etag = f'"{job.id}-{query.which}"'  # an input never changes
    known = {"ETag": etag, "Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
    if headers.none_match(request.headers, etag):
        return Response(status_code=304, headers=known)
    content = context.storage.store().read_input(reference)
    media_type = _TYPES.get(PurePosixPath(reference).suffix.lower(), "application/octet-stream")
    return Response(content, headers=known, media_type=media_type)


OPERATIONS = (
    Operation(
        "GET", "/api/v1/jobs/{id}/image", get_image, "getJobImage", "Get a picture that a job starts from or ends with",
        answers=(
            Answer(200, "The picture.", media_type="image/*", headers=("ETag",)),
            Answer(304, "Not modified.", media_type=None, headers=("ETag",)),
        ),
        problems=(404, 503), query=ImageQuery, headers=("If-None-Match",), scope=Scope.READ,
    ),
)  # fmt: skip
