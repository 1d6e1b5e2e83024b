"""The preview of a job that runs: what its latest attempt has made so far."""

from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import caller_of
from api.context import Context
from api.http.errors import problem
from api.http.query import job_id_of
from api.operation import Answer, Operation
from api.schemas.jobs.job_queries import PreviewQuery
from shared.jobs import records
from shared.states import JobState, Scope

_TYPE = "image/webp"


def get_preview(context: Context, request: Request, query: PreviewQuery) -> Response:
    job = records.get(context.database, job_id_of(request), only=caller_of(request).only)
    if job.status != JobState.RUNNING:
        return problem(request, 404, "no_preview", f"The job is {job.status}; only jobs that run have previews")
    preview = context.previews.get(job.id)
    if preview is None or preview.attempt != job.attempt:
        detail = (
            "The job has no preview yet. There is none before the first seconds of denoising, on nodes where the model "
            "was not prepared (`wanworks prepare`), for requests with `preview: false`, and without Redis"
        )
        return problem(request, 404, "no_preview", detail)
    return Response(preview.image, media_type=_TYPE, headers={"Cache-Control": "no-store"})


OPERATIONS = (
    Operation(
        "GET", "/api/v1/jobs/{id}/preview", get_preview, "getPreview", "Get a preview of a running generation",
        answers=(Answer(200, "The middle frame of the video after the latest steps, at most 320 pixels long.",
                        media_type=_TYPE),),
        problems=(404, 503), query=PreviewQuery, scope=Scope.READ,
        description="It is replaced every few seconds, and gone once the job has ended. Returns 404 while there is "
        "none.",
    ),
)  # fmt: skip
