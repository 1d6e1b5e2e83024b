"""Cleanup: return the plan for each node, computed from rows, or execute it as one job for each node."""

import time
from collections.abc import Sequence

import anyio
import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import caller_of
from api.context import Context
from api.http import headers
from api.http.body import read_json
from api.http.responses import json_response
from api.jobs.node_jobs import accepted, check_node, check_target, cleanups, keyed
from api.operation import Answer, Operation
from api.schemas.models import cleanup as cleanup_schemas
from api.schemas.models.cleanup import CleanupRequest
from shared import clock
from shared.cluster import nodes
from shared.database.tables import Job
from shared.errors import NotFound
from shared.jobs import records
from shared.management import cleanup_facts, cleanup_plan
from shared.management.cleanup_plan import Action, CleanupPlan
from shared.states import JOB_ENDS, Scope

_WAIT_SECONDS = 30.0
_POLL_SECONDS = 0.1


async def cleanup(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    body = await read_json(request, CleanupRequest)
    plans = await anyio.to_thread.run_sync(_plans, context, body)
    rows: list[Job] = []
    extra = {}
    if not body.dry_run:
        jobs = await anyio.to_thread.run_sync(
            lambda: accepted(context, keyed(body, cleanups(context, body), key), caller)
        )
        extra = {"Idempotency-Replayed": "true"} if all(one.replayed for one in jobs) else {}
        rows = await _ended(context, [one.job for one in jobs])
    return json_response(_answer(body, plans, rows), extra=extra)


def _plans(context: Context, body: CleanupRequest) -> list[CleanupPlan]:
    """Return the plans of the requested nodes that are online. Raises InvalidField."""
    silence = context.settings.device_silence_seconds
    if body.node is not None:
        check_node(context, body.node)
    rows = [
        node
        for node, silent in nodes.nodes(context.database)
        if (nodes.is_heard(silent, silence) if body.node is None else node.name == body.node)
    ]
    check_target(body, rows)
    now = clock.now()
    return [
        cleanup_plan.plan(
            cleanup_facts.gather(
                context.database,
                context.catalogue,
                node.name,
                now,
                body.target_space_gb,
                body.keep_recent_days,
                context.settings.retention_days,
            )
        )
        for node in rows
    ]


async def _ended(context: Context, rows: Sequence[Job]) -> list[Job]:
    """Return the jobs once all have ended, or after 30 seconds."""
    deadline = time.monotonic() + _WAIT_SECONDS
    now = list(rows)
    while any(row.status not in JOB_ENDS for row in now) and time.monotonic() < deadline:
        await anyio.sleep(_POLL_SECONDS)
        now = await anyio.to_thread.run_sync(_reload, context, now)
    return now


def _reload(context: Context, rows: Sequence[Job]) -> list[Job]:
    found = []
    for row in rows:
        try:
            found.append(records.get(context.database, row.id))
        except NotFound:  # deleted meanwhile
            continue
    return found


def _answer(body: CleanupRequest, plans: Sequence[CleanupPlan], rows: Sequence[Job]) -> cleanup_schemas.Cleanup:
    free = [plan.free_bytes for plan in plans if plan.free_bytes is not None]
    executed = [action for row in rows for action in _executed(row)]
    return cleanup_schemas.Cleanup(
        dry_run=body.dry_run,
        recommendations=cleanup_schemas.CleanupPlan(
            total_space_available_gb=_gb(sum(free)) if free else None,
            target_space_gb=body.target_space_gb,
            space_to_free_gb=_gb(sum(plan.to_free_bytes for plan in plans)),
            cleanup_actions=[_action(plan.node, action) for plan in plans for action in plan.actions],
            reaches_target=all(plan.reaches_target for plan in plans),
            kept=[
                cleanup_schemas.KeptModel(model_id=kept.model_id, node=plan.node, reason=kept.reason)
                for plan in plans
                for kept in plan.kept
            ],
        ),
        executed_actions=executed,
        total_space_freed_gb=_gb(sum((row.result or {}).get("freed_bytes", 0) for row in rows)),
        job_ids=[row.id for row in rows],
        timestamp=clock.iso(clock.now()) or "",
    )


def _action(node: str, action: Action) -> cleanup_schemas.CleanupAction:
    return cleanup_schemas.CleanupAction(
        action_type=action.kind.value,
        model_id=action.model_id,
        space_freed_gb=_gb(action.bytes),
        reason=action.reason,
        last_used=clock.iso(action.last_used),
        node=node,
    )


def _executed(row: Job) -> list[cleanup_schemas.CleanupAction]:
    """Return what the job did, with the disk space that was actually freed."""
    return [
        cleanup_schemas.CleanupAction(
            action_type=action["action_type"],
            model_id=action["model_id"],
            space_freed_gb=_gb(action["freed_bytes"]),
            reason=action["reason"],
            last_used=action["last_used"],
            node=row.target_node or "",
        )
        for action in (row.result or {}).get("executed_actions", ())
    ]


def _gb(size: int) -> float:
    return round(size / 1e9, 6)


OPERATIONS = (
    Operation(
        "POST", "/api/v1/models/cleanup", cleanup, "cleanup", "Free space in the model storage",
        answers=(
            Answer(
                200, "The plan, and what was executed within 30 seconds.", cleanup_schemas.Cleanup,
                headers=("Idempotency-Replayed",),
            ),
        ),
        problems=(400, 409, 413, 415, 503), headers=("Idempotency-Key",), body=cleanup_schemas.CleanupRequest,
        tag="models", description="Nothing is removed unless `dry_run` is false.", scope=Scope.ADMIN,
    ),
)  # fmt: skip
