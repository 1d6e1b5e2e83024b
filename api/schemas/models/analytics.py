"""Requests and responses of the usage of models over time."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from api.http.query import digits
from api.schemas.fields import Basis, RequestModel, ResponseModel, Score, Time


class AnalyticsQuery(RequestModel):
    """The period of the analytics."""

    time_period_days: Annotated[
        int, Field(ge=1, le=3650, description="Number of days in UTC, including today."), BeforeValidator(digits)
    ] = 30


class TimePeriod(ResponseModel):
    """A period of days in UTC. The current day is not over yet."""

    start_date: Time
    end_date: Time
    days: int


class SystemAnalytics(ResponseModel):
    """Usage of all models together."""

    total_uses: int
    average_uses_per_day: float
    most_used_model: str | None
    active_models: Annotated[int, Field(description="Models used in the period.")]


class DayUsage(ResponseModel):
    """Usage on one day in UTC. `avg_time` is the average over its successes, in seconds."""

    date: Annotated[str, Field(json_schema_extra={"format": "date"})]
    uses: int
    avg_time: float | None
    success_rate: Score | None


class ModelAnalytics(ResponseModel):
    """Usage of one model. `average_generation_time` is the average over its successes, in seconds."""

    model_id: str
    total_uses: int
    uses_per_day: float
    average_generation_time: float | None
    success_rate: Score | None
    last_30_days_usage: Annotated[list[DayUsage], Field(description="The last 30 days with usage, oldest first.")]
    peak_usage_hours: Annotated[list[int], Field(description="Hours of the day in UTC, busiest first, at most three.")]
    basis: dict[str, Basis]
    samples: int


class Analytics(ResponseModel):
    """How often each model was used, and with which outcome. Placeholder output and cancelled jobs do not count."""

    time_period: TimePeriod
    system_analytics: SystemAnalytics
    model_analytics: dict[str, ModelAnalytics]
    timestamp: Time
