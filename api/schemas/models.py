"""What the model management routes take and answer with. Words and fields are those that clients were promised.

Beside each group of figures stands a `basis`: for each of them `measured` (counted from stored rows included),
`catalogue` or `none`; and `samples`, from how many jobs the measured ones come.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, RootModel

from api.http.query import digits
from api.schemas.jobs import Job, Time
from shared.catalogue.job_types import PLAIN
from shared.catalogue.models import parse_resolution
from shared.insight.health import HealthStatus
from shared.management.fallback import Level, Speed, Strategy
from shared.states import Priority

Availability = Literal[
    "available", "updating", "downloading", "paused", "queued", "corrupted", "failed", "missing", "unknown"
]
Basis = Literal["measured", "catalogue", "none"]
Score = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1, max_length=64), PLAIN]
NodeName = Annotated[str, Field(min_length=1, max_length=64, description="A node's name."), PLAIN]
Mbps = Annotated[
    float, Field(strict=True, ge=0.01, le=100_000, allow_inf_nan=False, description="In Mbps (10^6 bits a second).")
]


def _resolution(text: str) -> str:
    parse_resolution(text)
    return text


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Public(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


# --- requests


class DownloadRequest(_Asked):
    """Fetch a model to a node. Without `node`: to the only one that is online."""

    model_id: Name
    node: NodeName | None = None
    revision: (
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="A commit, branch or tag.")]
        | None
    ) = None
    priority: Priority = Priority.NORMAL
    bandwidth_limit_mbps: Mbps | None = None


class IntegrityCheckRequest(_Asked):
    """Verify one model, or all. Without `node`: on every node that is online."""

    model_id: Annotated[Name, Field(description="`all`, like leaving it out, means every model.")] | None = None
    node: NodeName | None = None
    full: Annotated[bool, Field(strict=True, description="False: files untouched since their last check pass.")] = True
    repair: Annotated[bool, Field(strict=True, description="Fetch again what is broken, and only that.")] = False


class CleanupRequest(_Asked):
    """Make room in the nodes' model storage. Nothing is removed unless `dry_run` is false."""

    target_space_gb: (
        Annotated[
            float,
            Field(strict=True, ge=0, le=1e9, allow_inf_nan=False, description="Free space wanted, in 10^9 bytes."),
        ]
        | None
    ) = None
    keep_recent_days: Annotated[int, Field(strict=True, ge=0, le=36500, description="Models used since stay.")] = 30
    dry_run: Annotated[bool, Field(strict=True)] = True
    node: NodeName | None = None


class ManageRequest(_Asked):
    """Steer the download of a model. Without `node`: on every node."""

    model_id: Name
    action: Literal["pause", "resume", "cancel", "priority", "bandwidth"]
    priority: Annotated[Priority, Field(description="For the action `priority`.")] | None = None
    bandwidth_limit_mbps: Annotated[Mbps, Field(description="For the action `bandwidth`.")] | None = None
    node: NodeName | None = None


class FallbackRequest(_Asked):
    """What is wanted of a model that may not be there."""

    requested_model: Name
    quality: Level = "medium"
    speed: Speed = "medium"
    resolution: Annotated[
        str,
        Field(max_length=32, pattern=r"^[1-9]\d{0,4}x[1-9]\d{0,4}$", examples=["1280x720"]),
        AfterValidator(_resolution),
    ] = "1280x720"
    max_wait_minutes: Annotated[float, Field(strict=True, ge=0, le=100_000, allow_inf_nan=False)] | None = None


class AnalyticsQuery(_Asked):
    """Over which time."""

    time_period_days: Annotated[
        int, Field(ge=1, le=3650, description="Days in UTC, today included."), BeforeValidator(digits)
    ] = 30


# --- status


class ReplicaStatus(_Public):
    """One model's files on one node. `size_mb` in 10^6 bytes."""

    node: str
    online: bool
    availability_status: Availability
    size_mb: float
    missing_files: list[str]
    integrity_score: Score | None
    revision: str | None
    last_health_check: Time | None
    last_verified: Annotated[Time | None, Field(description="When checksums were last compared.")]
    corruption_types: list[str]
    download_progress: float | None
    download_job_id: str | None


class ModelStatus(_Public):
    """One model, by its best replica. `size_mb` in 10^6 bytes, times in seconds."""

    model_id: str
    availability_status: Availability
    is_available: bool
    is_loaded: bool
    size_mb: float
    download_progress: Annotated[float | None, Field(ge=0, le=100, description="Percent; null: none is under way.")]
    missing_files: list[str]
    integrity_score: Annotated[Score | None, Field(description="Verified bytes over expected bytes.")]
    last_health_check: Time | None
    performance_score: Score | None
    corruption_detected: bool
    usage_frequency: Annotated[float, Field(ge=0, description="Uses a day over 30 days.")]
    last_used: Time | None
    average_generation_time: Annotated[float | None, Field(description="Seconds, over 30 days.")]
    can_pause_download: bool
    can_resume_download: bool
    estimated_download_time: Annotated[float | None, Field(description="Seconds until the running download is done.")]
    current_version: Annotated[str | None, Field(description="A commit.")]
    latest_version: Annotated[str | None, Field(description="The newest commit that the hub has told of.")]
    latest_version_checked_at: Annotated[Time | None, Field(description="When the hub last answered.")]
    update_available: bool
    pinned: Annotated[bool, Field(description="Whether cleanup leaves it alone.")]
    loaded_on: Annotated[list[str], Field(description="Devices, as node/index.")]
    replicas: list[ReplicaStatus]
    basis: dict[str, Basis]
    samples: int


class SystemStatistics(_Public):
    """Counts over the catalogue; `total_size_gb` is what lies on all nodes, in 10^9 bytes."""

    total_models: int
    available_models: int
    downloading_models: int
    corrupted_models: int
    total_size_gb: float
    last_updated: Time


class DetailedStatus(_Public):
    """Every model of the catalogue."""

    models: dict[str, ModelStatus]
    system_statistics: SystemStatistics
    timestamp: Time


# --- health


class ModelHealth(_Public):
    """How well a model is, and what would repair it."""

    model_id: str
    health_status: HealthStatus
    is_healthy: bool
    integrity_score: Score | None
    issues: list[str]
    corruption_types: list[str]
    last_check: Time | None
    repair_suggestions: list[str]
    can_auto_repair: bool
    success_rate: Annotated[Score | None, Field(description="Of its latest uses, at most 20.")]
    basis: dict[str, Basis]
    samples: int


class SystemHealth(_Public):
    """Counts over the catalogue. `storage_usage_percent`: of all online nodes' model storage."""

    overall_health_score: Score | None
    models_healthy: int
    models_degraded: int
    models_corrupted: int
    models_missing: int
    models_unknown: int
    storage_usage_percent: float | None
    last_updated: Time
    basis: dict[str, Basis]


class Recommendation(_Public):
    """What an operator should do."""

    type: str
    priority: Literal["critical", "high", "medium", "low"]
    message: str
    action: str
    model_id: str | None


class LibraryHealth(_Public):
    """How well the models are."""

    system_health: SystemHealth
    model_health: dict[str, ModelHealth]
    recommendations: list[Recommendation]
    timestamp: Time


# --- downloads


class ManagedDownload(_Public):
    """One download after what was asked of it."""

    node: str
    job_id: str
    current_status: Availability
    progress_percent: float
    priority: Priority
    bandwidth_limit_mbps: float | None


class Managed(_Public):
    """What was reached within two seconds; `success` false: it is asked for, but not reached yet."""

    success: bool
    message: str
    model_id: str
    action: str
    current_status: Availability
    progress_percent: float
    downloads: list[ManagedDownload]
    timestamp: Time


class Pinned(_Public):
    """Whether cleanup leaves a model alone, and since when."""

    model_id: str
    pinned: bool
    pinned_at: Time | None


class Jobs(_Public):
    """The jobs that were made, one for each node."""

    data: list[Job]


class JobOrJobs(RootModel[Job | Jobs]):
    """One job, or where several nodes were meant, one for each."""


# --- analytics


class TimePeriod(_Public):
    """Whole days in UTC, the present one as far as it has come."""

    start_date: Time
    end_date: Time
    days: int


class SystemAnalytics(_Public):
    """Over all models."""

    total_uses: int
    average_uses_per_day: float
    most_used_model: str | None
    active_models: Annotated[int, Field(description="Models with a use in the period.")]


class DayUsage(_Public):
    """One day in UTC; `avg_time` in seconds over its successes."""

    date: Annotated[str, Field(json_schema_extra={"format": "date"})]
    uses: int
    avg_time: float | None
    success_rate: Score | None


class ModelAnalytics(_Public):
    """One model's uses. `average_generation_time` in seconds over its successes."""

    model_id: str
    total_uses: int
    uses_per_day: float
    average_generation_time: float | None
    success_rate: Score | None
    last_30_days_usage: Annotated[list[DayUsage], Field(description="The last 30 days that have a use, oldest first.")]
    peak_usage_hours: Annotated[list[int], Field(description="Of the day in UTC, busiest first, at most three.")]
    basis: dict[str, Basis]
    samples: int


class Analytics(_Public):
    """How much each model was used, and how that ended. Mocks and cancelled jobs are no uses."""

    time_period: TimePeriod
    system_analytics: SystemAnalytics
    model_analytics: dict[str, ModelAnalytics]
    timestamp: Time


# --- cleanup


class CleanupAction(_Public):
    """One removal, planned or carried out. `space_freed_gb` in 10^9 bytes."""

    action_type: Literal["remove_revision", "remove_partial", "remove_artifacts", "remove_model"]
    model_id: str | None
    space_freed_gb: float
    reason: str
    last_used: Time | None
    node: str


class KeptModel(_Public):
    """A model that stays, and the first reason for it."""

    model_id: str
    node: str
    reason: str


class CleanupPlan(_Public):
    """Sizes in GB of 10^9 bytes, over all nodes asked."""

    total_space_available_gb: Annotated[float | None, Field(description="Free now.")]
    target_space_gb: Annotated[float | None, Field(description="Wanted free on each node.")]
    space_to_free_gb: float
    cleanup_actions: list[CleanupAction]
    reaches_target: bool
    kept: list[KeptModel]


class Cleanup(_Public):
    """What cleanup would do, or did. The freed space is measured."""

    dry_run: bool
    recommendations: CleanupPlan
    executed_actions: list[CleanupAction]
    total_space_freed_gb: float
    job_ids: list[str]
    timestamp: Time


# --- fallback


class AlternativeSuggestion(_Public):
    """The model that comes nearest."""

    suggested_model: str
    compatibility_score: Score
    performance_difference: Annotated[
        float | None, Field(description="Its performance score minus the requested model's; null: not measured.")
    ]
    availability_status: Availability
    reason: str
    estimated_quality_difference: Literal["lower", "slightly_lower", "similar", "slightly_higher", "higher"]


class FallbackStrategy(_Public):
    """What to do. `estimated_wait_time` in seconds."""

    strategy_type: Strategy
    recommended_action: str
    alternative_model: str | None
    estimated_wait_time: Annotated[float | None, Field(description="Seconds; null: not measurable.")]
    user_message: str
    can_queue_request: bool
    combines: Annotated[list[Strategy], Field(description="The parts of a `hybrid_approach`.")]
    quantization: Annotated[str | None, Field(description="What to ask for instead.")]
    resolution: Annotated[str | None, Field(description="What to ask for instead.")]
    score: Score


class WaitEstimate(_Public):
    """Until the requested model would start, in seconds: bytes left over the measured rate, then the queue."""

    seconds: float
    download_seconds: float
    queue_seconds: float


class FallbackSuggestion(_Public):
    """The best strategy, and the others that would do."""

    requested_model: str
    alternative_suggestion: AlternativeSuggestion | None
    fallback_strategy: FallbackStrategy
    other_strategies: list[FallbackStrategy]
    wait_time_estimate: Annotated[WaitEstimate | None, Field(description="Null: not measurable.")]
    basis: dict[str, Basis]
    timestamp: Time
