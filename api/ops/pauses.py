"""Pause and resume the queue, or parts of it."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import Caller, caller_of, note_owner
from api.context import Context
from api.http.body import has_body, read_json
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas.ops.pauses import Pause, PauseRequest, Pauses, PauseScope
from shared import clock
from shared.access import keys
from shared.catalogue.job_types import JOB_TYPES
from shared.cluster import nodes
from shared.database.tables import Pause as PauseRow
from shared.errors import FieldError, InvalidField
from shared.jobs.claims import pauses
from shared.jobs.claims.pauses import Scope
from shared.states import Scope as KeyScope

_SHOWN = 10


async def pause(context: Context, request: Request, query: BaseModel) -> Response:
    body = await read_json(request, PauseRequest) if has_body(request) else PauseRequest()
    return await anyio.to_thread.run_sync(partial(_pause, context, request, body))


async def resume(context: Context, request: Request, query: BaseModel) -> Response:
    body = await read_json(request, PauseScope) if has_body(request) else PauseScope()
    return await anyio.to_thread.run_sync(partial(_resume, context, request, body))


def shown(context: Context, caller: Caller) -> list[Pause]:
    """Return the pauses that are in force and that the caller may see: of keys, only its own."""
    return as_shown(context, caller, pauses.in_force(context.database))


def _pause(context: Context, request: Request, body: PauseRequest) -> Response:
    scope = _scope(context, request, body)
    if body.until is not None and body.until <= clock.now():
        raise InvalidField.of("until", "has passed already; give a later time, or none", "too_early")
    caller = caller_of(request)
    until = body.until.timestamp() if body.until is not None else None
    if scope.kind == "node":
        nodes.drain(
            context.database, scope.value, by=caller.name, reason=body.reason, until=until, running=body.running
        )
    else:
        pauses.pause(context.database, scope, by=caller.name, reason=body.reason, until=until, running=body.running)
    context.waker.wake()  # the dispatcher then recalls what it has sent
    context.hosts.seen(again=True)  # what waiting jobs say of it agrees with the response
    return json_response(Pauses(pauses=shown(context, caller)))


def _resume(context: Context, request: Request, body: PauseScope) -> Response:
    scope = _scope(context, request, body)
    if scope.kind == "node":
        nodes.undrain(context.database, scope.value)
    else:
        pauses.resume(context.database, scope)
    context.waker.wake()
    context.hosts.seen(again=True)
    return json_response(Pauses(pauses=shown(context, caller_of(request))))


def _scope(context: Context, request: Request, body: PauseScope) -> Scope:
    """Return what is meant, and note whose jobs it concerns. Raises InvalidField for what does not exist."""
    given = body.given
    if given is None:
        note_owner(request, None)
        caller_of(request).require(KeyScope.ADMIN)
        return pauses.EVERYTHING
    kind, value = given
    if kind == "key":
        row = next((row for row in keys.every(context.database) if value in (row.id, row.name)), None)
        own = caller_of(request).key_id
        note_owner(request, row.id if row is not None else None)
        if row is None or not caller_of(request).sees(row.id):
            if own is not None:
                caller_of(request).require(KeyScope.ADMIN)
            raise _unknown("key", value, ())
        return Scope("key", row.id)
    note_owner(request, None)
    caller_of(request).require(KeyScope.ADMIN)
    there: Sequence[str]
    if kind == "model_id":
        there = context.catalogue.model_ids
    elif kind == "device":
        there = [item.device.key for item in nodes.devices(context.database)]
    elif kind == "node":
        there = [node.name for node, _ in nodes.nodes(context.database)]
    else:
        there = [name for name, job_type in JOB_TYPES.items() if job_type.runs_on != "web"]
    if value not in there:
        raise _unknown(kind, value, there)
    return Scope(cast(Literal["model_id", "device", "node", "job_type"], kind), value)


def _unknown(kind: str, value: str, there: Sequence[str]) -> InvalidField:
    what = {"model_id": "model", "job_type": "type of job"}.get(kind, kind)
    known = f"; there are: {', '.join(there[:_SHOWN])}" if there else ""
    return InvalidField(FieldError(("body", kind), f"there is no {what} {value!r}{known}", "unknown"))


def as_shown(context: Context, caller: Caller, rows: Sequence[PauseRow]) -> list[Pause]:
    """Return those of the pauses that the caller may see, as the API returns them."""
    rows = [row for row in rows if row.kind != "key" or caller.sees(row.value)]
    names = {}
    if any(row.kind == "key" for row in rows):
        names = {row.id: row.name for row in keys.every(context.database)}
    return [
        Pause(
            id=row.id,
            scope=pauses.scope_of(row).kind,
            value=names.get(row.value, row.value) or None,
            reason=row.reason,
            running=cast(Literal["finish", "yield"], row.running),
            created_at=clock.iso(row.created_at) or "",
            created_by=row.created_by,
            until=clock.iso(clock.from_epoch(row.until)) if row.until is not None else None,
        )
        for row in rows
    ]


OPERATIONS = (
    Operation(
        "POST", "/api/v1/queues/pause", pause, "pauseQueue", "Pause the queue, or a part of it",
        answers=(Answer(200, "All pauses that are in force and that the caller may see.", Pauses),),
        problems=(400, 413, 415, 422, 503), tag="operations", body=PauseRequest, body_required=False,
        scope=KeyScope.SUBMIT,
        description="Jobs are accepted meanwhile, and wait. No job of the scope starts after the response. A key "
        "without `admin` may pause only its own jobs. To pause a node is to drain it.",
    ),
    Operation(
        "POST", "/api/v1/queues/resume", resume, "resumeQueue", "End a pause",
        answers=(Answer(200, "All pauses that are in force and that the caller may see.", Pauses),),
        problems=(400, 413, 415, 422, 503), tag="operations", body=PauseScope, body_required=False,
        scope=KeyScope.SUBMIT,
        description="Ends the pause of exactly this scope; without one, nothing changes. Time spent paused does not "
        "count as waiting.",
    ),
)  # fmt: skip
