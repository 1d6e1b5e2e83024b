"""Requests and responses of the dashboard."""

from typing import Annotated

from pydantic import BeforeValidator, Field, RootModel

from api.http.query import digits
from api.schemas.fields import Basis, Percent, RequestModel, ResponseModel, Score, Time
from api.schemas.models.information import InsightDashboard
from api.schemas.models.models import Availability
from shared.insight.assessment import Status


class HistoryQuery(RequestModel):
    """The period of the history."""

    hours: Annotated[int, Field(ge=1, le=2160, description="Length in hours, until now."), BeforeValidator(digits)] = 24


class OverallHealth(ResponseModel):
    """The system's health. `health_percentage` is 100 x `overall_health_score` of `/api/v1/models/health`."""

    overall_status: Status
    health_percentage: Percent | None
    basis: dict[str, Basis]


class DashboardOverview(InsightDashboard):
    """The whole dashboard with the system's health."""

    system_health: OverallHealth


class SnapshotFigures(ResponseModel):
    """Metrics of the installation at one time. Times are in seconds, sizes in 10^9 bytes."""

    timestamp: Time
    total_models: int
    healthy_models: int
    active_models: Annotated[int, Field(description="Models loaded on an online device, or running.")]
    total_generations_24h: Annotated[int, Field(description="Generations that succeeded or failed.")]
    average_quality_score: Score | None
    average_performance_score: Score | None
    system_load_percent: Annotated[
        Percent | None, Field(description="Mean utilisation of the online devices over the last minute.")
    ]
    memory_usage_percent: Annotated[Percent | None, Field(description="Used memory of the online devices.")]
    alerts_count: Annotated[int, Field(description="Open ones.")]
    recommendations_count: int
    queued_jobs: Annotated[int, Field(description="Queued jobs of all types.")]
    running_jobs: Annotated[int, Field(description="Running jobs of all types.")]
    oldest_queued_seconds: float | None
    succeeded_1h: Annotated[int, Field(description="Generations.")]
    failed_1h: Annotated[int, Field(description="Generations.")]
    average_generation_seconds: Annotated[
        float | None, Field(description="Average over the successes of the last hour.")
    ]
    disk_used_percent: Annotated[Percent | None, Field(description="Used model storage of the online nodes.")]
    disk_free_gb: float | None


class DashboardMetrics(SnapshotFigures):
    """The current metrics. `samples` is the number of generations in 24 hours."""

    basis: dict[str, Basis]
    samples: int


class MetricsHistory(RootModel[list[SnapshotFigures]]):
    """At most 500 points, oldest first. Where snapshots are merged into one point, counts are maxima,
    `healthy_models` is the minimum, and other values are averages."""


class ModelSummary(ResponseModel):
    """A summary of one model. `samples` is the number of its generations in 24 hours."""

    model_id: str
    model_type: str
    status: Status
    availability_status: Availability
    health_score: Score | None
    performance_score: Score | None
    last_used: Time | None
    generations_24h: int
    average_generation_time: Annotated[float | None, Field(description="Average over 30 days, in seconds.")]
    memory_usage_mb: float | None
    gpu_utilization_percent: Percent | None
    issues_count: int
    basis: dict[str, Basis]
    samples: int


class ModelSummaries(RootModel[list[ModelSummary]]):
    """Summaries of all models, in the catalogue's order."""
