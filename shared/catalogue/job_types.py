"""The job types: for each, its parameters, its Celery task, and where it runs.

A new job type is one row in `JOB_TYPES` and one handler and task in `workers/`.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from shared.catalogue.entries import CatalogueEntry, parse_resolution, passes_per_step
from shared.catalogue.picture_fit import follow_picture, wrong_shape
from shared.errors import FieldError, InvalidField
from wanworks.requests import (
    MAX_SEED,
    FallbackStrategy,
    Fit,
    GenerationRequest,
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


def settle(
    request: GenerationRequest,
    entry: CatalogueEntry,
    image: str | None,
    default_speed: Speed = "exact",
    *,
    last_image: str | None = None,
    picture: tuple[int, int] | None = None,
) -> GenerationParams:
    """Return the request's parameters, with the catalogue's defaults filled in and its limits applied.

    `image`, `last_image`: the stored inputs' names, or None. `default_speed`: the tier of a request that names none.
    `picture`: width and height of the image, which decide the size under `fit: auto`; None: not known.

    Raises InvalidField with each field that the model does not support, the requested value and the allowed values.
    """
    defaults = entry.defaults
    resolution = request.resolution or defaults.resolution
    frames = request.frames if request.frames is not None else defaults.frames
    fps = request.fps if request.fps is not None else defaults.fps
    steps = request.steps if request.steps is not None else defaults.steps
    model = entry.model_id
    wrong: list[FieldError] = []

    def expect(good: bool, field: str, msg: str, type: str = "not_supported") -> None:
        if not good:
            wrong.append(FieldError(("body", field), msg, type))

    def one_of(field: str, value: object, allowed: tuple[object, ...]) -> None:
        expect(
            value in allowed, field, f"{value!r} is not supported by {model}; allowed: {', '.join(map(str, allowed))}"
        )

    one_of("resolution", resolution, entry.resolutions)
    one_of("fps", fps, entry.fps)
    one_of("output_format", request.output_format, entry.output_formats)
    one_of("quantization", request.quantization, entry.quantizations)
    low, high = entry.min_frames, entry.max_frames
    expect(low <= frames <= high, "frames", f"{frames} is not supported by {model}; allowed: {low} to {high}")
    low, high = entry.min_steps, entry.max_steps
    expect(low <= steps <= high, "steps", f"{steps} is not supported by {model}; allowed: {low} to {high}")
    expect(entry.loras or not request.loras, "loras", f"{model} does not support LoRAs")
    names = [lora.name for lora in request.loras]
    expect(len(names) == len(set(names)), "loras", "the same LoRA is named twice", "duplicate")
    two_experts = entry.boundary_ratio is not None
    expect(
        two_experts or request.guidance_scale_2 is None,
        "guidance_scale_2",
        f"{model} has one transformer, so only guidance_scale applies",
    )
    expect(entry.image != "refused" or image is None, "image", f"{model} makes video from text alone, without an image")
    expect(entry.image != "required" or image is not None, "image", f"{model} needs an image", "missing")
    wrong += _wrong_last_image(entry, frames, last_image, image)
    has_size = resolution in entry.resolutions
    expect(
        request.fit is None or image is not None,
        "fit",
        f"{request.fit!r} is only possible with an image, which it fits to the video's size; leave it out",
    )
    asked, size = resolution, resolution
    if request.fit == "auto" and picture is not None and has_size:
        if (shape := wrong_shape(entry, resolution, picture)) is None:
            size = "{}x{}".format(*follow_picture(entry, resolution, picture))
        else:
            wrong.append(shape)
            has_size = False
    for name in entry.fixed:
        given, value = getattr(request, name), getattr(defaults, name)
        other = f", or use {entry.extends}, which does not fix it" if entry.extends is not None else ""
        expect(
            given is None or given == value,
            name,
            f"{given!r} is not supported by {model}, which fixes it; allowed: {value}. Leave it out{other}",
        )
    last_seed = MAX_SEED + 1 - request.count
    expect(
        request.seed is None or request.seed <= last_seed,
        "seed",
        f"{request.seed} is too large for {request.count} seeds from there on; allowed: at most {last_seed}",
    )
    devices = request.devices_per_job if request.devices_per_job is not None else entry.devices_per_job
    one_of("devices_per_job", devices, entry.team_sizes)
    if devices > 1 and request.devices_per_job is None and request.speed not in (None, "exact"):
        devices = 1  # a tier was named, several devices were not
    expect(
        devices == 1 or request.speed in (None, "exact"),
        "speed",
        f"{request.speed!r} is not supported with {devices} devices; allowed: exact. Leave devices_per_job out for it",
    )
    expect(
        not has_size or shares_are_equal(entry, size, frames, devices),
        "devices_per_job",
        f"{devices} devices cannot share {size} with {frames} frames equally; choose another number or size",
    )
    if wrong:
        raise InvalidField(*wrong)

    guidance_scale = _or(request.guidance_scale, defaults.guidance_scale)
    # A first scale that switches guidance off does so for both experts, unless the request has a second one.
    is_off = request.guidance_scale is not None and request.guidance_scale <= 1 and two_experts
    width, height = parse_resolution(size)
    return GenerationParams(
        model_id=model,
        weights_id=entry.extends,
        prompt=request.prompt,
        negative_prompt=_or(request.negative_prompt, defaults.negative_prompt),
        image=image,
        last_image=last_image,
        fit=None if image is None else request.fit or "cover",
        asked_resolution=asked if request.fit == "auto" else None,
        width=width,
        height=height,
        frames=frames,
        fps=fps,
        output_format=request.output_format,
        steps=steps,
        guidance_scale=guidance_scale,
        guidance_scale_2=_or(request.guidance_scale_2, guidance_scale if is_off else defaults.guidance_scale_2),
        flow_shift=_or(request.flow_shift, defaults.flow_shift),
        seed=request.seed if request.seed is not None else secrets.randbelow(MAX_SEED + 2 - request.count),
        quantization=request.quantization,
        speed=request.speed or (default_speed if devices == 1 else "exact"),
        devices_per_job=devices,
        loras=tuple(request.loras),
        fallback=tuple(request.fallback),
        preview=request.preview,
    )


def shares_are_equal(entry: CatalogueEntry, resolution: str, frames: int, devices: int) -> bool:
    """Return whether the tokens of that size can be divided among the devices. Another rule reports a wrong number."""
    if devices not in entry.team_sizes:
        return True
    width, height = (-(-edge // entry.size_multiple) * entry.size_multiple for edge in parse_resolution(resolution))
    per_frame = (width // entry.memory.pixels_per_token) * (height // entry.memory.pixels_per_token)
    return per_frame * (-(-(frames - 1) // 4) + 1) % devices == 0


def _wrong_last_image(
    entry: CatalogueEntry, frames: int, last_image: str | None, image: str | None
) -> list[FieldError]:
    """Return why the video cannot end with a picture: the model, a missing first picture, or the length."""
    if last_image is None:
        return []
    if not entry.takes_last_image:
        msg = f"{entry.model_id} does not take a last image; leave it out, or use a model that always starts from one"
        return [FieldError(("body", "last_image"), msg, "not_supported")]
    wrong = []
    if image is None:
        msg = "is only possible beside `image`, the picture with which the video begins; send both"
        wrong.append(FieldError(("body", "last_image"), msg, "missing"))
    if frames % FRAME_GROUP != 1 and entry.min_frames <= frames <= entry.max_frames:
        below = (frames - 1) // FRAME_GROUP * FRAME_GROUP + 1
        near = [one for one in (below, below + FRAME_GROUP) if entry.min_frames <= one <= entry.max_frames]
        msg = f"{frames} is not possible with `last_image`: the model makes 4k + 1 frames, and the last one would be "
        msg += f"cut off; allowed: {' or '.join(map(str, near))}"
        wrong.append(FieldError(("body", "frames"), msg, "not_supported"))
    return wrong


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


def _or(value: float | str | None, default: Any) -> Any:
    return default if value is None else value
