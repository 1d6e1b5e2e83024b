"""The job routes: read the request, call `shared.jobs.records`, and return the row as its owner sees it."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import anyio.to_thread
from pydantic import BaseModel
from sse_starlette.sse import AppStatus
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import Caller, caller_of, note_owner
from api.context import Context
from api.http import headers
from api.http.body import ReceivedRequest, read_generation
from api.http.query import job_id_of
from api.http.responses import json_response, serialized_response
from api.jobs import counted, dry_run, views
from api.jobs.objects import job_objects
from api.operation import Answer, Operation
from api.schemas.jobs import jobs
from api.schemas.jobs.counted import EarlierGeneration, NewGeneration
from api.schemas.jobs.job_queries import GenerationQuery, JobFilter, JobsQuery, RetryQuery
from api.services import estimates, stopping
from api.services.admission import gpu_limits, repeating
from api.services.group_commit import Committed
from api.services.waiting import waiting_for
from shared import clock
from shared.access import keys
from shared.catalogue.job_types import GENERATION, GenerationParams
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import FieldError, InvalidField, LimitReached, StoreFull, Unavailable
from shared.jobs import accepting, records
from shared.jobs.accepting import NewJob
from shared.jobs.claims import running_limits
from shared.jobs.lines import holding
from shared.jobs.reading import lists, queue_order, search, totals
from shared.jobs.reading.queue_positions import Position
from shared.states import JOB_ENDS, JobState, Scope
from wanworks.requests import GenerationRequest

log = logging.getLogger("wanworks.jobs")

_STOP_CHECK_SECONDS = 0.5  # a waiting request notices within this time that the process is stopping
_COUNTED = 10_000  # with filters that no index counts
PASS_SECONDS = 5.0  # a waiting request reads SQL this often, even without events from Redis


async def create_generation(context: Context, request: Request, query: GenerationQuery) -> Response:
    key = headers.idempotency_key(request.headers)
    received = await read_generation(request)
    caller = caller_of(request)
    if query.dry_run:
        jobs = await _all_admitted(context, received, None, caller, dry_run=True)
        return json_response(await anyio.to_thread.run_sync(dry_run.outcome, context, jobs, caller))
    jobs = await _all_admitted(context, received, key, caller)
    return await (_accept(context, jobs[0], caller) if len(jobs) == 1 else counted.accept(context, jobs, caller))


async def retry(context: Context, request: Request, query: RetryQuery) -> Response:
    key = headers.idempotency_key(request.headers)
    caller = caller_of(request)
    job_id = job_id_of(request)

    def admit() -> NewJob:
        job = records.get(context.database, job_id, only=caller.only)
        note_owner(request, job.owner)
        if job.type != GENERATION:
            caller.require(Scope.ADMIN)
        return context.admission.retry(job, key, caller.limits, new_seed=query.new_seed)

    return await _accept(context, await anyio.to_thread.run_sync(admit), caller)


def list_jobs(context: Context, request: Request, query: JobsQuery) -> Response:
    only = owner_of(context, caller_of(request), query.key, "query")
    filters = query.model_dump(include={"type", "status", "model_id"})
    if query.order == "queue":
        which = queue_order.Which(only, **filters)
        served = queue_order.page(context.database, context.redis, which, query.limit, query.after)
        return _job_page(context, served.jobs, served.next)
    filters |= query.model_dump(include={"created_after", "created_before", "batch_id"})
    place: dict[str, Any] = {"limit": query.limit, "after": query.after, "oldest_first": query.order == "oldest"}
    if query.search is not None:
        found = search.page(context.database, query.search, only=only, **place, **filters)
        return _job_page(context, found.jobs, found.next, found.looked_at)
    page = lists.page(context.database, only=only, **place, **filters)
    return _job_page(context, page.jobs, page.jobs[-1].id if page.has_more and page.jobs else None)


def _job_page(context: Context, rows: Sequence[Job], next: str | None, looked_at: int | None = None) -> Response:
    data = job_objects(context, rows)
    return json_response(jobs.JobPage(data=data, has_more=next is not None, next=next, looked_at=looked_at))


async def count_jobs(context: Context, request: Request, query: JobFilter) -> Response:
    only = await anyio.to_thread.run_sync(owner_of, context, caller_of(request), query.key, "query")
    filters = query.model_dump(exclude={"key", "status"})

    def count() -> bytes:
        return _count(context, only, query.status, filters).model_dump_json().encode()

    key = ("count of jobs", only, query.status, *filters.values())
    return serialized_response(await context.coalescer.run(key, count))


def _count(context: Context, only: str | None, status: JobState | None, filters: dict[str, Any]) -> jobs.JobCount:
    by_index = {"type", "model_id"}
    if not any(value is not None for name, value in filters.items() if name not in by_index):
        counts = totals.by_state(context.database, only=only, type=filters["type"], model_id=filters["model_id"])
        return jobs.JobCount(
            count=sum(counts.values()) if status is None else counts[status], is_exact=True, by_status=counts
        )
    found = lists.count(context.database, only=only, status=status, most=_COUNTED + 1, **filters)
    return jobs.JobCount(count=min(found, _COUNTED), is_exact=found <= _COUNTED, by_status=None)


def owner_of(context: Context, caller: Caller, key: str | None, where: str) -> str | None:
    """Return the owner whose jobs are meant: the caller, or the key of that name or id; None: all owners.

    Raises InvalidField for a key that does not exist, and Forbidden for one that is not the caller's, without `admin`.
    """
    if key is None:
        return caller.only
    row = next((row for row in keys.every(context.database) if key in (row.id, row.name)), None)
    if row is None or not caller.sees(row.id):
        caller.require(Scope.ADMIN)
        raise InvalidField(FieldError((where, "key"), f"there is no API key {key!r}; give its name or id", "unknown"))
    return row.id


async def get_job(context: Context, request: Request, query: BaseModel) -> Response:
    job_id, only = job_id_of(request), caller_of(request).only
    wait = headers.wait_seconds(request.headers)
    if wait is None:
        return json_response(await anyio.to_thread.run_sync(_show_one, context, job_id, only))
    await _until_ended(context, job_id, only, wait)
    job = await anyio.to_thread.run_sync(_show_one, context, job_id, only)
    return json_response(job, extra={"Preference-Applied": f"wait={wait}"})


def cancel(context: Context, request: Request, query: BaseModel) -> Response:
    job_id, only = job_id_of(request), caller_of(request).only
    note_owner(request, records.get(context.database, job_id, only=only).owner)
    stopped = records.request_cancel(context.database, job_id, only=only)
    publish_cancel(context, stopped)
    return json_response(job_objects(context, [stopped.job])[0], 202)


def move_to_front(context: Context, request: Request, query: BaseModel) -> Response:
    return _moved(context, request, holding.move_to_front)


def move_back(context: Context, request: Request, query: BaseModel) -> Response:
    return _moved(context, request, holding.move_back)


def _moved(context: Context, request: Request, move: Callable[[Database, str], object]) -> Response:
    job_id = job_id_of(request)
    note_owner(request, records.get(context.database, job_id, only=caller_of(request).only).owner)
    move(context.database, job_id)
    context.forecasts.expire()
    context.waker.wake()
    return json_response(_show_one(context, job_id, None))


def delete(context: Context, request: Request, query: BaseModel) -> Response:
    remove(context, request, job_id_of(request))
    return Response(status_code=204)


def remove(context: Context, request: Request, job_id: str) -> None:
    """Cancel the job if it has not ended, and delete it with its files. Raises NotFound.

    If the files cannot be removed now, the retention policy removes them and the row later.
    """
    stopped = records.remove(context.database, job_id, only=caller_of(request).only)
    job = stopped.job
    note_owner(request, job.owner)
    publish_cancel(context, stopped)
    if job.status in JOB_ENDS:
        context.progress.forget(job.id)
        try:
            context.storage.store().drop_job(job.id)
        except Unavailable as error:
            log.warning("job %s is deleted; its files will be removed later: %s", job.id, error)
            return
        records.purge(context.database, [job.id])


def _show_one(context: Context, job_id: str, only: str | None) -> jobs.Job:
    return job_objects(context, [records.get(context.database, job_id, only=only)], wait=True)[0]


async def admitted(
    context: Context, received: ReceivedRequest, key: str | None, caller: Caller, *, dry_run: bool = False
) -> NewJob:
    """Return the requested job, in a thread if that may block. Raises like `Admission.generation`."""
    try:
        caller.check_priority(received.request)
    except InvalidField as error:
        received = replace(received, wrong=(*received.wrong, *error.errors))
    admit = partial(context.admission.generation, received, key, caller.limits, dry_run=dry_run, only=caller.only)
    if context.admission.is_quick(received):
        new = admit()
    elif not received.pictures:
        new = await anyio.to_thread.run_sync(admit)
    else:
        new = await anyio.to_thread.run_sync(admit, limiter=context.image_limiter)
    if new.start_before is not None and not new.mock:
        await anyio.to_thread.run_sync(_check_latest_start, context, caller.owning(new), received.request.count)
    return new


async def _all_admitted(
    context: Context, received: ReceivedRequest, key: str | None, caller: Caller, *, dry_run: bool = False
) -> list[NewJob]:
    """Return the job, or with `count` all jobs. Raises like `admitted`."""
    new = await admitted(context, received, key, caller, dry_run=dry_run)
    if received.request.count == 1:
        return [new]
    repeat = partial(context.admission.repeated, new, received.request.count, dry_run=dry_run)
    return await anyio.to_thread.run_sync(repeat)


def _check_latest_start(context: Context, new: NewJob, count: int) -> None:
    """Raise InvalidField if the last of the jobs cannot be expected to start in time. Remove the inputs then."""
    if accepting.was_accepted(context.database, new):
        return  # a repeated request gets its job
    jobs = repeating.repeated(new, count)
    expected = context.forecasts.of_several_new([estimates.as_waiting(job) for job in jobs])
    latest = max(expected, key=lambda one: one.start or 0.0)
    if latest.start is not None and new.start_before is not None and latest.excludes(new.start_before):
        context.admission.discard(new)
        start = clock.iso(clock.from_epoch(latest.start))
        which = "the job" if count == 1 else f"the last of the {count} jobs"
        message = (
            f"is too early: {which} is expected to start at {start}; give a later time, a higher priority, or none"
        )
        raise InvalidField.of("start_before", message, "not_in_time")


async def committed(context: Context, new: NewJob, caller: Caller) -> Committed:
    """Commit the job under the caller's key. Removes the inputs of a refused job from the store.

    Raises LimitReached if a limit of the key is reached.
    """
    owned = caller.owning(new)
    try:
        if caller.limits.counts_gpu_seconds:
            await anyio.to_thread.run_sync(gpu_limits.check, context.database, caller.limits, owned)
        done = await context.commits.add(owned)
    except (InvalidField, LimitReached, StoreFull):
        await anyio.to_thread.run_sync(context.admission.discard, new)
        raise
    # After other errors, such as a connection lost during the commit, the job may exist, so its image stays. If it does
    # not exist, the sweep removes the image.
    if done.replayed:
        await anyio.to_thread.run_sync(context.admission.discard, new)
    return done


async def _accept(context: Context, new: NewJob, caller: Caller) -> Response:
    done = await committed(context, new, caller)
    job = done.job
    location = {"Location": f"/api/v1/jobs/{job.id}"}
    if done.replayed:
        replayed = await anyio.to_thread.run_sync(lambda: job_objects(context, [job])[0])
        return json_response(replayed, 200, {**location, "Idempotency-Replayed": "true"})
    progress = jobs.JobProgress(percent=job.percent, phase=job.phase)
    position = None if done.position is None else Position(done.position, approximate=True)
    now = clock.now().timestamp()
    # No query here: what is registered was read when the job was admitted, unless that needed no devices.
    full: dict[str, int] = {}
    if caller.limits.running_jobs is not None:
        full = await anyio.to_thread.run_sync(running_limits.at_limit, context.database, [job.owner])
    reason = waiting_for(job, context.hosts.seen(), now, full.get(job.owner or "")) if context.hosts.is_fresh else None
    accepted = new.params if isinstance(new.params, GenerationParams) else None
    shown = views.job(job, progress, position, context.settings.public_path, reason, accepted=accepted)
    return json_response(shown, 202, location)


async def _until_ended(context: Context, job_id: str, only: str | None, wait_seconds: float) -> None:
    """Wait until the job has ended or the time is up. Raises NotFound.

    Its stream reports the end at once; SQL is read as a fallback.
    """
    deadline = time.monotonic() + wait_seconds
    after = await context.streams.last_id(job_id)
    while True:
        job = await anyio.to_thread.run_sync(partial(records.get, context.database, job_id, only=only))
        if job.status in JOB_ENDS:
            return
        read_at = min(deadline, time.monotonic() + PASS_SECONDS)
        while (left := read_at - time.monotonic()) > 0:
            if AppStatus.should_exit:
                return  # the process is stopping: respond with the current state
            entries = await context.streams.read(job_id, after, min(left, _STOP_CHECK_SECONDS))
            after = entries[-1].id if entries else after
            if context.streams.away or any(entry.event.get("status") in JOB_ENDS for entry in entries):
                break
        if time.monotonic() >= deadline:
            return


def publish_cancel(context: Context, *stopped: records.Stopped) -> None:
    """Publish that jobs were cancelled, or asked to stop."""
    stopping.publish(context.progress, context.meters, stopped)
    context.waker.wake()


ACCEPTED = (
    Answer(202, "The queued job.", jobs.Job, headers=("Location",)),
    Answer(
        200,
        "The job that was created earlier with this Idempotency-Key.",
        jobs.Job,
        headers=("Location", "Idempotency-Replayed"),
    ),
)

OPERATIONS = (
    Operation(
        "POST", "/api/v1/jobs/generation", create_generation, "createGeneration", "Create a video",
        answers=(
            Answer(202, "The queued job; with `count` the first of several.", NewGeneration, headers=("Location",)),
            Answer(
                200,
                "The job that was created earlier with this Idempotency-Key; or, of a dry run, what accepting the "
                "request would return and cost.",
                EarlierGeneration,
                at_times=("Location", "Idempotency-Replayed"),
            ),
        ),
        problems=(400, 413, 415, 503, 507), headers=("Idempotency-Key",), body=GenerationRequest, query=GenerationQuery,
        description="Send JSON, or a form with the pictures as the file parts `image` and `last_image`; in a form, "
        "`loras`, `fallback` and `metadata` are JSON strings. Omitted fields use the model's defaults.",
        scope=Scope.SUBMIT,
    ),
    Operation(
        "GET", "/api/v1/jobs", list_jobs, "listJobs", "List jobs, or search them",
        answers=(Answer(200, "A page of jobs.", jobs.JobPage),), problems=(503,), query=JobsQuery, scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/jobs/count", count_jobs, "countJobs", "Count jobs",
        answers=(Answer(200, "How many jobs match.", jobs.JobCount),), problems=(503,), query=JobFilter,
        scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/jobs/{id}", get_job, "getJob", "One job",
        answers=(Answer(200, "The job.", jobs.Job, headers=("Preference-Applied",)),),
        problems=(404, 503), headers=("Prefer",), scope=Scope.READ,
    ),
    Operation(
        "DELETE", "/api/v1/jobs/{id}", delete, "deleteJob", "Delete a job and its artifacts; cancels it first",
        answers=(Answer(204, "The job is deleted.", media_type=None),),
        problems=(404, 409, 503), scope=Scope.SUBMIT,
        description="Returns 409 while the job's flow has not ended.",
    ),
    Operation(
        "POST", "/api/v1/jobs/{id}/cancel", cancel, "cancelJob", "Cancel a job",
        answers=(Answer(202, "The job: cancelled, or still running with cancellation requested.", jobs.Job),),
        problems=(404, 409, 503), description="Cancelling a cancelled job has no effect.",
        scope=Scope.SUBMIT,
    ),
    Operation(
        "POST", "/api/v1/jobs/{id}/move-to-front", move_to_front, "moveJobToFront",
        "Move a queued job before all others",
        answers=(Answer(200, "The job.", jobs.Job),), problems=(404, 409, 503), scope=Scope.ADMIN,
        description="Of several, the last one moved is first. The job keeps its priority.",
    ),
    Operation(
        "DELETE", "/api/v1/jobs/{id}/move-to-front", move_back, "moveJobBack",
        "Return a job from the front to its place in the queue",
        answers=(Answer(200, "The job.", jobs.Job),), problems=(404, 409, 503), scope=Scope.ADMIN,
        description="Its place is by priority and age. It has no effect on a queued job that was not moved.",
    ),
    Operation(
        "POST", "/api/v1/jobs/{id}/retry", retry, "retryJob", "Repeat an ended job as a new one",
        answers=ACCEPTED, problems=(404, 409, 503, 507), headers=("Idempotency-Key",), query=RetryQuery,
        scope=Scope.SUBMIT,
    ),
)  # fmt: skip
