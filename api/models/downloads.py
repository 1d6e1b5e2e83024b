"""Manage downloads: pause, resume, cancel, change priority and bandwidth limit."""

import time
from collections.abc import Sequence

import anyio
import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.http.body import read_fields, validated
from api.http.responses import json_response
from api.jobs.handlers import publish_cancel
from api.jobs.node_jobs import check_node
from api.operation import Answer, Operation
from api.schemas.jobs import downloads as download_schemas
from api.schemas.jobs.downloads import ManageRequest
from shared import clock
from shared.database.tables import Job
from shared.errors import Conflict, InvalidField, NotFound, UnknownAction
from shared.jobs import download_control, records
from shared.models import availability, replicas
from shared.states import JOB_ENDS, JobState, Priority, Scope

_WAIT_SECONDS = 2.0
_POLL_SECONDS = 0.05
_ACTIONS = ("pause", "resume", "cancel", "priority", "bandwidth")
_DONE = {
    "pause": "Download paused for {}",
    "resume": "Download resumed for {}",
    "cancel": "Download cancelled for {}",
    "priority": "Priority of the download set for {}",
    "bandwidth": "Bandwidth limit of the download set for {}",
}
_PENDING = {
    "pause": "The pause of the download of {} was requested but has not taken effect yet",
    "cancel": "The cancellation of the download of {} was requested but has not taken effect yet",
}


async def manage(context: Context, request: Request, query: BaseModel) -> Response:
    fields = await read_fields(request)
    action = fields.get("action")
    if isinstance(action, str) and action not in _ACTIONS:
        raise UnknownAction(f"There is no action {action[:50]!r}. Allowed: {', '.join(_ACTIONS)}.")
    body = validated(fields, ManageRequest)
    _check_value(body)
    changed = await anyio.to_thread.run_sync(_change, context, body)
    rows = await _reached(context, body.action, changed)
    return json_response(await anyio.to_thread.run_sync(_answer, context, body, rows))


def _check_value(body: ManageRequest) -> None:
    if body.action == "priority" and body.priority is None:
        raise InvalidField.of("priority", "is required by the action `priority`", "missing")
    if body.action == "bandwidth" and body.bandwidth_limit_mbps is None:
        raise InvalidField.of("bandwidth_limit_mbps", "is required by the action `bandwidth`", "missing")


def _change(context: Context, body: ManageRequest) -> list[Job]:
    """Apply the action and return the changed downloads. Raises NotFound, InvalidField or Conflict."""
    context.catalogue.get(body.model_id)
    if body.node is not None:
        check_node(context, body.node)
    found = download_control.active(context.database, body.model_id, body.node)
    if not found:
        raise Conflict(_why_none(context, body))
    changed, refused = [], Conflict()
    for job in found:
        try:
            changed.append(_change_one(context, body, job))
        except Conflict as error:
            refused = error
    if not changed:
        raise refused
    context.waker.wake()
    return changed


def _change_one(context: Context, body: ManageRequest, job: Job) -> Job:
    database = context.database
    if body.action == "cancel":
        stopped = records.request_cancel(database, job.id)
        publish_cancel(context, stopped)
        return stopped.job
    match body.action:
        case "pause":
            row = download_control.pause(database, job.id)
        case "resume":
            row = download_control.resume(database, job.id)
        case "priority":
            row = download_control.set_priority(database, job.id, body.priority or Priority.NORMAL)
        case "bandwidth":
            row = download_control.set_bandwidth(database, job.id, body.bandwidth_limit_mbps)
    context.progress.hint(job.id)
    return row


def _why_none(context: Context, body: ManageRequest) -> str:
    where = f" to node {body.node}" if body.node is not None else ""
    none = f"No download of {body.model_id}{where} is active"
    newest = download_control.latest(context.database, body.model_id)
    ended = max((job for (node, _), job in newest.items() if body.node in (None, node)), key=_by_id, default=None)
    if ended is None or body.action != "resume":
        return none
    return f"{none}: the last one has {ended.status}. Start a new one with POST /api/v1/jobs/download."


async def _reached(context: Context, action: str, changed: Sequence[Job]) -> list[Job]:
    """Return the rows once all have reached the requested state, or after two seconds."""
    deadline = time.monotonic() + _WAIT_SECONDS
    rows = list(changed)
    while not all(_is_reached(action, row) for row in rows) and time.monotonic() < deadline:
        await anyio.sleep(_POLL_SECONDS)
        rows = await anyio.to_thread.run_sync(_reload, context, rows)
    return rows


def _reload(context: Context, rows: Sequence[Job]) -> list[Job]:
    found = []
    for row in rows:
        try:
            found.append(records.get(context.database, row.id))
        except NotFound:  # deleted meanwhile: that cancels it
            found.append(Job(**{**row.model_dump(), "status": JobState.CANCELLED}))
    return found


def _is_reached(action: str, row: Job) -> bool:
    if action == "pause":
        return row.status == JobState.PAUSED or row.status in JOB_ENDS
    return row.status in JOB_ENDS if action == "cancel" else True


def _answer(context: Context, body: ManageRequest, rows: Sequence[Job]) -> download_schemas.Managed:
    files = replicas.states(context.database, body.model_id)
    progress = context.live.of(rows)
    states = {row.id: availability.of_download(JobState(row.status), files.get(row.target_node or "")) for row in rows}
    status = availability.best(states.values())
    representative = next(row for row in rows if states[row.id] == status)
    reached = all(_is_reached(body.action, row) for row in rows)
    message = _DONE[body.action] if reached else _PENDING[body.action]
    return download_schemas.Managed(
        success=reached,
        message=message.format(body.model_id),
        model_id=body.model_id,
        action=body.action,
        current_status=status.value,
        progress_percent=progress[representative.id].percent,
        downloads=[
            download_schemas.ManagedDownload(
                node=row.target_node or "",
                job_id=row.id,
                current_status=states[row.id].value,
                progress_percent=progress[row.id].percent,
                priority=list(Priority)[row.priority],
                bandwidth_limit_mbps=row.bandwidth_mbps,
            )
            for row in rows
        ],
        timestamp=clock.iso(clock.now()) or "",
    )


def _by_id(job: Job) -> str:
    return job.id


OPERATIONS = (
    Operation(
        "POST", "/api/v1/models/download/manage", manage, "manageDownload", "Manage a download",
        answers=(Answer(200, "The state reached within two seconds.", download_schemas.Managed),),
        problems=(400, 404, 409, 413, 415, 503), body=download_schemas.ManageRequest, tag="models", scope=Scope.ADMIN,
    ),
)  # fmt: skip
