"""The routes of flows: submit, list, show, cancel, retry."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import Caller, caller_of, note_owner
from api.context import Context
from api.flows import request as requests
from api.flows import views
from api.flows.eta import eta_seconds
from api.http import headers
from api.http.body import read_fields
from api.http.query import JOB_ID
from api.http.responses import json_response
from api.jobs.handlers import publish_cancel
from api.operation import Answer, Operation
from api.schemas.jobs.flows import Flow, FlowPage, FlowRequest, FlowsQuery
from api.services.admission import gpu_limits
from shared.catalogue.job_types import GENERATION
from shared.errors import NotFound
from shared.jobs.accepting import NewJob
from shared.jobs.flows import accepting, changing, reading
from shared.states import Scope


async def create_flow(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    fields = await read_fields(request)
    # Images are decoded there, of which only a few fit into memory at once.
    limiter = context.image_limiter if _has_images(fields) else None
    return await anyio.to_thread.run_sync(lambda: _create(context, fields, key, caller), limiter=limiter)


def list_flows(context: Context, request: Request, query: FlowsQuery) -> Response:
    page = reading.page(
        context.database, only=caller_of(request).only, limit=query.limit, after=query.after, state=query.state
    )
    last = page.flows[-1].flow.id if page.has_more else None
    return json_response(FlowPage(data=[views.summary(one) for one in page.flows], has_more=page.has_more, next=last))


def get_flow(context: Context, request: Request, query: BaseModel) -> Response:
    return json_response(_shown(context, _id_of(request), caller_of(request).only))


def cancel_flow(context: Context, request: Request, query: BaseModel) -> Response:
    flow_id, only = _id_of(request), caller_of(request).only
    note_owner(request, reading.owner_of(context.database, flow_id, only=only))
    done = changing.cancel(context.database, flow_id, only=only)
    for stopped in done.jobs:
        publish_cancel(context, stopped)
    return json_response(_shown(context, flow_id, only), 202)


def retry_flow(context: Context, request: Request, query: BaseModel) -> Response:
    flow_id, caller = _id_of(request), caller_of(request)
    was = changing.retriable(context.database, flow_id, only=caller.only)
    note_owner(request, was.flow.owner)
    new: dict[str, NewJob] = {}
    try:
        for name, job in was.jobs.items():
            if job.type != GENERATION:
                caller.require(Scope.ADMIN)
            again = caller.owning(context.admission.retry(job, None, caller.limits, in_flow=True))
            # They stay with the flow's owner, whose limit of queued jobs is counted if it is the caller.
            mine = caller.key_id == was.flow.owner
            new[name] = replace(again, owner=was.flow.owner, owner_may_queue=again.owner_may_queue if mine else None)
        gpu_limits.check_several(context.database, caller.limits, list(new.values()))
        changing.retry(context.database, was, new)
    except Exception:
        for one in new.values():
            context.admission.discard(one)
        raise
    context.waker.wake()
    return json_response(_shown(context, flow_id, caller.only), 202)


def _create(context: Context, fields: dict[str, Any], key: str | None, caller: Caller) -> Response:
    owned_key = f"{caller.key_id}\n{key}" if caller.key_id is not None else key
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    stored_key = hashlib.sha256((owned_key or "").encode()).hexdigest() if key is not None else None
    if (before := accepting.earlier(context.database, stored_key, digest)) is not None:
        return _accepted(context, before, replayed=True)
    new = replace(requests.admitted(context, fields, caller), idempotency_key=stored_key, request_hash=digest)
    try:
        gpu_limits.check_several(context.database, caller.limits, [node.job for node in new.nodes])
        done = accepting.accept(context.database, new)
    except Exception as error:
        if not accepting.may_exist(error):
            requests.discard(context, new)
        raise
    if done.replayed:
        requests.discard(context, new)
    context.waker.wake()
    return _accepted(context, done.flow.id, replayed=done.replayed)


def _accepted(context: Context, flow_id: str, *, replayed: bool) -> Response:
    extra = {"Location": f"/api/v1/flows/{flow_id}", **({"Idempotency-Replayed": "true"} if replayed else {})}
    return json_response(_shown(context, flow_id, None), 200 if replayed else 202, extra)


def _shown(context: Context, flow_id: str, only: str | None) -> Flow:
    whole = reading.get(context.database, flow_id, only=only)
    progress = context.live.of(views.running(whole.jobs))
    percents = {job_id: one.percent for job_id, one in progress.items()}
    devices = sum(host.open for host in context.hosts.seen().devices)
    eta = eta_seconds(context.database, whole, devices)
    return views.flow(whole, percents, eta, context.settings.public_path)


def _has_images(fields: dict[str, Any]) -> bool:
    jobs = fields.get("jobs")
    params = [job.get("params") for job in jobs if isinstance(job, dict)] if isinstance(jobs, list) else []
    pictures = (one.get(field) for one in params if isinstance(one, dict) for field in ("image", "last_image"))
    return any(isinstance(one, str) for one in pictures)


def _id_of(request: Request) -> str:
    flow_id = str(request.path_params["id"])
    if not JOB_ID.fullmatch(flow_id):
        raise NotFound("flow", flow_id)
    return flow_id


OPERATIONS = (
    Operation(
        "POST", "/api/v1/flows", create_flow, "createFlow", "Submit jobs that depend on one another",
        answers=(
            Answer(202, "The queued flow.", Flow, headers=("Location",)),
            Answer(
                200, "The flow that was created earlier with this Idempotency-Key.", Flow,
                headers=("Location", "Idempotency-Replayed"),
            ),
        ),
        problems=(400, 409, 413, 415, 503, 507), headers=("Idempotency-Key",), body=FlowRequest, scope=Scope.SUBMIT,
        tag="flows",
        description="All jobs are accepted, or none. Each needs the scope and passes the limits that it would need "
        "alone. Every invalid field of every job is reported.",
    ),
    Operation(
        "GET", "/api/v1/flows", list_flows, "listFlows", "List flows, newest first",
        answers=(Answer(200, "A page of flows.", FlowPage),), problems=(503,), query=FlowsQuery, scope=Scope.READ,
        tag="flows",
    ),
    Operation(
        "GET", "/api/v1/flows/{id}", get_flow, "getFlow", "One flow with its jobs",
        answers=(Answer(200, "The flow.", Flow),), problems=(404, 503), scope=Scope.READ, tag="flows",
    ),
    Operation(
        "POST", "/api/v1/flows/{id}/cancel", cancel_flow, "cancelFlow", "Cancel all jobs of a flow that have not ended",
        answers=(Answer(202, "The flow: cancelled, or with jobs that are about to stop.", Flow),),
        problems=(404, 409, 503), scope=Scope.SUBMIT, tag="flows",
        description="Cancelling a cancelled flow has no effect.",
    ),
    Operation(
        "POST", "/api/v1/flows/{id}/retry", retry_flow, "retryFlow", "Repeat the jobs of a flow that did not succeed",
        answers=(Answer(202, "The flow, queued again.", Flow),), problems=(404, 409, 503, 507), scope=Scope.SUBMIT,
        tag="flows",
        description="The jobs that failed, were cancelled or skipped are queued again as new jobs. Those that have "
        "succeeded stay.",
    ),
)  # fmt: skip
