"""What an ended job has made, as answers show it. Values that were not measured are null."""

from typing import Annotated, Any, Literal

from pydantic import Field

from api.schemas.fields import ResponseModel, Time
from api.schemas.jobs.checkpoints import ResumedFromStep
from wanworks.requests import Speed


class Artifact(ResponseModel):
    """A file that a job created."""

    name: str
    kind: str | None
    url: str
    bytes: int
    sha256: str
    content_type: str


class QualityChecks(ResponseModel):
    """The checks of a video. If any but the last fails, the job fails with the code `bad_output`."""

    decodable: Annotated[bool, Field(description="The file can be read to its end, and its key frames can be decoded.")]
    size: Annotated[bool, Field(description="The video has the requested width and height.")]
    frame_count: bool
    frame_rate: bool
    finite: Annotated[bool, Field(description="The model produced no NaN and no infinity.")]
    not_black: Annotated[bool, Field(description="At least one frame is not black.")]
    not_flat: Annotated[bool, Field(description="At least one frame has more than one colour.")]
    not_frozen: Annotated[bool, Field(description="At least one frame differs from the previous one.")]


class QualityMeasures(ResponseModel):
    """Measurements over all frames. Luma is between 0 and 255. Null: too few frames for the measurement."""

    luma: float
    contrast: Annotated[float, Field(description="Standard deviation of luma within a frame, average over the frames.")]
    sharpness: Annotated[
        float, Field(description="Variance of the Laplacian over the variance of luma, median over the frames.")
    ]
    frozen_share: Annotated[
        float | None, Field(description="Share of successive frame pairs that differ by less than 0.05 of 255 levels.")
    ]
    flicker: Annotated[
        float | None, Field(description="Average deviation of a frame's luma from its neighbours', 0 to 1.")
    ]


class Quality(ResponseModel):
    """The technical quality of the video, measured on its frames. Does not judge the content."""

    score: Annotated[float, Field(ge=0.0, le=1.0)]
    checks: QualityChecks
    measures: QualityMeasures


class UnappliedKey(ResponseModel):
    """A key of a LoRA file that was not applied, and why."""

    key: str
    reason: str


class AppliedLora(ResponseModel):
    """How one LoRA file was applied to one transformer of the model."""

    name: str
    scale: float
    file: str
    format: Annotated[str, Field(description="The naming scheme of the file's keys.")]
    alpha: Annotated[str, Field(description="The source of the alpha values that scale the LoRA.")]
    expert: Annotated[str, Field(description="`high_noise` or `low_noise`; `only` for a model with one transformer.")]
    keys: Annotated[int, Field(description="Number of the file's keys for this transformer.")]
    keys_applied: int
    keys_not_applied: int
    not_applied: Annotated[list[UnappliedKey], Field(description="The first 100 keys that were not applied.")]


class PromptTokens(ResponseModel):
    """How much of a prompt the model reads."""

    tokens: Annotated[int, Field(description="Tokens of the whole prompt, including the end token.")]
    limit: Annotated[int, Field(description="Maximum number of tokens that the model reads.")]
    cut: Annotated[int, Field(description="Number of tokens that were cut off at the end.")]


class PromptsTokens(ResponseModel):
    """The numbers of tokens of both prompts."""

    prompt: PromptTokens
    negative_prompt: Annotated[PromptTokens | None, Field(description="Null: not used, because guidance is off.")]


class TierUsed(ResponseModel):
    """What a speed tier uses on a device."""

    attention: Annotated[str, Field(description="diffusers' name of the attention backend; `native`: torch chooses.")]
    compiled: Annotated[bool, Field(description="Whether the transformer's blocks are compiled.")]
    step_cache: Annotated[
        float | None, Field(description="The first-block cache's threshold. Null: every step is computed in full.")
    ]
    decode: Literal["float32", "bfloat16"]
    channels_last: Annotated[bool, Field(description="The decoder's memory format.")]


class TierFigures(ResponseModel):
    """A speed tier compared with `exact` by a benchmark of this installation."""

    seconds: Annotated[float, Field(description="Mean of one run, without loading and encoding the file.")]
    exact_seconds: float
    speedup: Annotated[float, Field(description="`exact_seconds` divided by `seconds`.")]
    ssim_mean: Annotated[float, Field(description="Structural similarity of the frames to those of `exact`.")]
    ssim_min: float
    psnr_mean: Annotated[float | None, Field(description="In dB, over the frames that differ. Null: none does.")]
    psnr_min: float | None
    runs: Annotated[int, Field(description="Number of prompts.")]
    resolution: str
    frames: int
    steps: int
    measured_at: Time
    job_id: Annotated[str, Field(description="The benchmark.")]


TierQuality = Annotated[
    Literal["exact", "close", "not close", "not measured"],
    Field(
        description="`close`: this installation measured a mean SSIM of at least 0.95 and a minimum of at least 0.90 "
        "against `exact`, on this type of device with these settings and libraries."
    ),
]


class TierOfJob(ResponseModel):
    """The speed tier that a job used."""

    tier: Speed
    used: TierUsed
    as_in_catalogue: Annotated[bool, Field(description="False: a part did not work on the device. `notes` say which.")]
    quality: TierQuality
    measured: Annotated[TierFigures | None, Field(description="Null: not measured.")]


class GenerationResult(ResponseModel):
    """The result of a generation: files, duration of each phase in seconds, and a manifest to reproduce it."""

    artifacts: list[Artifact]
    width: int | None
    height: int | None
    frames: int | None
    fps: float | None
    duration_seconds: float | None
    seed: int | None
    timings: dict[str, float]
    peak_vram_mb: float | None
    quality: Annotated[Quality | None, Field(description="Null: created by a version that did not measure it.")]
    warm: bool | None
    profile: str | None
    device_name: str | None
    mock: bool
    loras: Annotated[list[AppliedLora], Field(description="How each LoRA file was applied to each transformer.")]
    prompt_tokens: Annotated[
        PromptsTokens | None, Field(description="Null: not counted, for example for placeholder output.")
    ]
    speed: Annotated[TierOfJob | None, Field(description="Null: placeholder output, or of an earlier version.")]
    resumed_from_step: ResumedFromStep = None
    notes: list[str]
    manifest: dict[str, Any] | None


class DownloadResult(ResponseModel):
    """The result of a download. `bytes_total` is the revision's size, `bytes_fetched` the transferred bytes."""

    revision: str
    files: int
    bytes_total: int
    bytes_fetched: int
    seconds: float
    refetched: Annotated[list[str], Field(description="Files that arrived damaged and were fetched again.")]
    prepared: Annotated[
        dict[str, Any] | None,
        Field(description="The copies of the weights that were written; `error` if they could not be. Null: none."),
    ] = None
