"""What the API answers with. A row never leaves as it is: names, units and words here are the public ones.

Times are ISO 8601 in UTC with a trailing ``Z``. Null stands where nothing has been measured, never a typical value.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from api.http.query import JOB_ID, cursor, digits
from api.schemas.fields import Public, Time
from shared.catalogue.job_types import JOB_TYPES, AppliedFallback, CleanupParams, DownloadParams, IntegrityCheckParams
from shared.states import JobState, Priority
from wanworks.requests import PLAIN, Lora, OutputFormat, Quantization

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _end(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,15}", value):
        raise ValueError("must be a whole number")
    return value


def _moment(value: Any) -> datetime:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("must be a time such as 2026-01-31T12:00:00Z")
    digits, fraction, rest = re.split(r"(\.\d+)", value) if "." in value else (value, "", "")
    try:
        return datetime.fromisoformat(f"{digits}{fraction[:7]}{rest}".upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("there is no such moment") from None


def _job_type(value: str | None) -> str | None:
    if value is not None and value not in JOB_TYPES:
        raise ValueError(f"there is no such type of job; there are: {', '.join(JOB_TYPES)}")
    return value


class JobsQuery(BaseModel):
    """Which jobs to list."""

    model_config = ConfigDict(extra="forbid")

    type: Annotated[
        str | None,
        AfterValidator(_job_type),
        Field(description="Only jobs of this type.", json_schema_extra={"enum": sorted(JOB_TYPES)}),
    ] = None
    status: Annotated[JobState | None, Field(description="Only jobs in this state.")] = None
    model_id: Annotated[
        Annotated[str, Field(min_length=1, max_length=64), PLAIN] | None, Field(description="Only jobs for this model.")
    ] = None
    created_after: Annotated[
        datetime | None,
        BeforeValidator(_moment),
        Field(description="Only jobs created after this moment (ISO 8601 with an offset or Z)."),
    ] = None
    limit: Annotated[int, Field(ge=1, le=100, description="Jobs on a page."), BeforeValidator(digits)] = 20
    after: Annotated[
        str | None,
        AfterValidator(cursor),
        Field(description="The `next` of the page before.", json_schema_extra={"pattern": f"^{JOB_ID.pattern}$"}),
    ] = None


class ArtifactQuery(BaseModel):
    """What a signed link says of itself: without it, a key is asked for."""

    model_config = ConfigDict(extra="forbid")

    expires: Annotated[
        int | None,
        Field(ge=0, le=999_999_999_999_999, description="Of a signed link: its end, in seconds since 1970."),
        BeforeValidator(_end),
    ] = None
    signature: Annotated[str | None, Field(max_length=64, description="Of a signed link.")] = None


class FileProgress(Public):
    """How far one file of a download is, in bytes."""

    path: str
    done: int
    total: int


class JobProgress(Public):
    """How far a job is. `percent` never goes back within one attempt."""

    percent: Annotated[float, Field(ge=0, le=100)]
    phase: str | None = None
    step: int | None = None
    steps: int | None = None
    eta_seconds: float | None = None
    bytes_done: int | None = None
    bytes_total: int | None = None
    bytes_per_second: float | None = None
    files: Annotated[list[FileProgress], Field(description="Of a download: those that are under way.")] = []


class JobError(Public):
    """Why a job failed; `code` is stable."""

    code: str
    message: str
    retryable: bool


class Artifact(Public):
    """A file that a job made."""

    name: str
    kind: str | None
    url: str
    bytes: int
    sha256: str
    content_type: str


class LinkRequest(BaseModel):
    """A link to an artifact, to be made."""

    model_config = ConfigDict(extra="forbid")

    expires_in_seconds: Annotated[
        int, Field(ge=1, le=7 * 24 * 3600, strict=True, description="How long it is good for; at most a week.")
    ] = 3600


class ArtifactLink(Public):
    """A link that lets whoever has it fetch one file, and nothing else, without a key."""

    url: str
    expires_at: Time


class QualityChecks(Public):
    """What a video is tested for. One that fails any but the last is not delivered: its job fails as `bad_output`."""

    decodable: Annotated[
        bool, Field(description="The file can be opened and read to its end, and its key frames decode.")
    ]
    size: Annotated[bool, Field(description="It has the width and height that were asked for.")]
    frame_count: bool
    frame_rate: bool
    finite: Annotated[bool, Field(description="The model produced numbers throughout, no NaN and no infinity.")]
    not_black: Annotated[bool, Field(description="Some frame is not black.")]
    not_flat: Annotated[bool, Field(description="Some frame shows more than one flat colour.")]
    not_frozen: Annotated[bool, Field(description="Some frame differs from the one before it.")]


class QualityMeasures(Public):
    """What was measured over all frames. Luma counts from 0 to 255. Null: too few frames to measure that on."""

    luma: float
    contrast: Annotated[float, Field(description="Standard deviation of luma within a frame, mean over the frames.")]
    sharpness: Annotated[
        float, Field(description="Variance of the Laplacian over the variance of luma, median over the frames.")
    ]
    frozen_share: Annotated[
        float | None, Field(description="Of the pairs of successive frames, those without a change.")
    ]
    flicker: Annotated[
        float | None, Field(description="How far a frame's mean luma lies off its neighbours', 0 to 1, mean.")
    ]


class Quality(Public):
    """The technical quality of the video, measured on the frames that were made. It says nothing of taste."""

    score: Annotated[float, Field(ge=0.0, le=1.0)]
    checks: QualityChecks
    measures: QualityMeasures


class UnappliedKey(Public):
    """One key of a LoRA file that changed nothing, and why."""

    key: str
    reason: str


class AppliedLora(Public):
    """What one file of a LoRA changed in one transformer of the model."""

    name: str
    scale: float
    file: str
    format: Annotated[str, Field(description="The naming that the file's keys follow.")]
    alpha: Annotated[str, Field(description="Where the alpha stands that the pairs are scaled by.")]
    expert: Annotated[str, Field(description="`high_noise`, `low_noise`, or `only` of a model with one transformer.")]
    keys: Annotated[int, Field(description="The file's keys for this transformer.")]
    keys_applied: int
    keys_not_applied: int
    not_applied: Annotated[list[UnappliedKey], Field(description="The first 100 of those that did not apply.")]


class PromptTokens(Public):
    """How much of a prompt the model reads."""

    tokens: Annotated[int, Field(description="Of the whole prompt, its end mark included.")]
    limit: Annotated[int, Field(description="How many the model reads.")]
    cut: Annotated[int, Field(description="How many at the end it did not read.")]


class PromptsTokens(Public):
    """The tokens of both prompts."""

    prompt: PromptTokens
    negative_prompt: Annotated[PromptTokens | None, Field(description="Null: not used, since there is no guidance.")]


class GenerationResult(Public):
    """What a generation made, how long each phase took in seconds, and all that it takes to make it again."""

    artifacts: list[Artifact]
    width: int | None
    height: int | None
    frames: int | None
    fps: float | None
    duration_seconds: float | None
    seed: int | None
    timings: dict[str, float]
    peak_vram_mb: float | None
    quality: Annotated[Quality | None, Field(description="Null: made before quality was measured.")]
    warm: bool | None
    profile: str | None
    device_name: str | None
    mock: bool
    loras: Annotated[list[AppliedLora], Field(description="For each LoRA file and transformer, what of it applied.")]
    prompt_tokens: Annotated[PromptsTokens | None, Field(description="Null: not counted, as for a mock.")]
    notes: list[str]
    manifest: dict[str, Any] | None


class Params(Public):
    """A generation as it is carried out: every value settled, the seed drawn."""

    model_id: str
    prompt: str
    negative_prompt: str | None
    image: Annotated[bool, Field(description="Whether the job has an image.")]
    resolution: Annotated[str, Field(examples=["1280x720"])]
    frames: int
    fps: int
    output_format: OutputFormat
    steps: int
    guidance_scale: float
    guidance_scale_2: float | None
    flow_shift: float
    seed: int
    quantization: Quantization
    loras: list[Lora]
    fallback: list[str]
    remixed_from: Annotated[str | None, Field(description="The job whose settings these are, with another prompt.")]


class DownloadResult(Public):
    """What a download fetched. `bytes_total`: the revision's; `bytes_fetched`: what came over the wire."""

    revision: str
    files: int
    bytes_total: int
    bytes_fetched: int
    seconds: float
    refetched: Annotated[list[str], Field(description="Files that came wrong and were fetched again.")]


class Job(Public):
    """A durable piece of work that somebody asked for."""

    id: Annotated[str, Field(description="Also the Celery task id.")]
    type: str
    status: JobState
    model_id: Annotated[str | None, Field(description="Null: every model.")]
    priority: Priority
    mock: Annotated[bool, Field(description="A labelled test card instead of a model's work.")]
    params: Annotated[
        Params | DownloadParams | IntegrityCheckParams | CleanupParams | dict[str, Any],
        Field(description="As the job's type has it."),
    ]
    fallback_applied: Annotated[
        list[AppliedFallback], Field(description="What was changed because the model was not ready.")
    ]
    bandwidth_limit_mbps: Annotated[float | None, Field(description="Of a download, in 10^6 bits a second.")]
    paused_by: Annotated[str | None, Field(description="`owner`, or `disk_full`: it goes on when there is room.")]
    progress: JobProgress
    queue_position: Annotated[
        int | None, Field(description="Queued jobs that start before this one; null once it has left.")
    ]
    queue_position_approximate: Annotated[
        bool | None,
        Field(
            description="Whether the position is counted by priority and age, which owners' turns and waiting may "
            "change; positions among the first thousand are exact."
        ),
    ]
    attempt: int
    max_attempts: Annotated[int, Field(description="Crashes and lost workers after which the job is given up.")]
    failures: Annotated[int, Field(description="Crashes and lost workers so far.")]
    node: str | None
    worker: str | None
    device: str | None
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    error: JobError | None
    result: Annotated[
        GenerationResult | DownloadResult | dict[str, Any] | None, Field(description="As the job's type has it.")
    ]
    retry_of: str | None
    metadata: dict[str, str]


class JobPage(Public):
    """Jobs, newest first. `next` goes into `after` to read on."""

    data: list[Job]
    has_more: bool
    next: str | None
