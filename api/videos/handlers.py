"""The `/v1/videos` routes: generations, asked for and shown as the `openai` client does.

The same rows as under `/api/v1/jobs`, admitted and committed by the same code; only the words differ.
"""

import time
from typing import Any

import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import Caller, caller_of, note_owner
from api.context import Context
from api.http import headers, images
from api.http.body import Asked, read_fields_or_form, read_json, what_is_right
from api.http.query import job_id_of
from api.http.responses import answered
from api.jobs.artifacts import served
from api.jobs.handlers import admitted, committed, remove
from api.operation import Answer, Operation
from api.schemas import videos as video_schemas
from api.schemas.jobs import JobProgress
from api.schemas.videos import (
    TEXTS,
    ContentQuery,
    OfferedModel,
    OfferedModels,
    RemixRequest,
    Video,
    VideoDeleted,
    VideoRequest,
    VideosQuery,
    page,
    poll_after_ms,
    video,
)
from api.videos.request import generation_request, in_their_words, reference
from shared.catalogue.job_types import GENERATION
from shared.catalogue.models import CatalogueEntry
from shared.database.tables import Job
from shared.errors import Conflict, InvalidField, NotFound
from shared.jobs import durations, lists, records
from shared.jobs.records import NewJob
from shared.net import outbound
from shared.net.outbound import Allowed, NotFetched
from shared.states import JOB_ENDS, JobState, Scope
from wanworks.net.urls import ForbiddenAddress

_FETCH_SECONDS = 20.0
_BEGAN = int(time.time())
_KINDS = {"video": "video", "thumbnail": "thumbnail", "spritesheet": "contact_sheet"}


async def create(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    fields, sent, wrong = await read_fields_or_form(request, "input_reference", TEXTS)
    asked, wrong = what_is_right(fields, VideoRequest, wrong)
    try:
        named = reference(asked)
        if named is not None and sent is not None:
            raise InvalidField.of("image_reference", "says the same as input_reference; give one of them", "duplicate")
    except InvalidField as error:
        named, wrong = None, (*wrong, *error.errors)
    left_out = any(one.loc[1:2] in (("input_reference",), ("image_reference",)) for one in wrong)
    with_image = sent is not None or named is not None or left_out
    try:
        translation = generation_request(asked, context.catalogue, with_image=with_image, wrong=wrong)
        wrong, image = translation.wrong, sent
        if named is not None and wrong:
            left_out = True  # nothing is fetched for a request that is refused
        elif named is not None:
            try:
                image = await _picture(context, named)
            except InvalidField as error:
                wrong, left_out = error.errors, True
        given = Asked(translation.request, image, wrong, left_out and image is None)
        new = await admitted(context, given, key, caller)
        return await _made(context, new, caller)
    except InvalidField as error:
        raise in_their_words(error) from None


async def remix(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    job_id = job_id_of(request)
    asked = await read_json(request, RemixRequest)

    def admit() -> NewJob:
        job = _generation(context, job_id, caller)
        note_owner(request, job.owner)
        return context.admission.remix(job, asked.prompt, key)

    return await _made(context, await anyio.to_thread.run_sync(admit), caller)


def list_videos(context: Context, request: Request, query: VideosQuery) -> Response:
    found = lists.page(
        context.database,
        only=caller_of(request).only,
        limit=query.limit,
        after=query.after,
        type=GENERATION,
        oldest_first=query.order == "asc",
    )
    return answered(page(_shown(context, found.jobs), found.has_more))


def retrieve(context: Context, request: Request, query: BaseModel) -> Response:
    job = _generation(context, job_id_of(request), caller_of(request))
    progress = context.live.of([job])[job.id]
    extra = {}
    if job.status not in JOB_ENDS:
        extra["openai-poll-after-ms"] = str(poll_after_ms(_seconds_left(context, job, progress)))
    return answered(video(job, progress, context.settings.retention_days), extra=extra)


def delete(context: Context, request: Request, query: BaseModel) -> Response:
    job = _generation(context, job_id_of(request), caller_of(request))
    remove(context, request, job.id)
    return answered(VideoDeleted(id=job.id))


def content(context: Context, request: Request, query: ContentQuery) -> Response:
    job = _generation(context, job_id_of(request), caller_of(request))
    if job.status not in JOB_ENDS:
        raise Conflict(f"The video is not ready yet; ask /v1/videos/{job.id} for its status")
    made: list[dict[str, Any]] = (job.result or {}).get("artifacts", [])
    name = next((one["name"] for one in made if one.get("kind") == _KINDS[query.variant]), None)
    if job.status != JobState.SUCCEEDED or name is None:
        raise NotFound(query.variant, job.id)
    return served(context, request, job, name)


def list_models(context: Context, request: Request, query: BaseModel) -> Response:
    return answered(OfferedModels(data=[_offered(entry) for entry in context.catalogue.entries]))


def retrieve_model(context: Context, request: Request, query: BaseModel) -> Response:
    return answered(_offered(context.catalogue.named(str(request.path_params["model"]))))


def _offered(entry: CatalogueEntry) -> OfferedModel:
    return OfferedModel(id=entry.model_id, created=_BEGAN, aliases=entry.names[1:])


async def _made(context: Context, new: NewJob, caller: Caller) -> Response:
    done = await committed(context, new, caller)
    replayed = {"Idempotency-Replayed": "true"} if done.replayed else {}
    shown = await anyio.to_thread.run_sync(_shown, context, [done.job])
    return answered(shown[0], extra={"Location": f"/v1/videos/{done.job.id}", **replayed})


def _generation(context: Context, job_id: str, caller: Caller) -> Job:
    """Raises NotFound, also for a job of another type."""
    job = records.get(context.database, job_id, only=caller.only)
    if job.type != GENERATION:
        raise NotFound("video", job_id)
    return job


def _shown(context: Context, rows: list[Job]) -> list[Video]:
    progress = context.live.of(rows)
    return [video(row, progress[row.id], context.settings.retention_days) for row in rows]


def _seconds_left(context: Context, job: Job, progress: JobProgress) -> float | None:
    """As the worker reckons it; before that, what jobs like it took. None where nothing was measured."""
    if progress.eta_seconds is not None or job.mock:
        return progress.eta_seconds
    rate = durations.measured(context.database, job.model_cache_key).seconds_per_work
    return rate * job.work if rate is not None else None


async def _picture(context: Context, named: str) -> bytes:
    """The picture that a data URL holds, or that lies at an address which this server may ask."""
    if named[:5].lower() == "data:":
        return await anyio.to_thread.run_sync(images.from_data_url, named)
    allowed = Allowed.of(context.settings.outbound_allow)
    try:
        return await outbound.get(named, allowed=allowed, max_bytes=images.MAX_BYTES, seconds=_FETCH_SECONDS)
    except (ForbiddenAddress, NotFetched) as error:
        raise InvalidField.of("image", error.message, error.code) from None


OPERATIONS = (
    Operation(
        "POST", "/v1/videos", create, "createVideo", "Ask for a video, as the openai client does",
        answers=(
            Answer(
                200, "The video, on disk and queued; or the one that this key made before.", video_schemas.Video,
                headers=("Location", "Idempotency-Replayed"),
            ),
        ),
        problems=(413, 415, 503, 507), headers=("Idempotency-Key",), body=video_schemas.VideoRequest, tag="videos",
        description="JSON, or a form with the picture as a file part `input_reference`. What is left out takes the "
        "model's native value.", scope=Scope.SUBMIT,
    ),
    Operation(
        "GET", "/v1/videos", list_videos, "listVideos", "List videos",
        answers=(Answer(200, "A page of videos.", video_schemas.VideoPage),), problems=(503,),
        query=video_schemas.VideosQuery, tag="videos", scope=Scope.READ,
    ),
    Operation(
        "GET", "/v1/videos/{id}", retrieve, "retrieveVideo", "One video",
        answers=(Answer(200, "The video.", video_schemas.Video, headers=("openai-poll-after-ms",)),),
        problems=(404, 503), tag="videos", scope=Scope.READ,
    ),
    Operation(
        "DELETE", "/v1/videos/{id}", delete, "deleteVideo", "Cancel a video if need be, and remove it",
        answers=(Answer(200, "It is not shown any more; its files go with it.", video_schemas.VideoDeleted),),
        problems=(404, 503), tag="videos", scope=Scope.SUBMIT,
    ),
    Operation(
        "GET", "/v1/videos/{id}/content", content, "videoContent", "A video's file",
        answers=(
            Answer(200, "The whole file.", media_type="*/*", headers=("ETag", "Accept-Ranges")),
            Answer(206, "Parts of it.", media_type="*/*", headers=("ETag", "Content-Range")),
            Answer(304, "The client has it.", media_type=None, headers=("ETag",)),
            Answer(307, "It lies in a bucket, at this signed address.", media_type=None, headers=("Location",)),
        ),
        problems=(404, 409, 416, 503), headers=("Range", "If-Range", "If-None-Match"),
        query=video_schemas.ContentQuery, tag="videos", scope=Scope.READ,
    ),
    Operation(
        "POST", "/v1/videos/{id}/remix", remix, "remixVideo", "The same video to another prompt",
        answers=(
            Answer(
                200, "The new video, on disk and queued; or the one that this key made before.", video_schemas.Video,
                headers=("Location", "Idempotency-Replayed"),
            ),
        ),
        problems=(404, 409, 413, 415, 503, 507), headers=("Idempotency-Key",), body=video_schemas.RemixRequest,
        tag="videos", description="Its model, size, length, seed and picture stay.", scope=Scope.SUBMIT,
    ),
    Operation(
        "GET", "/v1/models", list_models, "listOfferedModels", "Which models can be asked for",
        answers=(Answer(200, "Every model of the catalogue.", video_schemas.OfferedModels),), tag="videos",
        scope=Scope.READ,
    ),
    Operation(
        "GET", "/v1/models/{model:path}", retrieve_model, "retrieveOfferedModel", "One of them, by any name",
        answers=(Answer(200, "The model.", video_schemas.OfferedModel),), problems=(404,), tag="videos",
        scope=Scope.READ,
    ),
)  # fmt: skip
