"""Requests and responses of the `/v1/videos` routes, in the format of the `openai` client.

The rows are the same jobs; names and units follow that format: Unix seconds, `seconds` and `size` as text, four
states.
"""

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from api.http.query import JOB_ID
from api.schemas.fields import PageLimit, ResponseModel
from api.schemas.jobs.jobs import JobProgress
from shared.catalogue.job_types import GenerationParams
from shared.database.tables import Job
from shared.states import JobState, Priority
from wanworks.moments import Moment
from wanworks.requests import (
    NOT_BLANK,
    PLAIN,
    FallbackStrategy,
    FitField,
    Lora,
    MaxAttempts,
    Number,
    OutputFormat,
    PreviewField,
    Quantization,
    RetryBackoff,
    Seed,
    Speed,
)

_SECONDS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6})?")
_POLL_SECONDS = 1.0  # the client's own default
_POLL_RANGE = (0.5, 5.0)
_POLL_SHARE = 0.1

VideoStatus = Literal["queued", "in_progress", "completed", "failed"]
_STATUS: dict[str, VideoStatus] = {
    JobState.QUEUED: "queued",
    JobState.PAUSED: "queued",
    JobState.RUNNING: "in_progress",
    JobState.SUCCEEDED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "failed",
}


def _number_of_seconds(value: Any) -> Any:
    if isinstance(value, str):
        if not _SECONDS.fullmatch(value):
            raise ValueError("must be a number of seconds such as 5")
        return float(value)
    if isinstance(value, bool):
        raise ValueError("must be a number of seconds such as 5")
    return value


def _cursor(value: str | None) -> str | None:
    if value is not None and not JOB_ID.fullmatch(value):
        raise ValueError("is not the id of a video; give the `last_id` of the previous page")
    return value


Seconds = Annotated[
    float,
    BeforeValidator(_number_of_seconds),
    Field(gt=0, le=3600, allow_inf_nan=False),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": f"^{_SECONDS.pattern}$"}, {"type": "number", "exclusiveMinimum": 0}]}
    ),
]
Prompt = Annotated[str, Field(min_length=1, max_length=5000), PLAIN, NOT_BLANK]
Scale = Annotated[Number, Field(ge=0, le=30)]


class ImageReference(BaseModel):
    """A reference to an image."""

    model_config = ConfigDict(extra="forbid")

    image_url: Annotated[
        str | None, Field(description="http(s)://..., fetched by the server, or data:image/png;base64,...")
    ] = None
    file_id: Annotated[str | None, Field(description="Not supported: this server stores no uploaded files.")] = None


class VideoRequest(BaseModel):
    """A request for a video in the `openai` client's format, with the extension fields of self-hosted servers."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[
        Annotated[str, Field(min_length=1, max_length=128), PLAIN] | None,
        Field(description="A model's id, alias, or name on the Hub. Default: the first model that suits the request."),
    ] = None
    prompt: Prompt
    input_reference: Annotated[
        str | ImageReference | None,
        Field(description="In a form, a file. In JSON, a URL, a data URL, or an object with one."),
    ] = None
    image_reference: Annotated[
        str | ImageReference | None, Field(description="Another name for `input_reference`; give only one of them.")
    ] = None
    last_image: Annotated[
        str | ImageReference | None,
        Field(
            description="The picture with which the video ends, as `input_reference`; in a form, a file. It needs "
            "`input_reference`, and a model that always starts from an image."
        ),
    ] = None
    fit: FitField = None
    seconds: Annotated[
        Seconds | None,
        Field(
            description="Length at `fps` or the model's default rate; rounded to the nearest 4k+1 frames. Ignored if "
            "`num_frames` is given."
        ),
    ] = None
    size: Annotated[str, Field(max_length=32, examples=["1280x720"])] | None = None
    width: Annotated[int, Field(strict=True, ge=1, le=99_999)] | None = None
    height: Annotated[int, Field(strict=True, ge=1, le=99_999)] | None = None
    num_frames: Annotated[int, Field(strict=True, ge=1, le=100_000)] | None = None
    fps: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = None
    num_inference_steps: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = None
    guidance_scale: Annotated[
        Scale | None, Field(description="As in diffusers: for the high-noise expert, if the model has two.")
    ] = None
    guidance_scale_2: Annotated[Scale | None, Field(description="As in diffusers: for the low-noise expert.")] = None
    flow_shift: Annotated[Number, Field(gt=0, le=100)] | None = None
    negative_prompt: Annotated[str, Field(max_length=5000), PLAIN] | None = None
    seed: Seed = None
    output_format: OutputFormat | None = None
    quantization: Quantization | None = None
    speed: Speed | None = None
    devices_per_job: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = None
    loras: Annotated[list[Lora], Field(max_length=8)] | None = None
    priority: Priority | None = None
    fallback: Annotated[list[FallbackStrategy], Field(max_length=6)] | None = None
    start_after: Moment | None = None
    start_before: Moment | None = None
    max_attempts: MaxAttempts = None
    retry_backoff_seconds: RetryBackoff = None
    webhook_url: Annotated[str, Field(max_length=2000)] | None = None
    webhook_progress: Annotated[bool, Field(strict=True)] | None = None
    preview: PreviewField | None = None
    metadata: (
        Annotated[
            dict[
                Annotated[str, Field(min_length=1, max_length=64), PLAIN], Annotated[str, Field(max_length=512), PLAIN]
            ],
            Field(max_length=16),
        ]
        | None
    ) = None


# Form values that stay text; others are parsed as JSON if they are JSON.
TEXTS = frozenset(
    {"model", "prompt", "negative_prompt", "seconds", "size", "output_format", "quantization", "priority"}
) | {"speed", "last_image", "fit", "start_after", "start_before", "webhook_url"}


class RemixRequest(BaseModel):
    """A new prompt for the settings of an existing video."""

    model_config = ConfigDict(extra="forbid")

    prompt: Prompt


class VideosQuery(BaseModel):
    """The page and order of the list of videos."""

    model_config = ConfigDict(extra="forbid")

    limit: PageLimit = 20
    after: Annotated[
        str | None,
        AfterValidator(_cursor),
        Field(description="The `last_id` of the previous page.", json_schema_extra={"pattern": f"^{JOB_ID.pattern}$"}),
    ] = None
    order: Annotated[Literal["asc", "desc"], Field(description="Order by creation time.")] = "desc"


class ContentQuery(BaseModel):
    """Which file of the video to get."""

    model_config = ConfigDict(extra="forbid")

    variant: Annotated[
        Literal["video", "thumbnail", "spritesheet"],
        Field(description="The video, its middle frame, or a sheet of up to nine frames."),
    ] = "video"


class VideoFailure(ResponseModel):
    """Why there is no video. `code` is stable; `cancelled` if the job was cancelled."""

    code: str
    message: str


class Video(ResponseModel):
    """A generation in the `openai` client's format. `/api/v1/jobs/{id}` returns all its details."""

    id: Annotated[str, Field(description="The id of the job.")]
    object: Literal["video"] = "video"
    model: str
    status: VideoStatus
    progress: Annotated[int, Field(ge=0, le=100)]
    prompt: str
    seconds: Annotated[str, Field(description="The length: (frames - 1) / fps.")]
    size: str
    created_at: Annotated[int, Field(description="In Unix seconds, as all times of these routes.")]
    completed_at: Annotated[int | None, Field(description="When the job ended, also if it failed.")]
    expires_at: Annotated[int | None, Field(description="When the files are removed by the retention policy.")]
    remixed_from_video_id: str | None
    error: VideoFailure | None


class VideoPage(ResponseModel):
    """A page of videos in the requested order."""

    object: Literal["list"] = "list"
    data: list[Video]
    has_more: bool
    first_id: str | None
    last_id: Annotated[str | None, Field(description="Pass it as `after` to get the next page.")]


class VideoDeleted(ResponseModel):
    """The video and its files were deleted."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class OfferedModel(ResponseModel):
    """A model in the `openai` client's format."""

    id: Annotated[str, Field(description="The `model_id`.")]
    object: Literal["model"] = "model"
    created: Annotated[int, Field(description="In Unix seconds: when this server process started to offer it.")]
    owned_by: str = "wanworks"
    aliases: Annotated[tuple[str, ...], Field(description="Other names of the model that requests may use.")]


class OfferedModels(ResponseModel):
    """All models of the catalogue."""

    object: Literal["list"] = "list"
    data: list[OfferedModel]


class ConventionError(ResponseModel):
    """An error. `param` is the name of the field, `code` is stable."""

    message: str
    type: str
    param: str | None
    code: str | None


class ConventionProblem(ResponseModel):
    """The envelope of all errors of these routes."""

    error: ConventionError


def video(row: Job, progress: JobProgress, retention_days: float) -> Video:
    """Return a generation's row as a video."""
    params = GenerationParams.model_validate(row.params)
    expires = None
    if row.status == JobState.SUCCEEDED and row.finished_at is not None:
        expires = row.finished_at + timedelta(days=retention_days)
    return Video(
        id=row.id,
        model=params.model_id,
        status=_STATUS[row.status],
        progress=100 if row.status == JobState.SUCCEEDED else min(99, int(progress.percent)),
        prompt=params.prompt,
        seconds=_length(params),
        size=params.resolution,
        created_at=int(row.created_at.timestamp()),
        completed_at=_unix(row.finished_at),
        expires_at=_unix(expires),
        remixed_from_video_id=params.remixed_from,
        error=_failure(row),
    )


def page(videos: list[Video], has_more: bool) -> VideoPage:
    ends = (videos[0].id, videos[-1].id) if videos else (None, None)
    return VideoPage(data=videos, has_more=has_more, first_id=ends[0], last_id=ends[1])


def poll_after_ms(seconds_left: float | None) -> int:
    """Return when to poll again, in milliseconds: a tenth of the remaining time, from 0.5 to 5 s; 1 s if unknown.

    At most 5 s, because the client keeps using the value of the first response.
    """
    if seconds_left is None:
        return int(_POLL_SECONDS * 1000)
    shortest, longest = _POLL_RANGE
    return int(min(max(seconds_left * _POLL_SHARE, shortest), longest) * 1000)


def _failure(row: Job) -> VideoFailure | None:
    if row.status == JobState.CANCELLED:
        return VideoFailure(code="cancelled", message="The video was cancelled")
    if row.status == JobState.FAILED and row.error:
        return VideoFailure(code=row.error["code"], message=row.error["message"])
    return None


def _length(params: GenerationParams) -> str:
    return f"{(params.frames - 1) / params.fps:.3f}".rstrip("0").rstrip(".")


def _unix(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment is not None else None
