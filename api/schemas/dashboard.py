"""Bodies of the dashboard."""

from typing import Annotated

from pydantic import BeforeValidator, Field, RootModel

from api.http.query import digits
from api.schemas.fields import Asked, Basis, Percent, Public, Score, Time
from api.schemas.information import InsightDashboard
from api.schemas.models import Availability
from shared.insight.assessment import Status


class HistoryQuery(Asked):
    """How far back."""

    hours: Annotated[int, Field(ge=1, le=2160, description="Hours until now."), BeforeValidator(digits)] = 24


class OverallHealth(Public):
    """`health_percentage` is 100 x the `overall_health_score` of `/api/v1/models/health`."""

    overall_status: Status
    health_percentage: Percent | None
    basis: dict[str, Basis]


class DashboardOverview(InsightDashboard):
    """Everything at once, and how well it is."""

    system_health: OverallHealth


class SnapshotFigures(Public):
    """The whole in figures at one moment. Times in seconds, sizes in 10^9 bytes."""

    timestamp: Time
    total_models: int
    healthy_models: int
    active_models: Annotated[int, Field(description="Loaded on a live device, or running.")]
    total_generations_24h: Annotated[int, Field(description="Uses: they succeeded or failed.")]
    average_quality_score: Score | None
    average_performance_score: Score | None
    system_load_percent: Annotated[Percent | None, Field(description="Mean over the live devices.")]
    memory_usage_percent: Annotated[Percent | None, Field(description="Used over total of the live devices.")]
    alerts_count: Annotated[int, Field(description="Open ones.")]
    recommendations_count: int
    queued_jobs: Annotated[int, Field(description="Of all types.")]
    running_jobs: Annotated[int, Field(description="Of all types.")]
    oldest_queued_seconds: float | None
    succeeded_1h: Annotated[int, Field(description="Generations.")]
    failed_1h: Annotated[int, Field(description="Generations.")]
    average_generation_seconds: Annotated[float | None, Field(description="Of the successes of the last hour.")]
    disk_used_percent: Annotated[Percent | None, Field(description="Of all live nodes' model storage.")]
    disk_free_gb: float | None


class DashboardMetrics(SnapshotFigures):
    """The whole in figures now. `samples`: uses in 24 hours."""

    basis: dict[str, Basis]
    samples: int


class MetricsHistory(RootModel[list[SnapshotFigures]]):
    """Oldest first, at most 500: of several snapshots counts are the highest (healthy models the fewest), the rest
    means."""


class ModelSummary(Public):
    """One model in a line. `samples`: uses in 24 hours."""

    model_id: str
    model_type: str
    status: Status
    availability_status: Availability
    health_score: Score | None
    performance_score: Score | None
    last_used: Time | None
    generations_24h: int
    average_generation_time: Annotated[float | None, Field(description="Seconds, over 30 days.")]
    memory_usage_mb: float | None
    gpu_utilization_percent: Percent | None
    issues_count: int
    basis: dict[str, Basis]
    samples: int


class ModelSummaries(RootModel[list[ModelSummary]]):
    """Every model of the catalogue, in its order."""
