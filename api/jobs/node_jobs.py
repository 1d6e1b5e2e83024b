"""Jobs that run on nodes: downloads, integrity checks, preparations, cleanups.

A request creates one job, or one for each node.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import Caller, caller_of
from api.context import Context
from api.http import headers
from api.http.body import read_json
from api.http.responses import json_response
from api.jobs.handlers import ACCEPTED
from api.jobs.objects import job_objects
from api.operation import Answer, Operation
from api.schemas.jobs import node_jobs as node_job_schemas
from api.schemas.jobs.node_jobs import DownloadRequest, IntegrityCheckRequest, PrepareRequest
from api.schemas.models import cleanup as cleanup_schemas
from api.schemas.models.cleanup import CleanupRequest
from api.services.admission import retry_rules
from shared.catalogue.job_types import (
    CLEANUP,
    DOWNLOAD,
    INTEGRITY_CHECK,
    PREPARE,
    CleanupParams,
    DownloadParams,
    IntegrityCheckParams,
    PrepareParams,
)
from shared.cluster import nodes
from shared.database.tables import Job, Node
from shared.errors import Conflict, InvalidField
from shared.jobs import accepting, download_control
from shared.jobs.accepting import Accepted, NewJob
from shared.states import Priority, Scope

_EVERY_MODEL = "all"


async def create_download(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    body = await read_json(request, DownloadRequest)
    return await anyio.to_thread.run_sync(lambda: _create(context, body, downloads(context, body), key, caller))


async def create_integrity_check(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    body = await read_json(request, IntegrityCheckRequest)
    return await anyio.to_thread.run_sync(lambda: _create(context, body, integrity_checks(context, body), key, caller))


async def create_cleanup(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    body = await read_json(request, CleanupRequest)
    return await anyio.to_thread.run_sync(lambda: _create(context, body, cleanups(context, body), key, caller))


async def create_prepare(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    body = await read_json(request, PrepareRequest)
    return await anyio.to_thread.run_sync(lambda: _create(context, body, preparations(context, body), key, caller))


def downloads(context: Context, body: DownloadRequest) -> list[NewJob]:
    """Return the requested download. Raises NotFound and InvalidField."""
    context.catalogue.get(body.model_id)
    new = download(context, body.model_id, _one_node(context, body.node), body.priority)
    params = new.params.model_copy(update={"revision": body.revision})
    retries = retry_rules.values(context.settings, body)
    return [replace(new, params=params, bandwidth_mbps=body.bandwidth_limit_mbps, **retries)]


def integrity_checks(context: Context, body: IntegrityCheckRequest) -> list[NewJob]:
    """Return one check for each requested node. Raises NotFound and InvalidField."""
    model_id = None if body.model_id == _EVERY_MODEL else body.model_id
    if model_id is not None:
        context.catalogue.get(model_id)
    retries = retry_rules.values(context.settings, body)
    return [
        NewJob(
            INTEGRITY_CHECK,
            IntegrityCheckParams(model_id=model_id, node=node, full=body.full, repair=body.repair),
            Priority.NORMAL,
            **retries,
        )
        for node in _every_node(context, body.node)
    ]


def preparations(context: Context, body: PrepareRequest) -> list[NewJob]:
    """Return one preparation for each requested node. Raises NotFound and InvalidField."""
    entry = context.catalogue.get(body.model_id)
    if body.quantization not in entry.quantizations:
        allowed = ", ".join(entry.quantizations)
        msg = f"{body.quantization!r} is not supported by {entry.model_id}; allowed: {allowed}"
        raise InvalidField.of("quantization", msg, "not_supported")
    retries = retry_rules.values(context.settings, body)
    return [
        NewJob(
            PREPARE,
            PrepareParams(model_id=body.model_id, node=node, quantization=body.quantization),
            Priority.NORMAL,
            **retries,
        )
        for node in _every_node(context, body.node)
    ]


def download(context: Context, model_id: str, node: str, priority: Priority) -> NewJob:
    """Return a download of the model's revision in the catalogue to the node."""
    params = DownloadParams(model_id=model_id, node=node)
    return NewJob(DOWNLOAD, params, priority, max_failures=context.settings.max_failures)


def cleanups(context: Context, body: CleanupRequest) -> list[NewJob]:
    """Return one cleanup for each requested node. Raises InvalidField if the target exceeds a node's disk."""
    names = _every_node(context, body.node)
    check_target(body, [node for node, _ in nodes.nodes(context.database) if node.name in names])
    return [
        NewJob(
            CLEANUP,
            CleanupParams(
                node=name,
                target_space_gb=body.target_space_gb,
                keep_recent_days=body.keep_recent_days,
                dry_run=body.dry_run,
            ),
            Priority.NORMAL,
            max_failures=context.settings.max_failures,
        )
        for name in names
    ]


def check_target(body: CleanupRequest, rows: Sequence[Node]) -> None:
    """Raise InvalidField if the target is more than the size of a node's disk."""
    for node in rows:
        if body.target_space_gb is not None and node.disk_total_mb is not None:
            total = node.disk_total_mb / 1e3
            if body.target_space_gb > total:
                msg = f"{body.target_space_gb:g} GB is more than the disk of node {node.name} has ({total:.1f} GB)"
                raise InvalidField.of("target_space_gb", msg, "less_than_equal")


def live_nodes(context: Context) -> list[str]:
    """Return the nodes whose io workers accept jobs, at least one. Raises Conflict if there is none.

    Drained nodes are left out; a job for one must name it and then waits.
    """
    silence = context.settings.device_silence_seconds
    online = [node for node, silent in nodes.nodes(context.database) if nodes.is_heard(silent, silence)]
    if not online:
        raise Conflict(f"No node is online: no io worker has sent a heartbeat in the last {silence:g} s")
    taking = [node.name for node in online if node.drained_at is None]
    if not taking:
        raise Conflict("All online nodes are drained. Name one in `node`, and the job waits until it is undrained.")
    return taking


def check_node(context: Context, name: str) -> None:
    """Raise InvalidField for a node that has never registered."""
    known = [node.name for node, _ in nodes.nodes(context.database)]
    if name not in known:
        shown_names = ", ".join(known[:20]) or "none yet"
        raise InvalidField.of("node", f"there is no node {name!r}; known nodes: {shown_names}", "unknown")


def _one_node(context: Context, name: str | None) -> str:
    if name is not None:
        check_node(context, name)
        return name
    online = live_nodes(context)
    if len(online) > 1:
        raise InvalidField.of(
            "node", f"is required, because several nodes are online: {', '.join(online[:20])}", "missing"
        )
    return online[0]


def _every_node(context: Context, name: str | None) -> list[str]:
    if name is not None:
        check_node(context, name)
        return [name]
    return live_nodes(context)


def accepted(context: Context, jobs: Sequence[NewJob], caller: Caller) -> list[Accepted]:
    """Commit the jobs under the caller's key and wake the dispatcher.

    Raises InvalidField (the Idempotency-Key), LimitReached, or Conflict with the id of the other download.
    """
    new = [caller.owning(one) for one in jobs]
    accepted_jobs: list[Accepted] = []
    # The first job has the client's own key. If that key was used for another request, no job may be created.
    for some in (new[:1], new[1:]):
        for job, outcome in zip(some, accepting.accept(context.database, some) if some else (), strict=True):
            if isinstance(outcome, Conflict):
                raise _under_way(context, job)
            if not isinstance(outcome, Accepted):
                raise outcome
            accepted_jobs.append(outcome)
    context.waker.wake()
    return accepted_jobs


def _under_way(context: Context, new: NewJob) -> Conflict:
    model_id, node = getattr(new.params, "model_id", None), getattr(new.params, "node", None)
    others = download_control.active(context.database, model_id, node)
    which = f"job {others[0].id}" if others else "a job that is being cancelled"
    return Conflict(f"A download of {model_id} to node {node} is already active: {which}")


def keyed(body: BaseModel, new: Sequence[NewJob], key: str | None) -> list[NewJob]:
    """Return the jobs with idempotency keys: the first has the client's, each other one a key derived from it."""
    if key is None or not new:
        return list(new)
    identity = {"type": new[0].type, "request": body.model_dump(mode="json", exclude_unset=True)}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    keys = [key, *(hashlib.sha256(f"{key} {_node(one)}".encode()).hexdigest() for one in new[1:])]
    return [replace(one, idempotency_key=each, request_hash=digest) for one, each in zip(new, keys, strict=True)]


def _create(context: Context, body: BaseModel, new: Sequence[NewJob], key: str | None, caller: Caller) -> Response:
    accepted_jobs = accepted(context, keyed(body, new, key), caller)
    replayed = all(one.replayed for one in accepted_jobs)
    rows: list[Job] = [one.job for one in accepted_jobs]
    where = f"/api/v1/jobs/{rows[0].id}" if len(rows) == 1 else f"/api/v1/jobs?type={rows[0].type}"
    extra = {"Location": where, **({"Idempotency-Replayed": "true"} if replayed else {})}
    created = job_objects(context, rows)
    body = created[0] if len(rows) == 1 else node_job_schemas.Jobs(data=created)
    return json_response(body, 200 if replayed else 202, extra)


def _node(new: NewJob) -> str:
    return str(getattr(new.params, "node", ""))


_ACCEPTED_ON_NODES = (
    Answer(202, "The queued job, or one for each node.", node_job_schemas.JobOrJobs, headers=("Location",)),
    Answer(
        200,
        "What was created earlier with this Idempotency-Key.",
        node_job_schemas.JobOrJobs,
        headers=("Location", "Idempotency-Replayed"),
    ),
)

OPERATIONS = (
    Operation(
        "POST", "/api/v1/jobs/download", create_download, "createDownload", "Download a model to a node",
        answers=ACCEPTED, problems=(400, 404, 409, 413, 415, 503, 507), headers=("Idempotency-Key",),
        body=node_job_schemas.DownloadRequest,
        description="Returns 409 if a download of the model to the node is already active.", scope=Scope.ADMIN,
    ),
    Operation(
        "POST", "/api/v1/jobs/integrity-check", create_integrity_check, "createIntegrityCheck",
        "Verify models, and optionally repair them",
        answers=_ACCEPTED_ON_NODES, problems=(400, 404, 409, 413, 415, 503, 507), headers=("Idempotency-Key",),
        body=node_job_schemas.IntegrityCheckRequest, scope=Scope.ADMIN,
    ),
    Operation(
        "POST", "/api/v1/jobs/cleanup", create_cleanup, "createCleanup", "Run a cleanup as a job",
        answers=_ACCEPTED_ON_NODES, problems=(400, 409, 413, 415, 503, 507), headers=("Idempotency-Key",),
        body=cleanup_schemas.CleanupRequest, scope=Scope.ADMIN,
    ),
    Operation(
        "POST", "/api/v1/jobs/prepare", create_prepare, "createPrepare",
        "Write copies of a model's weights in the form in which they are loaded",
        answers=_ACCEPTED_ON_NODES, problems=(400, 404, 409, 413, 415, 503, 507), headers=("Idempotency-Key",),
        body=node_job_schemas.PrepareRequest, scope=Scope.ADMIN,
    ),
)  # fmt: skip
