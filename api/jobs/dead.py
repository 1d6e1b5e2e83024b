"""The list of dead jobs, their redrive, and the change of a job's priority."""

import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import caller_of, note_owner
from api.context import Context
from api.http.body import read_json
from api.http.query import job_id_of
from api.http.responses import json_response
from api.jobs.objects import job_objects
from api.operation import Answer, Operation
from api.schemas.jobs import jobs
from api.schemas.jobs.dead_jobs import DeadJobsQuery, JobChange, NotRedriven, Redriven, RedriveRequest, RedriveResult
from api.services.admission.retrying import Retrying
from shared.errors import InvalidField, RequestError
from shared.jobs import ordering, records
from shared.jobs.reading import dead
from shared.jobs.reading.dead import Filter
from shared.states import Scope

_FILTERS = {"type", "model_id", "error_code", "failed_after", "failed_before"}


def list_dead(context: Context, request: Request, query: DeadJobsQuery) -> Response:
    which = Filter(**query.model_dump(include=_FILTERS))
    page = dead.page(context.database, which, only=caller_of(request).only, limit=query.limit, after=query.after)
    last = page.jobs[-1].id if page.has_more else None
    return json_response(jobs.JobPage(data=job_objects(context, page.jobs), has_more=page.has_more, next=last))


async def redrive(context: Context, request: Request, query: BaseModel) -> Response:
    body = await read_json(request, RedriveRequest)
    return json_response(await anyio.to_thread.run_sync(_redrive, context, request, body))


def _redrive(context: Context, request: Request, body: RedriveRequest) -> RedriveResult:
    """Retry the jobs one by one. Each keeps its owner and counts against the limits of the owner's key."""
    caller = caller_of(request)
    if body.model_id is not None and body.model_id not in context.catalogue.model_ids:
        offered = ", ".join(context.catalogue.model_ids)
        msg = f"there is no model {body.model_id!r}, so its jobs cannot be repeated; available: {offered}"
        raise InvalidField.of("model_id", msg, "unknown")
    which = Filter(**body.model_dump(include=_FILTERS | {"metadata"}))
    matched = dead.count(context.database, which, only=caller.only)
    if body.dry_run:
        return RedriveResult(
            dry_run=True, matched=matched, redriven=[], refused=[], has_more=matched > 0, next=body.after
        )
    page = dead.page(context.database, which, only=caller.only, limit=body.limit, after=body.after, oldest_first=True)
    done, refused = [], []
    retrying = Retrying(context.database, context.admission, caller)
    try:
        for job in page.jobs:
            note_owner(request, job.owner)
            try:
                done.append(Redriven(id=job.id, retry_id=retrying.retry(job).job.id))
            except RequestError as error:
                refused.append(NotRedriven(id=job.id, code=error.code, detail=error.message))
    finally:
        if done:
            context.waker.wake()
    last = page.jobs[-1].id if page.has_more else None
    return RedriveResult(
        dry_run=False, matched=matched, redriven=done, refused=refused, has_more=page.has_more, next=last
    )


async def change(context: Context, request: Request, query: BaseModel) -> Response:
    job_id, caller = job_id_of(request), caller_of(request)
    body = await read_json(request, JobChange)

    def apply() -> Response:
        note_owner(request, records.get(context.database, job_id, only=caller.only).owner)
        caller.check_ceiling(body.priority)
        job = ordering.set_priority(context.database, job_id, body.priority, only=caller.only)
        context.progress.hint(job.id)
        context.forecasts.expire()
        context.waker.wake()
        return json_response(job_objects(context, [job])[0])

    return await anyio.to_thread.run_sync(apply)


OPERATIONS = (
    Operation(
        "GET", "/api/v1/jobs/dead", list_dead, "listDeadJobs",
        "List jobs that have failed, may succeed if repeated, and have not been retried",
        answers=(Answer(200, "A page of jobs, newest first.", jobs.JobPage),), problems=(503,), query=DeadJobsQuery,
        scope=Scope.READ,
    ),
    Operation(
        "POST", "/api/v1/jobs/dead/redrive", redrive, "redriveDeadJobs", "Retry dead jobs by filter",
        answers=(Answer(200, "The jobs that were retried, and those that could not be.", RedriveResult),),
        problems=(400, 413, 415, 503, 507), body=RedriveRequest, scope=Scope.SUBMIT,
        description="A job is retried at most once by this route, however often it is called. The new job keeps the "
        "owner of the old one, and the limits of the owner's API key hold.",
    ),
    Operation(
        "PATCH", "/api/v1/jobs/{id}", change, "changeJob", "Change the priority of a job that waits",
        answers=(Answer(200, "The job.", jobs.Job),), problems=(400, 404, 409, 413, 415, 503), body=JobChange,
        scope=Scope.SUBMIT,
    ),
)  # fmt: skip
