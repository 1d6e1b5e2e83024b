"""Requests and responses of the model information routes and the dashboard.

Each group of values has a `basis`, which says for each value whether it was `measured` (or counted from stored rows),
comes from the `catalogue`, or is unknown (`none`); and `samples`, the number of jobs behind the measured values.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from api.schemas.fields import Basis, Percent, RequestModel, ResponseModel, Score, Time
from api.schemas.models.models import Recommendation
from api.schemas.ops.alerts import SystemAlert
from shared.insight.assessment import Status
from shared.management.fallback_types import Level, Speed
from wanworks.requests import NOT_BLANK, PLAIN, OutputFormat, Quantization
from wanworks.requests import Speed as SpeedTier

# --- requests


def _decimal(value: Any) -> Any:
    """Accept a number in JSON's notation. Refuses what `float` reads beyond that: NaN, underscores, spaces."""
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,4})?", value):
        raise ValueError("must be a number such as 12 or 11.5")
    return value


class RecommendQuery(RequestModel):
    """The use case and its priorities."""

    use_case: Annotated[
        str,
        Field(
            min_length=1,
            max_length=500,
            description="A description in natural language.",
            examples=["animate product photos"],
        ),
        PLAIN,
        NOT_BLANK,
    ]
    quality_priority: Annotated[Level, Field(description="The importance of quality.")] = "medium"
    speed_priority: Annotated[Speed, Field(description="The importance of speed.")] = "medium"
    memory_constraint_gb: Annotated[
        float | None,
        Field(gt=0, le=100_000, allow_inf_nan=False, description="Available device memory, in 10^9 bytes."),
        BeforeValidator(_decimal),
    ] = None


# --- capabilities


class HardwareRequirements(ResponseModel):
    """Requirements from the catalogue, in GB of 10^9 bytes. Minima apply to the leanest memory profile."""

    min_vram_gb: float
    recommended_vram_gb: float
    min_ram_gb: float
    cuda_compute_capability: str


class Defaults(ResponseModel):
    """The values of fields that a request leaves out."""

    resolution: str
    frames: int
    fps: int
    steps: int
    guidance_scale: float
    guidance_scale_2: float | None
    flow_shift: float


class PresetLora(ResponseModel):
    """The LoRA of a preset, one file for each expert."""

    repo: str
    revision: str
    high_noise: Annotated[str | None, Field(description="The file of the high-noise expert, or of the only one.")]
    low_noise: str | None
    scale: float
    size_gb: Annotated[float, Field(description="Of all its files, by the catalogue, in 10^9 bytes.")]


class Preset(ResponseModel):
    """What an entry fixes that runs another entry's weights."""

    extends: Annotated[str, Field(description="The model whose weights it runs. Switching to it loads nothing.")]
    fixed: Annotated[
        dict[str, float],
        Field(description="Parameters that a request cannot change, with their values."),
    ]
    lora: PresetLora | None
    forward_passes: Annotated[float, Field(description="Of a video with the defaults: two for each guided step.")]
    forward_passes_of_base: float


class ModelCapabilities(ResponseModel):
    """What a model supports in this installation, from the catalogue."""

    model_id: str
    model_type: str
    supported_resolutions: list[str]
    min_frames: int
    max_frames: int
    supported_fps: list[int]
    input_types: list[Literal["text", "image"]]
    output_formats: list[OutputFormat]
    quantization_support: Annotated[list[Quantization], Field(description="`none` is the model's native data type.")]
    speed_support: Annotated[list[SpeedTier], Field(description="The speed tiers.")]
    lora_support: bool
    controlnet_support: bool
    inpainting_support: bool
    img2img_support: Annotated[bool, Field(description="Whether it generates videos from an image.")]
    text2img_support: Annotated[bool, Field(description="Whether it generates videos from text alone.")]
    batch_processing: Annotated[
        bool, Field(description="Whether one request can produce several videos. Any number of requests can be queued.")
    ]
    streaming_support: Annotated[
        bool,
        Field(
            description="Whether a video can be watched during generation. Progress is always available (`/events`)."
        ),
    ]
    hardware_requirements: HardwareRequirements
    image: Annotated[
        Literal["refused", "optional", "required"],
        Field(description="Whether an input image is refused, optional or required."),
    ]
    min_steps: int
    max_steps: int
    defaults: Defaults
    download_size_gb: Annotated[float, Field(description="Size of all its files, in 10^9 bytes.")]
    notes: str
    caveat: Annotated[
        str | None, Field(description="What has not been proven about it, such as `not tried with real weights`.")
    ]
    preset: Annotated[Preset | None, Field(description="Null: it runs weights of its own.")]
    basis: dict[str, Basis]
    samples: int


# --- health


class ModelHealthMetrics(ResponseModel):
    """The health of a model now and over 24 hours. `samples` is the number of its generations in 24 hours."""

    model_id: str
    health_status: Status
    last_check: Annotated[Time | None, Field(description="When its files were last checked, by name or by checksum.")]
    integrity_score: Annotated[
        Score | None, Field(description="Verified bytes divided by expected bytes, of the best replica.")
    ]
    performance_score: Annotated[Score | None, Field(description="From its latest generations, at most 20.")]
    availability_score: Annotated[Score | None, Field(description="Usable replicas divided by all replicas.")]
    health_score: Annotated[Score | None, Field(description="Availability x integrity x success rate.")]
    error_count_24h: Annotated[int, Field(ge=0, description="Failed generations.")]
    success_rate_24h: Score | None
    average_response_time_ms: Annotated[
        float | None,
        Field(description="Average from request to finished video, including the wait; successes of 24 hours."),
    ]
    memory_usage_mb: Annotated[
        float | None,
        Field(description="Sum of the used memory of the devices that have loaded or run it, in 10^6 bytes."),
    ]
    gpu_utilization_percent: Annotated[
        Percent | None, Field(description="Average over these devices; on a CPU, of one core, at most 100.")
    ]
    temperature_celsius: Annotated[float | None, Field(description="Temperature of the hottest of these devices.")]
    issues: list[str]
    recommendations: list[str]
    devices: Annotated[list[str], Field(description="The sampled devices, as node/index.")]
    device_kinds: Annotated[list[Literal["cuda", "cpu"]], Field(description="The kinds of these devices.")]
    basis: dict[str, Basis]
    samples: int


# --- performance


class ModelPerformance(ResponseModel):
    """The performance of a model over 30 days, without placeholder output and cancelled jobs.

    `samples` is the number of successes.
    """

    model_id: str
    benchmark_date: Annotated[Time | None, Field(description="When the newest of these successes ended.")]
    generation_time_avg_seconds: float | None
    generation_time_p95_seconds: Annotated[
        float | None, Field(description="By nearest rank; with more than 1,000 successes, accurate to 4.5 %.")
    ]
    throughput_videos_per_hour: Annotated[
        float | None, Field(description="For one device: successes divided by the hours that all generations took.")
    ]
    memory_efficiency_score: Annotated[
        Score | None, Field(description="1 - peak memory / total memory of the devices.")
    ]
    gpu_utilization_avg_percent: Percent | None
    power_consumption_watts: Annotated[float | None, Field(description="Average while it ran.")]
    quality_score: Annotated[
        Score | None, Field(description="Technical quality of its latest 20 successes; does not judge the content.")
    ]
    stability_score: Annotated[
        Score | None, Field(description="Success rate x median / p95 of its latest 20 generations.")
    ]
    performance_score: Score | None
    memory_average_mb: Annotated[float | None, Field(description="Average on its device while it ran, in 10^6 bytes.")]
    memory_peak_mb: float | None
    hardware_profile: Annotated[str | None, Field(description="The devices of its latest successes.")]
    optimization_level: Annotated[str | None, Field(description="The memory profiles of its latest successes.")]
    basis: dict[str, Basis]
    samples: int
    device_samples: Annotated[int, Field(description="Number of device samples behind memory, utilisation and power.")]


class ModelComparison(ResponseModel):
    """A comparison of two models. Differences are b relative to a, and null if either was not measured.

    `samples` is the number of successes of each model.
    """

    model_a: str
    model_b: str
    comparison_date: Time
    performance_difference_percent: Annotated[
        float | None, Field(description="Difference of `throughput_videos_per_hour`.")
    ]
    quality_difference_score: float | None
    memory_usage_difference_mb: Annotated[float | None, Field(description="Difference of `memory_peak_mb`.")]
    speed_difference_percent: Annotated[
        float | None, Field(description="Difference of megapixels x frames x steps denoised per second.")
    ]
    recommendation: str
    use_cases: dict[str, str]
    trade_offs: list[str]
    basis: dict[str, Basis]
    samples: dict[str, int]


# --- recommendation


class ExpectedPerformance(ResponseModel):
    """The measured performance of the model; null where it was never measured."""

    generation_time_seconds: float | None
    quality_score: Score | None
    throughput_videos_per_hour: float | None
    memory_efficiency: Score | None
    basis: dict[str, Basis]
    samples: int


class ScoredModel(ResponseModel):
    """The scores of one model, each from 0 to 1, and their weighted average."""

    score: Score
    input: Annotated[Score, Field(description="How well its inputs match the use case.")]
    quality: Score
    speed: Score
    readiness: Score


class ModelRecommendation(ResponseModel):
    """The recommended model. If `recommended_model` is null, no model fits, and `reasoning` explains why."""

    recommended_model: str | None
    confidence_score: Score | None
    reasoning: list[str]
    alternative_models: Annotated[list[str], Field(description="Other models that fit, best first.")]
    hardware_requirements: HardwareRequirements | None
    expected_performance: ExpectedPerformance
    limitations: list[str]
    scores: Annotated[dict[str, ScoredModel], Field(description="Scores of all models that fit.")]
    basis: Annotated[dict[str, Basis], Field(description="The source of the quality and speed scores.")]


# --- the whole


class ModelInsight(ResponseModel):
    """All information on one model."""

    capabilities: ModelCapabilities
    health: ModelHealthMetrics
    performance: ModelPerformance


class SystemOverview(ResponseModel):
    """Counts over the catalogue. `samples` is the number of models with a performance score."""

    total_models: int
    healthy_models: int
    average_performance_score: Score | None
    system_status: Status
    basis: dict[str, Basis]
    samples: int


class InsightDashboard(ResponseModel):
    """All models, alerts and recommendations."""

    timestamp: Time
    models: dict[str, ModelInsight]
    system_overview: SystemOverview
    alerts: Annotated[list[SystemAlert], Field(description="Open alerts, most severe first.")]
    recommendations: list[Recommendation]


class InsightStatus(ResponseModel):
    """Whether videos can be generated, and with which models."""

    status: Status
    available_models: list[str]
    api_version: str
    timestamp: Time
