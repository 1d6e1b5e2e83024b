"""What the API answers with. A row never leaves as it is: names, units and words here are the public ones.

Times are ISO 8601 in UTC with a trailing ``Z``. Null stands where nothing has been measured, never a typical value.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from api.http.query import JOB_ID, cursor, digits
from shared import clock
from shared.catalogue.job_types import (
    CLEANUP,
    DOWNLOAD,
    GENERATION,
    INTEGRITY_CHECK,
    JOB_TYPES,
    PLAIN,
    AppliedFallback,
    CleanupParams,
    DownloadParams,
    GenerationParams,
    IntegrityCheckParams,
    Lora,
)
from shared.catalogue.models import OutputFormat, Quantization
from shared.database.tables import Job as JobRow
from shared.jobs.queue_positions import Position
from shared.states import JobState, Priority

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-01-31T12:00:00.000Z"])]


class _Public(BaseModel):
    model_config = ConfigDict(frozen=True)


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


class FileProgress(_Public):
    """How far one file of a download is, in bytes."""

    path: str
    done: int
    total: int


class JobProgress(_Public):
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


class JobError(_Public):
    """Why a job failed; `code` is stable."""

    code: str
    message: str
    retryable: bool


class Artifact(_Public):
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


class ArtifactLink(_Public):
    """A link that lets whoever has it fetch one file, and nothing else, without a key."""

    url: str
    expires_at: Time


class QualityChecks(_Public):
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


class QualityMeasures(_Public):
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


class Quality(_Public):
    """The technical quality of the video, measured on the frames that were made. It says nothing of taste."""

    score: Annotated[float, Field(ge=0.0, le=1.0)]
    checks: QualityChecks
    measures: QualityMeasures


class UnappliedKey(_Public):
    """One key of a LoRA file that changed nothing, and why."""

    key: str
    reason: str


class AppliedLora(_Public):
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


class PromptTokens(_Public):
    """How much of a prompt the model reads."""

    tokens: Annotated[int, Field(description="Of the whole prompt, its end mark included.")]
    limit: Annotated[int, Field(description="How many the model reads.")]
    cut: Annotated[int, Field(description="How many at the end it did not read.")]


class PromptsTokens(_Public):
    """The tokens of both prompts."""

    prompt: PromptTokens
    negative_prompt: Annotated[PromptTokens | None, Field(description="Null: not used, since there is no guidance.")]


class GenerationResult(_Public):
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


class Params(_Public):
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


class DownloadResult(_Public):
    """What a download fetched. `bytes_total`: the revision's; `bytes_fetched`: what came over the wire."""

    revision: str
    files: int
    bytes_total: int
    bytes_fetched: int
    seconds: float
    refetched: Annotated[list[str], Field(description="Files that came wrong and were fetched again.")]


class Job(_Public):
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


class JobPage(_Public):
    """Jobs, newest first. `next` goes into `after` to read on."""

    data: list[Job]
    has_more: bool
    next: str | None


class DeviceSample(_Public):
    """What was last read from the device, or of the worker's processes on a CPU; null where it does not tell."""

    timestamp: Time
    utilization_percent: Annotated[float | None, Field(description="On a CPU of one core, so it may pass 100.")]
    memory_used_mb: float | None
    memory_total_mb: float | None
    temperature_celsius: float | None
    power_watts: float | None
    phase: Annotated[str | None, Field(description="Of the job that ran there.")]


class DeviceStatus(_Public):
    """One GPU, or CPU stand-in, and the worker that is pinned to it."""

    node: str
    index: int
    kind: Literal["cuda", "cpu"]
    uuid: str
    name: str
    memory_mb: int
    worker: str
    pid: int
    visible: Annotated[str, Field(description="CUDA_VISIBLE_DEVICES as the worker process sees it.")]
    state: Annotated[
        Literal["idle", "busy", "draining", "drained", "offline"],
        Field(description="`draining`: finishes its job and takes no other; `drained`: has done so."),
    ]
    job: Annotated[str | None, Field(description="Id of the job that runs there.")]
    warm: list[dict[str, Any]]
    sample: Annotated[DeviceSample | None, Field(description="Null where nothing was read lately.")] = None
    last_seen: Time | None
    started_at: Time


class NodeStatus(_Public):
    """One host with its model storage. Disk sizes are in MB of 10^6 bytes."""

    name: str
    version: str
    state: Literal["online", "draining", "drained", "offline"]
    io_online: Annotated[
        bool,
        Field(description="Whether its io worker is heard, which alone does downloads, checks and clean-ups there."),
    ]
    drained_at: Annotated[Time | None, Field(description="Since when it takes nothing new, also while offline.")]
    running_jobs: Annotated[int, Field(description="Generations and the node's own jobs.")]
    last_seen: Annotated[Time | None, Field(description="Its io worker. Null: not yet, or stopped in good order.")]
    started_at: Time
    disk_total_mb: float | None
    disk_free_mb: float | None


class Workers(_Public):
    """Every device and node that has ever registered."""

    devices: list[DeviceStatus]
    nodes: list[NodeStatus]


class Node(NodeStatus):
    """A node with its devices."""

    devices: list[DeviceStatus]


class Nodes(_Public):
    """Every node that has registered and was not removed."""

    nodes: list[Node]


class QueueDepth(_Public):
    """What waits and runs for one model at one priority."""

    priority: Priority
    model_id: Annotated[str | None, Field(description="Null: jobs for every model.")]
    queued: int
    waiting_for_model: Annotated[int, Field(description="Of the queued ones: no node holds the model.")]
    running: int
    oldest_age_seconds: Annotated[float | None, Field(description="How long the first of the queued ones has waited.")]


class Queues(_Public):
    """Queue depths, most urgent first; an empty list where nothing waits or runs."""

    queued: int
    running: int
    waiting_for_model: int
    oldest_age_seconds: float | None
    queues: list[QueueDepth]


class Health(_Public):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(_Public):
    """Whether jobs are accepted and worked on. `reasons` says what is missing where it is degraded."""

    status: Literal["ok", "degraded"]
    reasons: list[str]


class WrongField(_Public):
    """One wrong field: where it is, what is wrong, and the kind of mistake."""

    loc: list[str | int]
    msg: str
    type: str


class Problem(_Public):
    """RFC 9457. `code` is stable, `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str


class ValidationProblem(Problem):
    """A problem that names each wrong field."""

    errors: list[WrongField]


def job(row: JobRow, progress: JobProgress, position: Position | None, public_path: str) -> Job:
    """A row as its owner sees it; addresses in it begin with the public path."""
    return Job(
        id=row.id,
        type=row.type,
        status=JobState(row.status),
        model_id=row.model_id,
        priority=list(Priority)[row.priority],
        mock=row.mock,
        params=_PARAMS.get(row.type, _unknown_params)(row.params),
        fallback_applied=[AppliedFallback.model_validate(each) for each in row.params.get("fallback_applied", ())],
        bandwidth_limit_mbps=row.bandwidth_mbps,
        paused_by=row.paused_by,
        progress=progress,
        queue_position=position.ahead if position is not None else None,
        queue_position_approximate=position.approximate if position is not None else None,
        attempt=row.attempt,
        max_attempts=row.max_failures,
        failures=row.failures,
        node=row.node,
        worker=row.worker,
        device=row.device,
        created_at=clock.iso(row.created_at) or "",
        started_at=clock.iso(row.started_at),
        finished_at=clock.iso(row.finished_at),
        error=JobError.model_validate(row.error) if row.error else None,
        result=_result(row, public_path) if row.result else None,
        retry_of=row.retry_of,
        metadata=row.labels,
    )


def _params(stored: dict[str, Any]) -> Params:
    params = GenerationParams.model_validate(stored)
    shared = params.model_dump(include=set(Params.model_fields) - {"image", "resolution"})
    return Params(**shared, image=params.image is not None, resolution=params.resolution)


def _unknown_params(stored: dict[str, Any]) -> dict[str, Any]:
    """Of a job whose type a newer version has brought: as they are stored."""
    return stored


_PARAMS: dict[
    str, Callable[[dict[str, Any]], Params | DownloadParams | IntegrityCheckParams | CleanupParams | dict[str, Any]]
] = {
    GENERATION: _params,
    DOWNLOAD: DownloadParams.model_validate,
    INTEGRITY_CHECK: IntegrityCheckParams.model_validate,
    CLEANUP: CleanupParams.model_validate,
}


def _result(row: JobRow, public_path: str) -> GenerationResult | DownloadResult | dict[str, Any]:
    result = row.result or {}
    if row.type == GENERATION:
        return _generation_result(row.id, result, public_path)
    return DownloadResult.model_validate(result) if row.type == DOWNLOAD else result


def _generation_result(job_id: str, result: dict[str, Any], public_path: str) -> GenerationResult:
    """Figures that the worker did not measure are null."""
    artifacts = [
        Artifact(
            name=item["name"],
            kind=item.get("kind"),
            url=f"{public_path}/api/v1/jobs/{job_id}/artifacts/{item['name']}",
            bytes=item["bytes"],
            sha256=item["sha256"],
            content_type=item["content_type"],
        )
        for item in result.get("artifacts", [])
    ]
    figures = {name: result.get(name) for name in GenerationResult.model_fields}
    lists: dict[str, Any] = {
        "timings": result.get("timings") or {},
        "loras": result.get("loras") or [],
        "notes": result.get("notes") or [],
    }
    return GenerationResult(**{**figures, **lists, "artifacts": artifacts, "mock": bool(result.get("mock"))})
