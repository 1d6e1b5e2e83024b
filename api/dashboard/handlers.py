"""Serve the dashboard's data: an overview, current metrics, their history, and a summary of each model."""

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import caller_of
from api.context import Context
from api.http.responses import serialized_response
from api.models.information import bases, dashboard_fields, whole_for
from api.models.status import basis_of
from api.operation import Answer, Operation
from api.schemas.dashboard import dashboard as dashboard_schemas
from api.schemas.dashboard.dashboard import HistoryQuery
from api.services.histories import figures
from shared import clock
from shared.management.model_summary import ModelOverview
from shared.management.snapshot import snapshot
from shared.management.summary import Whole
from shared.states import Scope


async def overview(context: Context, request: Request, query: BaseModel) -> Response:
    caller = caller_of(request)

    def compute() -> bytes:
        return _overview(whole_for(context, caller)).model_dump_json().encode()

    return serialized_response(await context.coalescer.run(("dashboard overview", caller.only), compute))


async def metrics(context: Context, request: Request, query: BaseModel) -> Response:
    return serialized_response(
        await context.coalescer.run("dashboard metrics", lambda: metrics_now(context).model_dump_json().encode())
    )


async def metrics_history(context: Context, request: Request, query: HistoryQuery) -> Response:
    hours = query.hours
    key = ("dashboard history", hours)
    return serialized_response(await context.coalescer.run(key, lambda: context.histories.body(hours, clock.now())))


async def models(context: Context, request: Request, query: BaseModel) -> Response:
    def compute() -> bytes:
        found = context.overviews.models()
        return (
            dashboard_schemas.ModelSummaries([_summary(model) for model in found.models.values()])
            .model_dump_json()
            .encode()
        )

    return serialized_response(await context.coalescer.run("dashboard models", compute))


def metrics_now(context: Context) -> dashboard_schemas.DashboardMetrics:
    """Return the current metrics. Raises DatabaseUnavailable."""
    whole = context.overviews.whole()
    row = snapshot(whole)
    basis = bases(row.model_dump(exclude={"at"}))
    return dashboard_schemas.DashboardMetrics.model_validate(
        {**figures(row), "basis": basis, "samples": row.total_generations_24h}
    )


def _overview(whole: Whole) -> dashboard_schemas.DashboardOverview:
    percentage = None if whole.health_score is None else round(100 * whole.health_score, 2)
    return dashboard_schemas.DashboardOverview.model_validate(
        {
            **dashboard_fields(whole),
            "system_health": dashboard_schemas.OverallHealth(
                overall_status=whole.status,
                health_percentage=percentage,
                basis={"health_percentage": basis_of(percentage)},
            ),
        }
    )


def _summary(model: ModelOverview) -> dashboard_schemas.ModelSummary:
    entry, day, now = model.view.entry, model.day, model.readings
    average = model.performance.average_seconds
    figures = {
        "health_score": model.health_score,
        "performance_score": model.performance.performance_score,
        "generations_24h": day.uses,
        "average_generation_time": average,
        "memory_usage_mb": now.memory_used_mb,
        "gpu_utilization_percent": now.load_percent,
    }
    return dashboard_schemas.ModelSummary.model_validate(
        {
            **figures,
            "model_id": entry.model_id,
            "model_type": entry.model_type,
            "status": model.status,
            "availability_status": model.view.availability.value,
            "last_used": clock.iso(model.view.latest.last_used),
            "issues_count": len(model.health.issues),
            "basis": bases(figures),
            "samples": day.uses,
        }
    )


OPERATIONS = (
    Operation(
        "GET", "/api/v1/dashboard/overview", overview, "dashboardOverview", "Get the dashboard's overview",
        answers=(Answer(200, "The overview, with the system's health.", dashboard_schemas.DashboardOverview),),
        problems=(503,), tag="dashboard", scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/dashboard/metrics", metrics, "dashboardMetrics", "Get the current metrics",
        answers=(Answer(200, "Counts and averages.", dashboard_schemas.DashboardMetrics),), problems=(503,),
        tag="dashboard", scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/dashboard/metrics/history", metrics_history, "dashboardMetricsHistory",
        "Get the history of the metrics",
        answers=(Answer(200, "At most 500 points, oldest first.", dashboard_schemas.MetricsHistory),), problems=(503,),
        query=dashboard_schemas.HistoryQuery, tag="dashboard",
        description="From snapshots taken each minute and kept for 90 days. Where several are merged into one point, "
        "counts are maxima, `healthy_models` is the minimum, and other values are averages.", scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/dashboard/models", models, "dashboardModels", "List summaries of the models",
        answers=(Answer(200, "In the catalogue's order.", dashboard_schemas.ModelSummaries),), problems=(503,),
        tag="dashboard", scope=Scope.READ,
    ),
)  # fmt: skip
