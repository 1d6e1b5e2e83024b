"""Steering downloads: pause, resume, cancel, priority and bandwidth, and what was reached within two seconds."""

import time
from collections.abc import Sequence

import anyio
import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.http.body import read_fields, validated
from api.http.responses import answered
from api.jobs.handlers import tell_of_cancel
from api.jobs.node_jobs import check_node
from api.operation import Answer, Operation
from api.schemas import downloads as download_schemas
from api.schemas.downloads import ManageRequest
from shared import clock
from shared.database.tables import Job
from shared.errors import Conflict, InvalidField, NotFound, UnknownAction
from shared.jobs import download_control, records
from shared.models import availability, replicas
from shared.states import JOB_ENDS, JobState, Priority, ReplicaState, Scope

_PATIENCE_SECONDS = 2.0
_LOOK_SECONDS = 0.05
_ACTIONS = ("pause", "resume", "cancel", "priority", "bandwidth")
_DONE = {
    "pause": "Download paused for {}",
    "resume": "Download resumed for {}",
    "cancel": "Download cancelled for {}",
    "priority": "Priority of the download set for {}",
    "bandwidth": "Bandwidth limit of the download set for {}",
}
_ASKED = {
    "pause": "The download of {} has been asked to pause, and still runs",
    "cancel": "The download of {} has been asked to stop, and still runs",
}


async def manage(context: Context, request: Request, query: BaseModel) -> Response:
    fields = await read_fields(request)
    action = fields.get("action")
    if isinstance(action, str) and action not in _ACTIONS:
        raise UnknownAction(f"There is no action {action[:50]!r}; there are: {', '.join(_ACTIONS)}")
    asked = validated(fields, ManageRequest)
    _check_value(asked)
    changed = await anyio.to_thread.run_sync(_change, context, asked)
    rows = await _reached(context, asked.action, changed)
    return answered(await anyio.to_thread.run_sync(_answer, context, asked, rows))


def _check_value(asked: ManageRequest) -> None:
    if asked.action == "priority" and asked.priority is None:
        raise InvalidField.of("priority", "the action `priority` needs it", "missing")
    if asked.action == "bandwidth" and asked.bandwidth_limit_mbps is None:
        raise InvalidField.of("bandwidth_limit_mbps", "the action `bandwidth` needs it", "missing")


def _change(context: Context, asked: ManageRequest) -> list[Job]:
    """The downloads that the action could be carried out on. Raises NotFound, InvalidField, Conflict."""
    context.catalogue.get(asked.model_id)
    if asked.node is not None:
        check_node(context, asked.node)
    found = download_control.active(context.database, asked.model_id, asked.node)
    if not found:
        raise Conflict(_why_none(context, asked))
    changed, refused = [], Conflict()
    for job in found:
        try:
            changed.append(_change_one(context, asked, job))
        except Conflict as error:
            refused = error
    if not changed:
        raise refused
    context.waker.wake()
    return changed


def _change_one(context: Context, asked: ManageRequest, job: Job) -> Job:
    database = context.database
    if asked.action == "cancel":
        stopped = records.request_cancel(database, job.id)
        tell_of_cancel(context, stopped)
        return stopped.job
    match asked.action:
        case "pause":
            row = download_control.pause(database, job.id)
        case "resume":
            row = download_control.resume(database, job.id)
        case "priority":
            row = download_control.set_priority(database, job.id, asked.priority or Priority.NORMAL)
        case "bandwidth":
            row = download_control.set_bandwidth(database, job.id, asked.bandwidth_limit_mbps)
    context.progress.hint(job.id)
    return row


def _why_none(context: Context, asked: ManageRequest) -> str:
    where = f" to node {asked.node}" if asked.node is not None else ""
    none = f"No download of {asked.model_id}{where} is under way"
    newest = download_control.latest(context.database, asked.model_id)
    ended = max((job for (node, _), job in newest.items() if asked.node in (None, node)), key=_by_id, default=None)
    if ended is None or asked.action != "resume":
        return none
    return f"{none}: the last one has {ended.status}; start a new one with POST /api/v1/jobs/download"


async def _reached(context: Context, action: str, changed: Sequence[Job]) -> list[Job]:
    """The rows once all have got there, or when patience is over."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    rows = list(changed)
    while not all(_is_reached(action, row) for row in rows) and time.monotonic() < deadline:
        await anyio.sleep(_LOOK_SECONDS)
        rows = await anyio.to_thread.run_sync(_again, context, rows)
    return rows


def _again(context: Context, rows: Sequence[Job]) -> list[Job]:
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


def _answer(context: Context, asked: ManageRequest, rows: Sequence[Job]) -> download_schemas.Managed:
    files = {
        row.node: ReplicaState(row.state) for row in replicas.rows(context.database) if row.model_id == asked.model_id
    }
    progress = context.live.of(rows)
    words = {row.id: availability.of_download(JobState(row.status), files.get(row.target_node or "")) for row in rows}
    status = availability.best(words.values())
    speaking = next(row for row in rows if words[row.id] == status)
    reached = all(_is_reached(asked.action, row) for row in rows)
    message = _DONE[asked.action] if reached else _ASKED[asked.action]
    return download_schemas.Managed(
        success=reached,
        message=message.format(asked.model_id),
        model_id=asked.model_id,
        action=asked.action,
        current_status=status.value,
        progress_percent=progress[speaking.id].percent,
        downloads=[
            download_schemas.ManagedDownload(
                node=row.target_node or "",
                job_id=row.id,
                current_status=words[row.id].value,
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
        "POST", "/api/v1/models/download/manage", manage, "manageDownload", "Steer a download",
        answers=(Answer(200, "What was reached within two seconds.", download_schemas.Managed),),
        problems=(400, 404, 409, 413, 415, 503), body=download_schemas.ManageRequest, tag="models", scope=Scope.ADMIN,
    ),
)  # fmt: skip
