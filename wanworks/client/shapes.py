"""Types of the API's responses, with the fields that clients read; other fields are kept too.

Times are ISO 8601 in UTC. Figures that were not measured are None.
"""

from typing import Any, Literal, NotRequired, Required, TypedDict

from wanworks.states import JOB_ENDS, JobState


class Progress(TypedDict):
    percent: float | None
    phase: str | None
    step: int | None
    steps: int | None
    eta_seconds: float | None
    bytes_done: int | None
    bytes_total: int | None
    bytes_per_second: float | None


class JobError(TypedDict):
    code: str
    message: str
    retryable: bool


class ArtifactLink(TypedDict):
    name: str
    url: str
    bytes: int
    sha256: str
    content_type: str


class SharedLink(TypedDict):
    url: str
    expires_at: str


class JobResult(TypedDict):
    artifacts: list[ArtifactLink]
    width: int
    height: int
    frames: int
    fps: float
    seed: int


class JobEstimate(TypedDict):
    basis: Literal["measured", "derived", "none"]
    samples: int
    how: str


class WaitingFor(TypedDict):
    reason: str
    detail: str
    open_devices: NotRequired[int | None]


class Job(TypedDict):
    id: str
    type: str
    status: str
    model_id: str | None
    priority: str
    params: dict[str, Any]
    progress: Progress
    queue_position: int | None
    queue_position_approximate: bool | None
    waiting_for: WaitingFor | None
    estimated_start: str | None
    estimated_end: str | None
    estimate: JobEstimate | None
    attempt: int
    max_attempts: int
    retry_backoff_seconds: NotRequired[float | None]
    gpu_seconds: NotRequired[float | None]
    node: str | None
    device: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    error: JobError | None
    result: JobResult | None
    retry_of: str | None
    retried_as: NotRequired[str | None]
    batch_id: NotRequired[str | None]
    job_ids: NotRequired[list[str]]
    metadata: dict[str, str]


class JobPage(TypedDict):
    data: list[Job]
    has_more: bool
    next: str | None


class FlowSummary(TypedDict):
    id: str
    name: str | None
    state: str
    progress_percent: float
    counts: dict[str, int]
    retries: int
    created_at: str
    started_at: str | None
    finished_at: str | None
    metadata: dict[str, str]


class FlowJob(TypedDict):
    name: str
    id: str
    earlier_ids: list[str]
    url: str
    type: str | None
    model_id: str | None
    state: str
    progress_percent: float
    depends_on: list[str]
    waits_for: list[str]
    on_failure: str
    frame_of: dict[str, Any] | None
    last_frame_of: NotRequired[dict[str, Any] | None]
    started_at: str | None
    finished_at: str | None
    error: dict[str, Any] | None


class Flow(FlowSummary):
    eta_seconds: float | None
    jobs: list[FlowJob]


class FlowPage(TypedDict):
    data: list[FlowSummary]
    has_more: bool
    next: str | None


class FlowJobFields(TypedDict, total=False):
    """One job of a new flow. `params` is the body that the job's own route takes."""

    name: Required[str]
    type: Literal["generation", "download", "integrity-check", "cleanup", "prepare"]
    params: Required[dict[str, Any]]
    depends_on: list[str]
    on_failure: Literal["skip", "continue"]


class LogLine(TypedDict):
    time: str
    level: str
    process: str
    message: str


class NodeLog(TypedDict):
    """The last lines of a node's logs, oldest first, and the names of the processes that have one."""

    node: str
    processes: list[str]
    lines: list[LogLine]


class DeviceRow(TypedDict):
    node: str
    index: int
    name: str
    worker: str
    state: str
    job: str | None
    finishing_job: NotRequired[str | None]
    warm: list[dict[str, Any]]
    faults: int
    quarantined_at: str | None
    quarantine_reason: str | None
    paused_at: str | None
    pause_reason: str | None
    paused_until: str | None
    last_seen: str | None


class NodeRow(TypedDict):
    name: str
    state: str
    io_online: bool
    drained_at: str | None
    running_jobs: int
    version: str
    disk_free_mb: float | None
    last_seen: str | None


class Workers(TypedDict):
    devices: list[DeviceRow]
    nodes: list[NodeRow]


class Node(NodeRow):
    devices: list[DeviceRow]


class QueueRow(TypedDict):
    priority: str
    model_id: str | None
    queued: int
    waiting_for_model: int
    running: int
    oldest_age_seconds: float | None


class Pause(TypedDict):
    id: str
    scope: str
    value: str | None
    reason: str
    running: str
    created_at: str
    created_by: str
    until: str | None


class Queues(TypedDict):
    queued: int
    running: int
    waiting_for_model: int
    held: int
    pauses: list[Pause]
    oldest_age_seconds: float | None
    queues: list[QueueRow]


class Alert(TypedDict):
    id: str
    severity: str
    model_id: str | None
    title: str
    message: str
    timestamp: str
    acknowledged: bool
    acknowledged_at: str | None
    acknowledged_by: str | None
    resolved_at: str | None
    suggested_action: str


class Lora(TypedDict, total=False):
    name: Required[str]
    scale: float


class LoraFile(TypedDict):
    expert: str
    sha256: str
    bytes: int
    keys: int
    rank: int | None
    base: str | None
    experts: list[str]
    source: str
    origin: str


class StoredLora(TypedDict):
    """A LoRA that requests may name. `id` is None for a file in the operator's folder."""

    id: str | None
    name: str
    description: str
    source: str
    files: list[LoraFile]
    bytes: int | None
    mine: bool
    owner: str | None
    shared: bool
    shared_with: list[str]
    created_at: str | None


PriorityName = Literal["critical", "high", "normal", "low"]


class GenerationFields(TypedDict, total=False):
    """The fields of a generation request; pictures are passed separately. Omitted fields take the model's own value."""

    model_id: Required[str]
    prompt: Required[str]
    negative_prompt: str
    resolution: str
    fit: Literal["cover", "contain", "auto"]
    frames: int
    fps: int
    output_format: Literal["mp4", "webm"]
    steps: int
    guidance_scale: float
    guidance_scale_2: float
    flow_shift: float
    seed: int
    count: int
    quantization: Literal["none", "fp16", "bf16", "int8", "fp8"]
    speed: Literal["exact", "balanced", "fast"]
    devices_per_job: Literal[1, 2, 4, 8]
    loras: list[Lora]
    priority: PriorityName
    max_attempts: int
    retry_backoff_seconds: float
    fallback: list[str]
    start_after: str
    start_before: str
    webhook_url: str
    webhook_progress: bool
    preview: bool
    metadata: dict[str, str]


class JobFilter(TypedDict, total=False):
    """Filters of a list of jobs. None, like omitting a filter, means any."""

    type: str | None
    status: str | None
    model_id: str | None
    created_after: str | None
    created_before: str | None
    batch_id: str | None
    key: str | None


class BulkFilter(JobFilter, total=False):
    """Filters of an action on many jobs."""

    ids: list[str] | None


BulkActionName = Literal["cancel", "retry", "delete", "set_priority"]


class BulkResult(TypedDict):
    dry_run: bool
    action: BulkActionName
    matched: int
    would_change: int | None  # of a dry run
    changed: int
    skipped: dict[str, int]
    detail: str | None
    ids: list[str]
    job_id: str | None


class BatchCounts(TypedDict):
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int


class BatchJob(TypedDict):
    id: str
    status: str


class BatchSummary(TypedDict):
    id: str
    name: str
    status: str
    total: int
    counts: BatchCounts
    percent: float
    created_at: str
    cancel_requested_at: str | None
    finished_at: str | None
    artifacts_url: str


class Batch(BatchSummary):
    jobs: list[BatchJob]


class BatchPage(TypedDict):
    data: list[BatchSummary]
    has_more: bool
    next: str | None


def ended(job: Job) -> bool:
    return job["status"] in JOB_ENDS


def succeeded(job: Job) -> bool:
    return job["status"] == JobState.SUCCEEDED


def why_not(job: Job) -> str:
    """Return in a sentence why a job has not succeeded."""
    error = job["error"]
    return f"job {job['id']} {job['status']}" + (f": {error['message']} ({error['code']})" if error else "")


def artifacts_of(job: Job) -> list[ArtifactLink]:
    """Return the job's files; none for a job that has not succeeded, or of a type that makes none."""
    artifacts: list[ArtifactLink] = (job["result"] or {"artifacts": []}).get("artifacts", [])
    return artifacts


def video_of(job: Job) -> ArtifactLink | None:
    """Return the job's video; None if it has none."""
    return next((one for one in artifacts_of(job) if one["content_type"].startswith("video/")), None)


class GalleryFilter(TypedDict, total=False):
    """Filters of finished videos. None, like omitting a filter, means any."""

    q: str | None
    model_id: str | None
    size: str | None
    lora: str | None
    favourite: bool | None
    collection: str | None
    finished_after: str | None
    finished_before: str | None


class GalleryVideo(TypedDict):
    id: str
    prompt: str
    model_id: str
    size: str
    frames: int
    fps: int
    steps: int
    seed: int
    loras: list[dict[str, Any]]
    mock: bool
    created_at: str
    finished_at: str
    favourite: bool
    collections: list[str]
    video: ArtifactLink | None
    thumbnail: ArtifactLink | None


class GalleryWindow(TypedDict):
    data: list[GalleryVideo]
    total: int
    is_more: bool
    has_more: bool
    next: str | None
    as_of: str
    looked_through: int | None


class Collection(TypedDict):
    id: str
    name: str
    videos: int
    created_at: str
