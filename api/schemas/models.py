"""What the model management routes take and answer with. Words and fields are those that clients were promised.

Beside each group of figures stands a `basis`: for each of them `measured` (counted from stored rows included),
`catalogue` or `none`; and `samples`, from how many jobs the measured ones come.
"""

from typing import Annotated, Literal

from pydantic import Field

from api.schemas.fields import Basis, Public, Score, Time
from shared.insight.health import HealthStatus

Availability = Literal[
    "available", "updating", "downloading", "paused", "queued", "corrupted", "failed", "missing", "unknown"
]


# --- requests


# --- status


class ReplicaStatus(Public):
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


class ModelStatus(Public):
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


class SystemStatistics(Public):
    """Counts over the catalogue; `total_size_gb` is what lies on all nodes, in 10^9 bytes."""

    total_models: int
    available_models: int
    downloading_models: int
    corrupted_models: int
    total_size_gb: float
    last_updated: Time


class DetailedStatus(Public):
    """Every model of the catalogue."""

    models: dict[str, ModelStatus]
    system_statistics: SystemStatistics
    timestamp: Time


# --- health


class ModelHealth(Public):
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


class SystemHealth(Public):
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


class Recommendation(Public):
    """What an operator should do."""

    type: str
    priority: Literal["critical", "high", "medium", "low"]
    message: str
    action: str
    model_id: str | None


class LibraryHealth(Public):
    """How well the models are."""

    system_health: SystemHealth
    model_health: dict[str, ModelHealth]
    recommendations: list[Recommendation]
    timestamp: Time


# --- downloads


# --- analytics


# --- cleanup


# --- fallback
