"""Responses of the model management routes.

Each group of values has a `basis`, which says for each value whether it was `measured` (or counted from stored rows),
comes from the `catalogue`, or is unknown (`none`); and `samples`, the number of jobs behind the measured values.
"""

from typing import Annotated, Literal

from pydantic import Field

from api.schemas.fields import Basis, ResponseModel, Score, Time
from shared.insight.health import HealthStatus

Availability = Literal[
    "available", "updating", "downloading", "paused", "queued", "corrupted", "failed", "missing", "unknown"
]


# --- status


class ReplicaStatus(ResponseModel):
    """The files of one model on one node. `size_mb` is in 10^6 bytes."""

    node: str
    online: bool
    availability_status: Availability
    size_mb: float
    missing_files: list[str]
    integrity_score: Score | None
    revision: str | None
    last_health_check: Time | None
    last_verified: Annotated[Time | None, Field(description="When the checksums were last compared.")]
    corruption_types: list[str]
    prepared: Annotated[list[str], Field(description="Copies of weights in the form in which they are loaded.")]
    download_progress: float | None
    download_job_id: str | None


class ModelStatus(ResponseModel):
    """The status of one model, from its best replica. `size_mb` is in 10^6 bytes, times are in seconds."""

    model_id: str
    availability_status: Availability
    is_available: bool
    is_loaded: bool
    size_mb: float
    download_progress: Annotated[
        float | None, Field(ge=0, le=100, description="In percent; null: no download is active.")
    ]
    missing_files: list[str]
    integrity_score: Annotated[Score | None, Field(description="Verified bytes divided by expected bytes.")]
    last_health_check: Time | None
    performance_score: Score | None
    corruption_detected: bool
    usage_frequency: Annotated[float, Field(ge=0, description="Generations per day, over 30 days.")]
    last_used: Time | None
    average_generation_time: Annotated[float | None, Field(description="Average over 30 days, in seconds.")]
    can_pause_download: bool
    can_resume_download: bool
    estimated_download_time: Annotated[float | None, Field(description="Seconds until the running download ends.")]
    current_version: Annotated[str | None, Field(description="A commit.")]
    latest_version: Annotated[str | None, Field(description="The newest commit that the hub has reported.")]
    latest_version_checked_at: Annotated[Time | None, Field(description="When the hub last reported it.")]
    update_available: bool
    extends: Annotated[
        str | None,
        Field(description="Of a preset: the model whose files it needs too; sizes and versions are those of its LoRA."),
    ]
    caveat: Annotated[str | None, Field(description="What has not been proven about it.")]
    pinned: Annotated[bool, Field(description="Whether the model is pinned, so that cleanups keep it.")]
    loaded_on: Annotated[list[str], Field(description="Devices that have loaded it, as node/index.")]
    replicas: list[ReplicaStatus]
    basis: dict[str, Basis]
    samples: int


class SystemStatistics(ResponseModel):
    """Counts over the catalogue. `total_size_gb` is the size of the files on all nodes, in 10^9 bytes."""

    total_models: int
    available_models: int
    downloading_models: int
    corrupted_models: int
    total_size_gb: float
    last_updated: Time


class DetailedStatus(ResponseModel):
    """The status of all models of the catalogue."""

    models: dict[str, ModelStatus]
    system_statistics: SystemStatistics
    timestamp: Time


# --- health


class ModelHealth(ResponseModel):
    """The health of a model, and whether it can be repaired automatically."""

    model_id: str
    health_status: HealthStatus
    is_healthy: bool
    integrity_score: Score | None
    issues: list[str]
    corruption_types: list[str]
    last_check: Time | None
    repair_suggestions: list[str]
    can_auto_repair: bool
    success_rate: Annotated[Score | None, Field(description="Success rate of its latest generations, at most 20.")]
    basis: dict[str, Basis]
    samples: int


class SystemHealth(ResponseModel):
    """Counts over the catalogue. `storage_usage_percent` covers the model storage of all online nodes."""

    overall_health_score: Score | None
    models_healthy: int
    models_degraded: int
    models_corrupted: int
    models_missing: int
    models_unknown: int
    storage_usage_percent: float | None
    last_updated: Time
    basis: dict[str, Basis]


class Recommendation(ResponseModel):
    """A recommended action for the operator."""

    type: str
    priority: Literal["critical", "high", "medium", "low"]
    message: str
    action: str
    model_id: str | None


class LibraryHealth(ResponseModel):
    """The health of all models."""

    system_health: SystemHealth
    model_health: dict[str, ModelHealth]
    recommendations: list[Recommendation]
    timestamp: Time


# --- downloads


# --- analytics


# --- cleanup


# --- fallback
