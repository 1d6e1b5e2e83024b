"""What the model information routes and the dashboard take and answer with.

Beside each group of figures stands a `basis`: for each of them `measured` (counted from stored rows included),
`catalogue` or `none`; and `samples`, from how many jobs the measured ones come.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from api.schemas.alerts import SystemAlert
from api.schemas.fields import Asked, Basis, Percent, Public, Score, Time
from api.schemas.models import Recommendation
from shared.insight.assessment import Status
from shared.management.fallback import Level, Speed
from wanworks.requests import NOT_BLANK, PLAIN, OutputFormat, Quantization

# --- requests


def _decimal(value: Any) -> Any:
    """A number as JSON writes it; what else `float` would read (NaN, underscores, spaces) is refused."""
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,4})?", value):
        raise ValueError("must be a number such as 12 or 11.5")
    return value


class RecommendQuery(Asked):
    """What somebody wants to make, and what matters to them."""

    use_case: Annotated[
        str,
        Field(
            min_length=1,
            max_length=500,
            description="In your own words.",
            examples=["animate product photos"],
        ),
        PLAIN,
        NOT_BLANK,
    ]
    quality_priority: Annotated[Level, Field(description="How much quality matters.")] = "medium"
    speed_priority: Annotated[Speed, Field(description="How much speed matters.")] = "medium"
    memory_constraint_gb: Annotated[
        float | None,
        Field(gt=0, le=100_000, allow_inf_nan=False, description="Device memory that there is, in 10^9 bytes."),
        BeforeValidator(_decimal),
    ] = None


# --- capabilities


class HardwareRequirements(Public):
    """From the catalogue, in GB of 10^9 bytes. The least: under the leanest memory profile."""

    min_vram_gb: float
    recommended_vram_gb: float
    min_ram_gb: float
    cuda_compute_capability: str


class Defaults(Public):
    """What a request that leaves these out gets."""

    resolution: str
    frames: int
    fps: int
    steps: int
    guidance_scale: float
    guidance_scale_2: float | None
    flow_shift: float


class ModelCapabilities(Public):
    """What a model can be asked for here, from the catalogue. A feature that is `true` is one that is delivered."""

    model_id: str
    model_type: str
    supported_resolutions: list[str]
    min_frames: int
    max_frames: int
    supported_fps: list[int]
    input_types: list[Literal["text", "image"]]
    output_formats: list[OutputFormat]
    quantization_support: Annotated[list[Quantization], Field(description="`none` is the model's native type.")]
    lora_support: bool
    controlnet_support: bool
    inpainting_support: bool
    img2img_support: Annotated[bool, Field(description="Whether it makes videos from a given image.")]
    text2img_support: Annotated[bool, Field(description="Whether it makes videos from text alone.")]
    batch_processing: Annotated[
        bool, Field(description="Whether one request makes several videos. Many requests may be queued, always.")
    ]
    streaming_support: Annotated[
        bool,
        Field(description="Whether a video can be watched while it is made. Its progress can, always (`/events`)."),
    ]
    hardware_requirements: HardwareRequirements
    image: Annotated[Literal["refused", "optional", "required"], Field(description="What becomes of an input image.")]
    min_steps: int
    max_steps: int
    defaults: Defaults
    download_size_gb: Annotated[float, Field(description="Of all its files, in 10^9 bytes.")]
    notes: str
    basis: dict[str, Basis]
    samples: int


# --- health


class ModelHealthMetrics(Public):
    """How well a model is now, and over 24 hours. `samples`: uses in these."""

    model_id: str
    health_status: Status
    last_check: Annotated[Time | None, Field(description="The last look at its files, by name or by checksum.")]
    integrity_score: Annotated[Score | None, Field(description="Verified bytes over expected bytes, best replica.")]
    performance_score: Annotated[Score | None, Field(description="Of its latest uses, at most 20.")]
    availability_score: Annotated[Score | None, Field(description="Replicas that can serve over replicas held.")]
    health_score: Annotated[Score | None, Field(description="Availability x integrity x success rate.")]
    error_count_24h: Annotated[int, Field(ge=0, description="Uses that failed.")]
    success_rate_24h: Score | None
    average_response_time_ms: Annotated[
        float | None, Field(description="From request to finished video, waiting included; successes of 24 hours.")
    ]
    memory_usage_mb: Annotated[
        float | None, Field(description="In use on the devices that have it loaded or run it, summed; 10^6 bytes.")
    ]
    gpu_utilization_percent: Annotated[
        Percent | None, Field(description="Mean over these devices; of a CPU device, of one core, at most 100.")
    ]
    temperature_celsius: Annotated[float | None, Field(description="Of the hottest of these devices.")]
    issues: list[str]
    recommendations: list[str]
    devices: Annotated[list[str], Field(description="The devices that were sampled, as node/index.")]
    device_kinds: Annotated[list[Literal["cuda", "cpu"]], Field(description="What they are.")]
    basis: dict[str, Basis]
    samples: int


# --- performance


class ModelPerformance(Public):
    """What a model has shown over 30 days; mocks and cancelled jobs count for nothing. `samples`: successes."""

    model_id: str
    benchmark_date: Annotated[Time | None, Field(description="When the newest of these successes ended.")]
    generation_time_avg_seconds: float | None
    generation_time_p95_seconds: Annotated[
        float | None, Field(description="By nearest rank; of more than 1,000 successes, within 4.5 %.")
    ]
    throughput_videos_per_hour: Annotated[
        float | None, Field(description="Of one device: successes over the hours that all uses took.")
    ]
    memory_efficiency_score: Annotated[Score | None, Field(description="1 - peak / total of the devices' memory.")]
    gpu_utilization_avg_percent: Percent | None
    power_consumption_watts: Annotated[float | None, Field(description="Mean while it ran.")]
    quality_score: Annotated[
        Score | None, Field(description="Technical, of its latest 20 successes; it says nothing of taste.")
    ]
    stability_score: Annotated[Score | None, Field(description="Success rate x median / p95 of its latest 20 uses.")]
    performance_score: Score | None
    memory_average_mb: Annotated[float | None, Field(description="On its device while it ran, in 10^6 bytes.")]
    memory_peak_mb: float | None
    hardware_profile: Annotated[str | None, Field(description="The devices of its latest successes.")]
    optimization_level: Annotated[str | None, Field(description="The memory profiles of these.")]
    basis: dict[str, Basis]
    samples: int
    device_samples: Annotated[int, Field(description="Readings of devices behind memory, utilisation and power.")]


class ModelComparison(Public):
    """Every difference is b relative to a; null where either was not measured. `samples`: successes by model."""

    model_a: str
    model_b: str
    comparison_date: Time
    performance_difference_percent: Annotated[float | None, Field(description="Of `throughput_videos_per_hour`.")]
    quality_difference_score: float | None
    memory_usage_difference_mb: Annotated[float | None, Field(description="Of `memory_peak_mb`.")]
    speed_difference_percent: Annotated[
        float | None, Field(description="Of the megapixels x frames x steps done in a second, loading left out.")
    ]
    recommendation: str
    use_cases: dict[str, str]
    trade_offs: list[str]
    basis: dict[str, Basis]
    samples: dict[str, int]


# --- recommendation


class ExpectedPerformance(Public):
    """What the model has shown; null where it was never measured."""

    generation_time_seconds: float | None
    quality_score: Score | None
    throughput_videos_per_hour: float | None
    memory_efficiency: Score | None
    basis: dict[str, Basis]
    samples: int


class ScoredModel(Public):
    """How one model was weighed: each part from 0 to 1, and their weighted mean."""

    score: Score
    input: Annotated[Score, Field(description="How well what it takes fits the words of the use case.")]
    quality: Score
    speed: Score
    readiness: Score


class ModelRecommendation(Public):
    """Which model to take. `recommended_model` null: none fits, and `reasoning` says why."""

    recommended_model: str | None
    confidence_score: Score | None
    reasoning: list[str]
    alternative_models: Annotated[list[str], Field(description="The others that fit, best first.")]
    hardware_requirements: HardwareRequirements | None
    expected_performance: ExpectedPerformance
    limitations: list[str]
    scores: Annotated[dict[str, ScoredModel], Field(description="Of every model that fits.")]
    basis: Annotated[dict[str, Basis], Field(description="What quality and speed were weighed by.")]


# --- the whole


class ModelInsight(Public):
    """One model, all in all."""

    capabilities: ModelCapabilities
    health: ModelHealthMetrics
    performance: ModelPerformance


class SystemOverview(Public):
    """Over the catalogue. `samples`: models that have a performance score."""

    total_models: int
    healthy_models: int
    average_performance_score: Score | None
    system_status: Status
    basis: dict[str, Basis]
    samples: int


class InsightDashboard(Public):
    """Everything at once."""

    timestamp: Time
    models: dict[str, ModelInsight]
    system_overview: SystemOverview
    alerts: Annotated[list[SystemAlert], Field(description="Open ones, most severe first.")]
    recommendations: list[Recommendation]


class InsightStatus(Public):
    """Whether videos can be made, and with which models."""

    status: Status
    available_models: list[str]
    api_version: str
    timestamp: Time
