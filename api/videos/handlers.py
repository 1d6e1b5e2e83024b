"""The `/v1/videos` routes: generations in the `openai` client's format.

They create and return the same jobs as `/api/v1/jobs`, through the same admission and commit.
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
from api.http.body import ReceivedRequest, read_fields_or_form, read_json, valid_part
from api.http.query import job_id_of
from api.http.responses import json_response
from api.jobs.files.artifacts import served
from api.jobs.handlers import admitted, committed, remove
from api.operation import Answer, Operation
from api.schemas import videos as video_schemas
from api.schemas.jobs.jobs import JobProgress
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
from api.videos.request import generation_request, last_reference, reference, with_video_names
from shared.catalogue.job_types import GENERATION
from shared.catalogue.models import CatalogueEntry
from shared.database.tables import Job
from shared.errors import Conflict, InvalidField, NotFound
from shared.jobs import records
from shared.jobs.accepting import NewJob
from shared.jobs.reading import lists
from shared.jobs.usage import durations
from shared.net import outbound
from shared.net.outbound import Allowed, NotFetched
from shared.states import JOB_ENDS, JobState, Scope
from wanworks.net.urls import ForbiddenAddress

_FETCH_SECONDS = 20.0
_BEGAN = int(time.time())
_KINDS = {"video": "video", "thumbnail": "thumbnail", "spritesheet": "contact_sheet"}


async def create(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    fields, sent, wrong = await read_fields_or_form(request, ("input_reference", "last_image"), TEXTS)
    video, wrong = valid_part(fields, VideoRequest, wrong)
    named: dict[str, str | None] = {"image": None, "last_image": None}
    try:
        named["image"] = reference(video)
        if named["image"] is not None and "input_reference" in sent:
            raise InvalidField.of(
                "image_reference", "is another name for input_reference; give only one of them", "duplicate"
            )
    except InvalidField as error:
        named["image"], wrong = None, (*wrong, *error.errors)
    try:
        named["last_image"] = last_reference(video)
    except InvalidField as error:
        wrong = (*wrong, *error.errors)
    refused = {one.loc[1] for one in wrong if len(one.loc) > 1}
    left_out = {
        "image": not refused.isdisjoint(("input_reference", "image_reference")),
        "last_image": "last_image" in refused,
    }
    with_image = "input_reference" in sent or named["image"] is not None or left_out["image"]
    try:
        translation = generation_request(video, context.catalogue, with_image=with_image, wrong=wrong)
        wrong = translation.wrong
        pictures = {"image": sent.get("input_reference"), "last_image": sent.get("last_image")}
        for field, url in named.items():
            if url is not None and wrong:
                left_out[field] = True  # do not fetch an image for a request that is refused
            elif url is not None:
                try:
                    pictures[field] = await _picture(context, url, field)
                except InvalidField as error:
                    wrong, left_out[field] = error.errors, True
        given = ReceivedRequest(
            translation.request,
            pictures["image"],
            wrong,
            left_out["image"] and pictures["image"] is None,
            pictures["last_image"],
            left_out["last_image"] and pictures["last_image"] is None,
        )
        new = await admitted(context, given, key, caller)
        return await _made(context, new, caller)
    except InvalidField as error:
        raise with_video_names(error) from None


async def remix(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    job_id = job_id_of(request)
    video = await read_json(request, RemixRequest)

    def admit() -> NewJob:
        job = _generation(context, job_id, caller)
        note_owner(request, job.owner)
        return context.admission.remix(job, video.prompt, key, caller.limits)

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
    return json_response(page(_shown(context, found.jobs), found.has_more))


def retrieve(context: Context, request: Request, query: BaseModel) -> Response:
    job = _generation(context, job_id_of(request), caller_of(request))
    progress = context.live.of([job])[job.id]
    extra = {}
    if job.status not in JOB_ENDS:
        extra["openai-poll-after-ms"] = str(poll_after_ms(_seconds_left(context, job, progress)))
    return json_response(video(job, progress, context.settings.retention_days), extra=extra)


def delete(context: Context, request: Request, query: BaseModel) -> Response:
    job = _generation(context, job_id_of(request), caller_of(request))
    remove(context, request, job.id)
    return json_response(VideoDeleted(id=job.id))


def content(context: Context, request: Request, query: ContentQuery) -> Response:
    job = _generation(context, job_id_of(request), caller_of(request))
    if job.status not in JOB_ENDS:
        raise Conflict(f"The video is not ready yet. Check its status at /v1/videos/{job.id}.")
    made: list[dict[str, Any]] = (job.result or {}).get("artifacts", [])
    name = next((one["name"] for one in made if one.get("kind") == _KINDS[query.variant]), None)
    if job.status != JobState.SUCCEEDED or name is None:
        raise NotFound(query.variant, job.id)
    return served(context, request, job, name)


def list_models(context: Context, request: Request, query: BaseModel) -> Response:
    return json_response(OfferedModels(data=[_offered(entry) for entry in context.catalogue.entries]))


def retrieve_model(context: Context, request: Request, query: BaseModel) -> Response:
    return json_response(_offered(context.catalogue.named(str(request.path_params["model"]))))


def _offered(entry: CatalogueEntry) -> OfferedModel:
    return OfferedModel(id=entry.model_id, created=_BEGAN, aliases=entry.names[1:])


async def _made(context: Context, new: NewJob, caller: Caller) -> Response:
    done = await committed(context, new, caller)
    replayed = {"Idempotency-Replayed": "true"} if done.replayed else {}
    shown = await anyio.to_thread.run_sync(_shown, context, [done.job])
    return json_response(shown[0], extra={"Location": f"/v1/videos/{done.job.id}", **replayed})


def _generation(context: Context, job_id: str, caller: Caller) -> Job:
    """Return the generation. Raises NotFound, also for a job of another type."""
    job = records.get(context.database, job_id, only=caller.only)
    if job.type != GENERATION:
        raise NotFound("video", job_id)
    return job


def _shown(context: Context, rows: list[Job]) -> list[Video]:
    progress = context.live.of(rows)
    return [video(row, progress[row.id], context.settings.retention_days) for row in rows]


def _seconds_left(context: Context, job: Job, progress: JobProgress) -> float | None:
    """Return the remaining seconds: the worker's estimate, or the duration of similar jobs; None if unknown."""
    if progress.eta_seconds is not None or job.mock:
        return progress.eta_seconds
    key = (job.model_cache_key, job.model_id, job.speed, job.devices)
    return durations.measured(context.database, *key).seconds(job.work, durations.volume_of(job))


async def _picture(context: Context, named: str, field: str) -> bytes:
    """Return the image in a data URL, or fetch it from a URL that the outbound guard allows."""
    if named[:5].lower() == "data:":
        return await anyio.to_thread.run_sync(images.from_data_url, named, field)
    allowed = Allowed.of(context.settings.outbound_allow)
    try:
        return await outbound.get(named, allowed=allowed, max_bytes=images.MAX_BYTES, seconds=_FETCH_SECONDS)
    except (ForbiddenAddress, NotFetched) as error:
        raise InvalidField.of(field, error.message, error.code) from None


OPERATIONS = (
    Operation(
        "POST", "/v1/videos", create, "createVideo", "Create a video (openai client)",
        answers=(
            Answer(
                200, "The queued video, or the one created earlier with this key.", video_schemas.Video,
                headers=("Location", "Idempotency-Replayed"),
            ),
        ),
        problems=(413, 415, 503, 507), headers=("Idempotency-Key",), body=video_schemas.VideoRequest, tag="videos",
        description="Send JSON, or a form with the pictures as the file parts `input_reference` and `last_image`. "
        "Fields that are left out take the model's defaults.", scope=Scope.SUBMIT,
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
        "DELETE", "/v1/videos/{id}", delete, "deleteVideo", "Delete a video and its files; cancels it first",
        answers=(Answer(200, "The video is deleted.", video_schemas.VideoDeleted),),
        problems=(404, 503), tag="videos", scope=Scope.SUBMIT,
    ),
    Operation(
        "GET", "/v1/videos/{id}/content", content, "videoContent", "Get a file of a video",
        answers=(
            Answer(200, "The whole file.", media_type="*/*", headers=("ETag", "Accept-Ranges")),
            Answer(206, "The requested ranges.", media_type="*/*", headers=("ETag", "Content-Range")),
            Answer(304, "Not modified.", media_type=None, headers=("ETag",)),
            Answer(307, "The file is in a bucket, at this signed URL.", media_type=None, headers=("Location",)),
        ),
        problems=(404, 409, 416, 503), headers=("Range", "If-Range", "If-None-Match"),
        query=video_schemas.ContentQuery, tag="videos", scope=Scope.READ,
    ),
    Operation(
        "POST", "/v1/videos/{id}/remix", remix, "remixVideo", "Create a video with the settings of another",
        answers=(
            Answer(
                200, "The new queued video, or the one created earlier with this key.", video_schemas.Video,
                headers=("Location", "Idempotency-Replayed"),
            ),
        ),
        problems=(404, 409, 413, 415, 503, 507), headers=("Idempotency-Key",), body=video_schemas.RemixRequest,
        tag="videos", description="Keeps model, size, length, seed and image.", scope=Scope.SUBMIT,
    ),
    Operation(
        "GET", "/v1/models", list_models, "listOfferedModels", "List models",
        answers=(Answer(200, "All models of the catalogue.", video_schemas.OfferedModels),), tag="videos",
        scope=Scope.READ,
    ),
    Operation(
        "GET", "/v1/models/{model:path}", retrieve_model, "retrieveOfferedModel", "Get a model by id or alias",
        answers=(Answer(200, "The model.", video_schemas.OfferedModel),), problems=(404,), tag="videos",
        scope=Scope.READ,
    ),
)  # fmt: skip
