"""Requests and responses of the job routes. They define the public names and units, independent of the tables.

Times are ISO 8601 in UTC with a trailing ``Z``. Values that were not measured are null.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.fields import ResponseModel, Time
from api.schemas.jobs.checkpoints import CheckpointStep, PreemptedField, ResumedFromStep
from api.schemas.jobs.results import DownloadResult, GenerationResult
from shared.catalogue.job_types import (
    AppliedFallback,
    CleanupParams,
    DownloadParams,
    IntegrityCheckParams,
    PrepareParams,
)  # fmt: skip
from shared.states import JobState, Priority
from wanworks.requests import Fit, Lora, OutputFormat, Quantization, Speed


class FileProgress(ResponseModel):
    """The progress of one file of a download, in bytes."""

    path: str
    done: int
    total: int


class JobProgress(ResponseModel):
    """The progress of a job. `percent` never decreases within one attempt."""

    percent: Annotated[float, Field(ge=0, le=100)]
    phase: str | None = None
    step: int | None = None
    steps: int | None = None
    eta_seconds: float | None = None
    bytes_done: int | None = None
    bytes_total: int | None = None
    bytes_per_second: float | None = None
    files: list[FileProgress] = Field(default_factory=list, description="The files that a download is fetching now.")


class JobError(ResponseModel):
    """Why a job failed. `code` is stable, `message` is for people."""

    code: str
    message: str
    retryable: bool


class LinkRequest(BaseModel):
    """Settings of a signed link to an artifact."""

    model_config = ConfigDict(extra="forbid")

    expires_in_seconds: Annotated[
        int, Field(ge=1, le=7 * 24 * 3600, strict=True, description="Validity of the link; at most a week.")
    ] = 3600


class ArtifactLink(ResponseModel):
    """A link to download one file without an API key."""

    url: str
    expires_at: Time


class Params(ResponseModel):
    """The settings of a generation, with defaults filled in and the seed chosen."""

    model_id: str
    prompt: str
    negative_prompt: str | None
    image: Annotated[bool, Field(description="Whether the job has an image.")]
    last_image: Annotated[bool, Field(description="Whether it has a picture with which the video ends.")]
    fit: Annotated[Fit | None, Field(description="How the pictures meet the size. Null: there is none.")]
    resolution: Annotated[
        str, Field(examples=["1280x720"], description="Under `fit: auto`, the size that follows the picture's shape.")
    ]
    frames: int
    fps: int
    output_format: OutputFormat
    steps: int
    guidance_scale: float
    guidance_scale_2: float | None
    flow_shift: float
    seed: int
    quantization: Quantization
    speed: Annotated[Speed, Field(description="The speed tier.")]
    devices_per_job: Annotated[int, Field(description="How many devices compute it together.")]
    loras: list[Lora]
    fallback: list[str]
    preview: Annotated[bool, Field(description="Whether it shows previews while it denoises.")]
    remixed_from: Annotated[str | None, Field(description="The job whose settings were reused with another prompt.")]


class WaitingFor(ResponseModel):
    """Why a queued job has not started."""

    reason: Annotated[
        Literal["device", "memory", "model", "limit", "backoff", "pause", "start_time", "window", "dependency"],
        Field(
            description="`device`: those that fit it are busy, offline or drained. `memory`: no registered device has "
            "the memory. `model`: no node has the model. `limit`: its node runs as many jobs of this type, or "
            "its API key as many jobs, as it may. `backoff`: it failed, and is tried again later. `pause`: a pause "
            "covers it. `start_time`: it may not start before `start_after`. `window`: it is of low priority, and "
            "waits for the daily window in which such jobs start. `dependency`: other jobs of its flow, which "
            "`detail` names, must end first."
        ),
    ]
    detail: str
    open_devices: Annotated[
        int | None,
        Field(
            exclude_if=lambda value: value is None,
            description="Of `device` and `memory` alone: how many of the devices that fit the job accept jobs; 0: it "
            "waits until one does.",
        ),
    ] = None


class JobEstimate(ResponseModel):
    """How `estimated_start` and `estimated_end` were reckoned."""

    basis: Annotated[
        Literal["measured", "derived", "none"],
        Field(
            description="`measured`: from jobs of this model, tier and number of devices. `derived`: from others, or "
            "by the position in a long queue. `none`: nothing is known; `how` says why."
        ),
    ]
    samples: Annotated[int, Field(description="Number of measured jobs behind the duration, at most 20.")]
    how: str


class AttemptEnd(ResponseModel):
    """An attempt that has ended."""

    attempt: int
    started_at: Time | None
    ended_at: Time
    node: str | None
    device: str | None
    outcome: Annotated[
        Literal["lost", "returned", "preempted", "paused", "succeeded", "failed", "cancelled"],
        Field(description="`lost`: it crashed, or its worker was lost. `returned`: a stop, a drain or a pause."),
    ]
    reason: str | None
    resumed_from_step: Annotated[
        int | None, Field(description="The step of a checkpoint from which it continued. Null: it began anew.")
    ] = None
    checkpoint_step: Annotated[
        int | None,
        Field(description="The step of the job's latest checkpoint when it ended, from which the next may continue."),
    ] = None


class Job(ResponseModel):
    """A job: a generation, a benchmark, a download, an integrity check, a cleanup, a preparation or a bulk action."""

    id: Annotated[str, Field(description="The id of the job, and of its Celery task.")]
    type: str
    status: JobState
    model_id: Annotated[str | None, Field(description="Null: all models.")]
    priority: Priority
    mock: Annotated[bool, Field(description="Whether the job creates labelled placeholder output without a model.")]
    params: Annotated[
        Params | DownloadParams | IntegrityCheckParams | CleanupParams | PrepareParams | dict[str, Any],
        Field(description="The parameters; their fields depend on the job's type."),
    ]
    fallback_applied: Annotated[
        list[AppliedFallback], Field(description="Changes to the request because its model was not ready.")
    ]
    bandwidth_limit_mbps: Annotated[float | None, Field(description="Of a download, in 10^6 bits per second.")]
    paused_by: Annotated[str | None, Field(description="`owner`, or `disk_full`: the job resumes when there is space.")]
    progress: JobProgress
    queue_position: Annotated[
        int | None,
        Field(description="Number of queued jobs that start before this one; null once it has left the queue."),
    ]
    queue_position_approximate: Annotated[
        bool | None,
        Field(
            description="Whether the position is an estimate by priority and age, without fairness between owners. "
            "Positions among the first thousand are exact."
        ),
    ]
    waiting_for: Annotated[WaitingFor | None, Field(description="Null: the job is not queued.")] = None
    estimated_start: Annotated[
        Time | None, Field(description="When a queued job is expected to start, some seconds ago. Null: unknown.")
    ] = None
    estimated_end: Annotated[Time | None, Field(description="When it is expected to end. Null: unknown.")] = None
    estimate: Annotated[
        JobEstimate | None, Field(description="Null: the job is not queued, or was accepted just now.")
    ] = None
    start_after: Annotated[Time | None, Field(description="The job does not start before this time.")] = None
    start_before: Annotated[
        Time | None, Field(description="If the job has not started by then, it fails with the code `expired`.")
    ] = None
    moved_to_front_at: Annotated[Time | None, Field(description="When it was moved before all other jobs.")] = None
    attempt: int
    max_attempts: Annotated[int, Field(description="Number of crashes and lost workers after which the job fails.")]
    retry_backoff_seconds: Annotated[
        float | None, Field(description="Delay after the first of them; it doubles. Null: the installation's own.")
    ]
    failures: Annotated[int, Field(description="Number of crashes and lost workers so far.")]
    node: str | None
    worker: str | None
    device: str | None
    gang: Annotated[list[str], Field(description="Of a job on several devices: each one's NODE/INDEX.")] = []
    preempted: PreemptedField = 0
    checkpoint_step: CheckpointStep = None
    resumed_from_step: ResumedFromStep = None
    created_at: Time
    started_at: Annotated[Time | None, Field(description="Of the last attempt.")]
    first_started_at: Annotated[Time | None, Field(description="Of the first attempt.")] = None
    finished_at: Time | None
    attempt_history: Annotated[
        list[AttemptEnd],
        Field(description="The ended attempts of a job that needed more than one: the first and the last 19."),
    ] = []
    gpu_seconds: Annotated[
        float | None,
        Field(
            description="Of a generation: how long its last attempt has held its devices, summed. Null: not started."
        ),
    ]
    error: JobError | None
    result: Annotated[
        GenerationResult | DownloadResult | dict[str, Any] | None,
        Field(description="The result; its fields depend on the job's type."),
    ]
    retry_of: str | None
    retried_as: Annotated[str | None, Field(description="The newest job that repeats it after its end.")] = None
    flow_id: Annotated[str | None, Field(description="The flow that it belongs to.")] = None
    batch_id: Annotated[str | None, Field(description="The batch with which it was submitted.")] = None
    metadata: dict[str, str]


class JobPage(ResponseModel):
    """A page of jobs. Pass `next` as `after` to get the next page."""

    data: list[Job]
    has_more: bool
    next: str | None
    looked_at: Annotated[
        int | None, Field(description="Of a search: how many jobs this page has looked at. Null: no search.")
    ] = None


class JobCount(ResponseModel):
    """How many jobs match."""

    count: int
    is_exact: Annotated[bool, Field(description="False: there are more. Such filters are counted up to 10000.")]
    by_status: Annotated[
        dict[JobState, int] | None,
        Field(description="Without the filter `status`. Null: with `created_after`, `created_before` or `batch_id`."),
    ]
