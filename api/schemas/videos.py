"""What the `/v1/videos` routes take and answer: the shapes that the `openai` client speaks, over the same job rows.

Names, units and words here are that convention's: unix seconds, `seconds` and `size` as text, four states.
"""

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from api.http.query import JOB_ID, digits
from api.schemas.fields import Public
from api.schemas.jobs import JobProgress
from shared.catalogue.job_types import GenerationParams
from shared.database.tables import Job
from shared.states import JobState, Priority
from wanworks.requests import NOT_BLANK, PLAIN, FallbackStrategy, Lora, Number, OutputFormat, Quantization, Seed

_SECONDS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6})?")
_POLL_SECONDS = 1.0  # what the client does where it is told nothing
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
        raise ValueError("is no video's id")
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
    """A picture that lies somewhere else."""

    model_config = ConfigDict(extra="forbid")

    image_url: Annotated[
        str | None, Field(description="http(s)://..., fetched by the server, or data:image/png;base64,...")
    ] = None
    file_id: Annotated[str | None, Field(description="Not offered: files are not kept here.")] = None


class VideoRequest(BaseModel):
    """A video as the convention asks for it, with the extension fields of self-hosted servers."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[
        Annotated[str, Field(min_length=1, max_length=128), PLAIN] | None,
        Field(description="A model's id, alias, or name on the Hub. Left out: the first one that suits the request."),
    ] = None
    prompt: Prompt
    input_reference: Annotated[
        str | ImageReference | None, Field(description="In a form a file; or a URL, a data URL, or an object of one.")
    ] = None
    image_reference: Annotated[
        str | ImageReference | None, Field(description="The same by its other name; one of the two.")
    ] = None
    seconds: Annotated[
        Seconds | None,
        Field(
            description="Length, at `fps` or the model's own; becomes the nearest 4k+1 frames. Not looked at beside "
            "`num_frames`."
        ),
    ] = None
    size: Annotated[str, Field(max_length=32, examples=["1280x720"])] | None = None
    width: Annotated[int, Field(strict=True, ge=1, le=99_999)] | None = None
    height: Annotated[int, Field(strict=True, ge=1, le=99_999)] | None = None
    num_frames: Annotated[int, Field(strict=True, ge=1, le=100_000)] | None = None
    fps: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = None
    num_inference_steps: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = None
    guidance_scale: Annotated[
        Scale | None, Field(description="As in diffusers: of the high-noise expert, where there are two.")
    ] = None
    guidance_scale_2: Annotated[Scale | None, Field(description="As in diffusers: of the low-noise expert.")] = None
    flow_shift: Annotated[Number, Field(gt=0, le=100)] | None = None
    negative_prompt: Annotated[str, Field(max_length=5000), PLAIN] | None = None
    seed: Seed = None
    output_format: OutputFormat | None = None
    quantization: Quantization | None = None
    loras: Annotated[list[Lora], Field(max_length=8)] | None = None
    priority: Priority | None = None
    fallback: Annotated[list[FallbackStrategy], Field(max_length=6)] | None = None
    webhook_url: Annotated[str, Field(max_length=2000)] | None = None
    webhook_progress: Annotated[bool, Field(strict=True)] | None = None
    metadata: (
        Annotated[
            dict[
                Annotated[str, Field(min_length=1, max_length=64), PLAIN], Annotated[str, Field(max_length=512), PLAIN]
            ],
            Field(max_length=16),
        ]
        | None
    ) = None


# Form values that stay text; the others are read as JSON where they are JSON.
TEXTS = frozenset(
    {"model", "prompt", "negative_prompt", "seconds", "size", "output_format", "quantization", "priority"}
) | {"webhook_url"}


class RemixRequest(BaseModel):
    """The same video once more, to another prompt."""

    model_config = ConfigDict(extra="forbid")

    prompt: Prompt


class VideosQuery(BaseModel):
    """Which videos to list."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=100, description="Videos on a page."), BeforeValidator(digits)] = 20
    after: Annotated[
        str | None,
        AfterValidator(_cursor),
        Field(description="The `last_id` of the page before.", json_schema_extra={"pattern": f"^{JOB_ID.pattern}$"}),
    ] = None
    order: Annotated[Literal["asc", "desc"], Field(description="By time of creation.")] = "desc"


class ContentQuery(BaseModel):
    """Which of a video's files."""

    model_config = ConfigDict(extra="forbid")

    variant: Annotated[
        Literal["video", "thumbnail", "spritesheet"],
        Field(description="The video, the picture in its middle, or one sheet of up to nine."),
    ] = "video"


class VideoFailure(Public):
    """Why there is no video; `code` is stable, and `cancelled` where somebody asked for that."""

    code: str
    message: str


class Video(Public):
    """A generation in the convention's words. All else about it is at `/api/v1/jobs/{id}`."""

    id: Annotated[str, Field(description="Also the job's id.")]
    object: Literal["video"] = "video"
    model: str
    status: VideoStatus
    progress: Annotated[int, Field(ge=0, le=100)]
    prompt: str
    seconds: Annotated[str, Field(description="(frames - 1) / fps: what `seconds` asks for.")]
    size: str
    created_at: Annotated[int, Field(description="Unix seconds, as all times here.")]
    completed_at: Annotated[int | None, Field(description="When it ended, also without a video.")]
    expires_at: Annotated[int | None, Field(description="When the files go, by retention.")]
    remixed_from_video_id: str | None
    error: VideoFailure | None


class VideoPage(Public):
    """Videos in the order asked for."""

    object: Literal["list"] = "list"
    data: list[Video]
    has_more: bool
    first_id: str | None
    last_id: Annotated[str | None, Field(description="Goes into `after` to read on.")]


class VideoDeleted(Public):
    """It is gone, its files with it."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class OfferedModel(Public):
    """A model that can be asked for, as the convention lists models."""

    id: Annotated[str, Field(description="The `model_id`.")]
    object: Literal["model"] = "model"
    created: Annotated[int, Field(description="Unix seconds: since when this server process offers it.")]
    owned_by: str = "wanworks"
    aliases: Annotated[tuple[str, ...], Field(description="Its other names; a request may use any of them.")]


class OfferedModels(Public):
    """Every model of the catalogue."""

    object: Literal["list"] = "list"
    data: list[OfferedModel]


class ConventionError(Public):
    """What went wrong; `param` names the field, `code` is stable."""

    message: str
    type: str
    param: str | None
    code: str | None


class ConventionProblem(Public):
    """The envelope that every error of these routes comes in."""

    error: ConventionError


def video(row: Job, progress: JobProgress, retention_days: float) -> Video:
    """A generation's row as a video."""
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
    """When to ask again, in milliseconds: a tenth of what is left, from 0.5 to 5 s; 1 s where nothing is known.

    Never longer, because the client keeps to the first answer's figure until the end.
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
