"""The job types: for each, its parameters, its Celery task, and where it runs.

A new job type is one row in `JOB_TYPES` and one handler and task in `workers/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from shared.catalogue.entries import passes_per_step
from wanworks.requests import (
    FallbackStrategy,
    Fit,
    Lora,
    Number,
    OutputFormat,
    Quantization,
    Speed,
    Whole,
)


class Change(BaseModel):
    """A field whose value differs from the request."""

    model_config = ConfigDict(frozen=True)

    field: str
    asked: str | None
    used: str | None


class AppliedFallback(BaseModel):
    """A fallback strategy that was applied when the job was accepted, and what it changed."""

    model_config = ConfigDict(frozen=True)

    strategy: FallbackStrategy
    message: str
    changes: tuple[Change, ...] = ()
    job_id: str | None = None  # of the download that was started or is already running


FRAME_GROUP = 4  # frames that the models' video encoder combines, after the first

Frame = Literal["first", "last"] | Whole
"""A frame of a video: its first, its last, or one by its number from 0 on."""


def frame_file(frame: Frame) -> str:
    """Return the name of the artifact that keeps the frame of a video."""
    return f"frame-{frame}.png"


class FrameOf(BaseModel):
    """A frame of another job of the same flow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: str  # its name in the flow
    frame: Frame = "last"


class LoraFile(BaseModel):
    """A file of a LoRA of the library. Its bytes are in the store under its SHA-256."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str  # of the LoRA
    expert: Literal["both", "high", "low"]
    sha256: str
    bytes: Whole


class GenerationParams(BaseModel):
    """The stored parameters of a generation, with all defaults and the seed filled in."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model_id: str
    weights_id: str | None = None  # of a preset: the entry whose weights it runs
    prompt: str
    negative_prompt: str | None = None
    image: str | None = None  # the input's name in the store, not the client's path
    image_of: FrameOf | None = None  # where the image comes from; `image` is set once the other job has succeeded
    image_sha256: str | None = None  # of such an image
    last_image: str | None = None  # the picture with which the video ends, and where it comes from: as of `image`
    last_image_of: FrameOf | None = None
    last_image_sha256: str | None = None
    fit: Fit | None = None  # how the pictures meet the size; None: `cover`, or there is no picture
    asked_resolution: str | None = None  # of `auto`: the size whose area was asked for
    keep_frames: tuple[Frame, ...] = ()  # frames that are kept as artifacts, for other jobs of its flow
    width: Whole
    height: Whole
    frames: Whole
    fps: Whole
    output_format: OutputFormat
    steps: Whole
    guidance_scale: Number
    guidance_scale_2: Number | None = None
    flow_shift: Number
    seed: Whole
    quantization: Quantization
    speed: Speed = "exact"
    devices_per_job: Whole = 1
    loras: tuple[Lora, ...] = ()
    lora_files: tuple[LoraFile, ...] = ()  # of those from the library, as they were when the job was accepted
    fallback: tuple[str, ...] = ()
    fallback_applied: tuple[AppliedFallback, ...] = ()
    preview: bool = True  # whether previews are shown while it denoises; decides nothing else
    remixed_from: str | None = None  # the job whose parameters were taken, with another prompt

    @property
    def has_inputs(self) -> bool:
        """Whether pictures of it are in the store."""
        return self.image is not None or self.last_image is not None

    @property
    def resolution(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def work(self) -> float:
        """Megapixels x frames x steps; a step without guidance counts half. Denoising takes time in proportion."""
        share = passes_per_step(self.guidance_scale, self.guidance_scale_2) / 2
        return self.width * self.height * self.frames * self.steps * share / 1e6

    @property
    def volume(self) -> float:
        """Megapixels x frames. Decoding and encoding the video take time in proportion, whatever the steps."""
        return self.width * self.height * self.frames / 1e6

    @property
    def model_cache_key(self) -> str:
        """What must be loaded to run this: the weights and their quantization."""
        return f"{self.weights_id or self.model_id}:{self.quantization}"


class DownloadParams(BaseModel):
    """Download a model, or one revision of it, to a node."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_id: str
    node: str
    revision: str | None = None  # None: the catalogue's, which the node then uses
    sha: str | None = None  # the commit that the hub returned when the job first ran


class IntegrityCheckParams(BaseModel):
    """Verify one model on a node, or all of its models."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_id: str | None = None
    node: str
    full: bool = True  # False: files that are unchanged since they were last verified are not read
    repair: bool = False  # download broken files again, and only these


class CleanupParams(BaseModel):
    """Free space on a node, by the plan that the cleanup route returns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: str
    target_space_gb: Number | None = None  # free space to reach, in 10^9 bytes; None: remove all unneeded files
    keep_recent_days: Whole = 30
    dry_run: bool = True


class PrepareParams(BaseModel):
    """Write copies of a model's weights on a node in the form in which they are loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_id: str
    node: str
    quantization: Literal["bf16", "int8", "fp8"] = "bf16"


class BenchmarkParams(GenerationParams):
    """Run each tier on one device with the same prompts and seeds, and compare it with `exact`."""

    tiers: tuple[Speed, ...] = ("balanced", "fast")
    runs: Whole = 3  # prompts for each tier

    @property
    def work(self) -> float:
        """As of a generation, for all runs: each tier has a run that is not counted before the others."""
        return super().work * self._videos

    @property
    def volume(self) -> float:
        """Likewise."""
        return super().volume * self._videos

    @property
    def _videos(self) -> int:
        return (self.runs + 1) * (len(self.tiers) + 1)


class LoraFetchParams(BaseModel):
    """Fetch a file of a LoRA from the hub (`repo`, `file`) or from a URL, and add it to the library."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: str
    name: str
    expert: Literal["both", "high", "low"] = "both"
    description: str = ""
    repo: str | None = None
    file: str | None = None
    revision: str = "main"
    url: str | None = None
    with_token: bool = False  # whether the hub gets the installation's token, which serves administrators alone


BulkAction = Literal["cancel", "retry", "delete", "set_priority"]


class BulkParams(BaseModel):
    """Do something to many jobs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    action: BulkAction
    filter: dict[str, Any]  # `shared.jobs.bulk.Selection`
    priority: str | None = None  # of `set_priority`
    of_nodes: bool = False  # whether jobs of nodes may be retried, which needs the scope `admin`


GENERATION = "generation"
DOWNLOAD = "download"
INTEGRITY_CHECK = "integrity_check"
CLEANUP = "cleanup"
PREPARE = "prepare"
BENCHMARK = "benchmark"
BULK = "bulk"
LORA_FETCH = "lora_fetch"


@dataclass(frozen=True)
class JobType:
    """One job type. Those that run in a web process have no task."""

    name: str
    task: str  # the Celery task's name
    runs_on: Literal["device", "node", "web"]
    params: type[BaseModel]  # as they are stored


JOB_TYPES: Mapping[str, JobType] = {
    GENERATION: JobType(GENERATION, "wanworks.generation", "device", GenerationParams),
    DOWNLOAD: JobType(DOWNLOAD, "wanworks.download", "node", DownloadParams),
    INTEGRITY_CHECK: JobType(INTEGRITY_CHECK, "wanworks.integrity_check", "node", IntegrityCheckParams),
    CLEANUP: JobType(CLEANUP, "wanworks.cleanup", "node", CleanupParams),
    PREPARE: JobType(PREPARE, "wanworks.prepare", "node", PrepareParams),
    BENCHMARK: JobType(BENCHMARK, "wanworks.benchmark", "device", BenchmarkParams),
    LORA_FETCH: JobType(LORA_FETCH, "wanworks.lora_fetch", "node", LoraFetchParams),
    BULK: JobType(BULK, "wanworks.bulk", "web", BulkParams),
}
