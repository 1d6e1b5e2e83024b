"""Bodies of the use of models over time."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from api.http.query import digits
from api.schemas.fields import Asked, Basis, Public, Score, Time


class AnalyticsQuery(Asked):
    """Over which time."""

    time_period_days: Annotated[
        int, Field(ge=1, le=3650, description="Days in UTC, today included."), BeforeValidator(digits)
    ] = 30


class TimePeriod(Public):
    """Whole days in UTC, the present one as far as it has come."""

    start_date: Time
    end_date: Time
    days: int


class SystemAnalytics(Public):
    """Over all models."""

    total_uses: int
    average_uses_per_day: float
    most_used_model: str | None
    active_models: Annotated[int, Field(description="Models with a use in the period.")]


class DayUsage(Public):
    """One day in UTC; `avg_time` in seconds over its successes."""

    date: Annotated[str, Field(json_schema_extra={"format": "date"})]
    uses: int
    avg_time: float | None
    success_rate: Score | None


class ModelAnalytics(Public):
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


class Analytics(Public):
    """How much each model was used, and how that ended. Mocks and cancelled jobs are no uses."""

    time_period: TimePeriod
    system_analytics: SystemAnalytics
    model_analytics: dict[str, ModelAnalytics]
    timestamp: Time
