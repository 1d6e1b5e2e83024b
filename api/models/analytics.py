"""Analytics: how often each model was used, when, and with which outcome."""

from collections.abc import Sequence
from datetime import UTC, datetime, time

from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.http.responses import serialized_response
from api.operation import Answer, Operation
from api.schemas import fields
from api.schemas.models import analytics as analytics_schemas
from api.schemas.models.analytics import AnalyticsQuery
from shared import clock
from shared.catalogue import scoring
from shared.jobs.usage import by_day
from shared.jobs.usage.by_day import Day, Totals
from shared.management.library import FREQUENCY_DAYS, first_day
from shared.states import Scope

_PEAKS = 3


async def analytics(context: Context, request: Request, query: AnalyticsQuery) -> Response:
    days = query.time_period_days

    def compute() -> bytes:
        return _analytics(context, days).model_dump_json().encode()

    return serialized_response(await context.coalescer.run(("analytics", days), compute))


def _analytics(context: Context, period: int) -> analytics_schemas.Analytics:
    now = clock.now()
    first, month = first_day(now, period), first_day(now, FREQUENCY_DAYS)
    found = by_day.days(context.database, min(first, month))
    selected = [day for day in found if day.day >= first]
    totals = by_day.totals(selected)
    # Models that were removed from the catalogue are included.
    names = list(dict.fromkeys((*context.catalogue.model_ids, *sorted(totals))))
    by_model: dict[str, list[Day]] = {name: [] for name in names}
    recent: dict[str, list[Day]] = {name: [] for name in names}
    for day in selected:
        by_model[day.model_id].append(day)
    for day in found:
        if day.day >= month and day.model_id in recent:
            recent[day.model_id].append(day)
    uses = sum(total.uses for total in totals.values())
    return analytics_schemas.Analytics(
        time_period=analytics_schemas.TimePeriod(
            start_date=clock.iso(datetime.combine(first, time(), UTC)) or "",
            end_date=clock.iso(now) or "",
            days=period,
        ),
        system_analytics=analytics_schemas.SystemAnalytics(
            total_uses=uses,
            average_uses_per_day=round(uses / period, 4),
            most_used_model=max(totals, key=lambda name: (totals[name].uses, name), default=None),
            active_models=len(totals),
        ),
        model_analytics={
            name: _model(name, totals.get(name, Totals()), by_model[name], recent[name], period) for name in names
        },
        timestamp=clock.iso(now) or "",
    )


def _model(
    name: str, total: Totals, selected: Sequence[Day], recent: Sequence[Day], period: int
) -> analytics_schemas.ModelAnalytics:
    average = _rounded(total.average_seconds)
    rate = scoring.success_rate(total.successes, total.uses)
    some: fields.Basis = "measured" if total.uses else "none"
    return analytics_schemas.ModelAnalytics(
        model_id=name,
        total_uses=total.uses,
        uses_per_day=round(total.uses / period, 4),
        average_generation_time=average,
        success_rate=rate,
        last_30_days_usage=[
            analytics_schemas.DayUsage(
                date=day.day.isoformat(),
                uses=day.uses,
                avg_time=_rounded(day.seconds / day.successes if day.successes else None),
                success_rate=scoring.success_rate(day.successes, day.uses),
            )
            for day in recent
        ],
        peak_usage_hours=peak_hours(selected),
        basis={
            "total_uses": "measured",
            "uses_per_day": "measured",
            "average_generation_time": "none" if average is None else "measured",
            "success_rate": some,
            "peak_usage_hours": some,
        },
        samples=total.uses,
    )


def peak_hours(days: Sequence[Day]) -> list[int]:
    """Return the three busiest hours of the day in UTC, busiest first, without hours that have no usage."""
    counts = [sum(day.hours[hour] for day in days) for hour in range(24)]
    ranked = sorted((hour for hour in range(24) if counts[hour]), key=lambda hour: (-counts[hour], hour))
    return ranked[:_PEAKS]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


OPERATIONS = (
    Operation(
        "GET", "/api/v1/models/analytics", analytics, "modelsAnalytics", "Get usage analytics of the models",
        answers=(Answer(200, "Usage over the requested days.", analytics_schemas.Analytics),), problems=(503,),
        query=analytics_schemas.AnalyticsQuery, tag="models", scope=Scope.READ,
    ),
)  # fmt: skip
