"""List and acknowledge alerts. The alert rules open and resolve them."""

from collections.abc import Sequence

import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import Caller, caller_of
from api.context import Context
from api.http.body import has_body, read_json
from api.http.query import JOB_ID
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas.ops import alerts as alert_schemas
from api.schemas.ops.alerts import Acknowledgement, AlertsQuery, SystemAlerts, alert
from shared import clock
from shared.cluster import alerts
from shared.database.tables import Alert
from shared.errors import NotFound
from shared.jobs import records
from shared.states import Scope


def list_alerts(context: Context, request: Request, query: AlertsQuery) -> Response:
    acknowledged = None if query.acknowledged is None else query.acknowledged == "true"
    rows = alerts.history(context.database, state=query.state, severity=query.severity, acknowledged=acknowledged)
    return json_response(SystemAlerts([alert(row) for row in seen_by(context, caller_of(request), rows)]))


def seen_by(context: Context, caller: Caller, rows: Sequence[Alert]) -> list[Alert]:
    """Return the alerts that the caller may see: alerts about a job only with access to the job."""
    about = [] if caller.only is None else [row.subject for row in rows if JOB_ID.fullmatch(row.subject)]
    others = set(about) - {job.id for job in records.several(context.database, about) if caller.sees(job.owner)}
    return [row for row in rows if row.subject not in others]


async def acknowledge(context: Context, request: Request, query: BaseModel) -> Response:
    """Acknowledge an alert. Idempotent: the first name is kept. The body is optional."""
    alert_id = str(request.path_params["id"])
    if not JOB_ID.fullmatch(alert_id):
        raise NotFound("alert", alert_id)
    body = await read_json(request, Acknowledgement) if has_body(request) else Acknowledgement()

    def acknowledge_now() -> Response:
        row = alerts.acknowledge(context.database, alert_id, body.by, clock.now())
        context.waker.wake()
        return json_response(alert(row))

    return await anyio.to_thread.run_sync(acknowledge_now)


OPERATIONS = (
    Operation(
        "GET", "/api/v1/dashboard/alerts", list_alerts, "listAlerts", "List alerts, newest first",
        answers=(Answer(200, "Alerts.", alert_schemas.SystemAlerts),), problems=(503,),
        query=alert_schemas.AlertsQuery, tag="dashboard", scope=Scope.READ,
    ),
    Operation(
        "POST", "/api/v1/dashboard/alerts/{id}/acknowledge", acknowledge, "acknowledgeAlert",
        "Acknowledge an alert",
        answers=(Answer(200, "The alert.", alert_schemas.SystemAlert),), problems=(400, 404, 413, 415, 503),
        body=alert_schemas.Acknowledgement, body_required=False, tag="dashboard",
        description="The first name is kept. Acknowledging again has no effect.", scope=Scope.ADMIN,
    ),
)  # fmt: skip
