"""Alerts as people see them: listed, and acknowledged. Opening and resolving them is the rules' business."""

import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.alert_schemas import Acknowledgement, AlertsQuery, SystemAlerts, alert
from api.body import has_body, read_json
from api.context import Context
from api.jobs import answered
from api.query import JOB_ID
from shared import alerts, clock
from shared.errors import NotFound


def list_alerts(context: Context, request: Request, query: AlertsQuery) -> Response:
    acknowledged = None if query.acknowledged is None else query.acknowledged == "true"
    rows = alerts.history(context.database, state=query.state, severity=query.severity, acknowledged=acknowledged)
    return answered(SystemAlerts([alert(row) for row in rows]))


async def acknowledge(context: Context, request: Request, query: BaseModel) -> Response:
    """Idempotent: whoever came first stands. The body may be left out."""
    alert_id = str(request.path_params["id"])
    if not JOB_ID.fullmatch(alert_id):
        raise NotFound("alert", alert_id)
    asked = await read_json(request, Acknowledgement) if has_body(request) else Acknowledgement()

    def work() -> Response:
        row = alerts.acknowledge(context.database, alert_id, asked.by, clock.now())
        context.nudger.nudge()
        return answered(alert(row))

    return await anyio.to_thread.run_sync(work)
