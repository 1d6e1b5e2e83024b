"""Jobs that nodes carry out: downloads, integrity checks, cleanup. Each request is one job, or one for each node."""

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
from api.http.responses import answered
from api.jobs.handlers import ACCEPTED, shown
from api.operation import Answer, Operation
from api.schemas import cleanup as cleanup_schemas
from api.schemas import node_jobs as node_job_schemas
from api.schemas.cleanup import CleanupRequest
from api.schemas.node_jobs import DownloadRequest, IntegrityCheckRequest
from shared.catalogue.job_types import (
    CLEANUP,
    DOWNLOAD,
    INTEGRITY_CHECK,
    CleanupParams,
    DownloadParams,
    IntegrityCheckParams,
)
from shared.cluster import nodes
from shared.database.tables import Job, Node
from shared.errors import Conflict, InvalidField
from shared.jobs import download_control, records
from shared.jobs.records import Accepted, NewJob
from shared.states import Priority, Scope

_EVERY_MODEL = "all"


async def create_download(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    asked = await read_json(request, DownloadRequest)

    def work() -> Response:
        context.catalogue.get(asked.model_id)
        new = download(context, asked.model_id, _one_node(context, asked.node), asked.priority)
        params = new.params.model_copy(update={"revision": asked.revision})
        new = replace(new, params=params, bandwidth_mbps=asked.bandwidth_limit_mbps)
        return _made(context, asked, [new], key, caller)

    return await anyio.to_thread.run_sync(work)


async def create_integrity_check(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    asked = await read_json(request, IntegrityCheckRequest)

    def work() -> Response:
        model_id = None if asked.model_id == _EVERY_MODEL else asked.model_id
        if model_id is not None:
            context.catalogue.get(model_id)
        new = [
            NewJob(
                INTEGRITY_CHECK,
                IntegrityCheckParams(model_id=model_id, node=node, full=asked.full, repair=asked.repair),
                Priority.NORMAL,
                max_failures=context.settings.max_failures,
            )
            for node in _every_node(context, asked.node)
        ]
        return _made(context, asked, new, key, caller)

    return await anyio.to_thread.run_sync(work)


async def create_cleanup(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    asked = await read_json(request, CleanupRequest)
    return await anyio.to_thread.run_sync(lambda: _made(context, asked, cleanups(context, asked), key, caller))


def download(context: Context, model_id: str, node: str, priority: Priority) -> NewJob:
    """The catalogue's revision of the model, to that node."""
    params = DownloadParams(model_id=model_id, node=node)
    return NewJob(DOWNLOAD, params, priority, max_failures=context.settings.max_failures)


def cleanups(context: Context, asked: CleanupRequest) -> list[NewJob]:
    """One job for each node asked. Raises InvalidField where more space is wanted than a node's disk has."""
    names = _every_node(context, asked.node)
    check_target(asked, [node for node, _ in nodes.nodes(context.database) if node.name in names])
    return [
        NewJob(
            CLEANUP,
            CleanupParams(
                node=name,
                target_space_gb=asked.target_space_gb,
                keep_recent_days=asked.keep_recent_days,
                dry_run=asked.dry_run,
            ),
            Priority.NORMAL,
            max_failures=context.settings.max_failures,
        )
        for name in names
    ]


def check_target(asked: CleanupRequest, rows: Sequence[Node]) -> None:
    """Raises InvalidField where more is to be free than the disk of a node holds."""
    for node in rows:
        if asked.target_space_gb is not None and node.disk_total_mb is not None:
            total = node.disk_total_mb / 1e3
            if asked.target_space_gb > total:
                msg = f"{asked.target_space_gb:g} GB is more than the disk of node {node.name} has ({total:.1f} GB)"
                raise InvalidField.of("target_space_gb", msg, "less_than_equal")


def live_nodes(context: Context) -> list[str]:
    """Those whose io workers take jobs now, at least one. Raises Conflict.

    A drained one has to be named: then the job waits for it.
    """
    silence = context.settings.device_silence_seconds
    heard = [node for node, silent in nodes.nodes(context.database) if nodes.is_heard(silent, silence)]
    if not heard:
        raise Conflict(f"No node is online: no io worker was heard in the last {silence:g} s")
    taking = [node.name for node in heard if node.drained_at is None]
    if not taking:
        raise Conflict("Every node that is online is drained; name one, and the job waits for it")
    return taking


def check_node(context: Context, name: str) -> None:
    """Raises InvalidField for a node that has never been heard of."""
    known = [node.name for node, _ in nodes.nodes(context.database)]
    if name not in known:
        shown_names = ", ".join(known[:20]) or "none yet"
        raise InvalidField.of("node", f"there is no node {name!r}; there are: {shown_names}", "unknown")


def _one_node(context: Context, asked: str | None) -> str:
    if asked is not None:
        check_node(context, asked)
        return asked
    online = live_nodes(context)
    if len(online) > 1:
        raise InvalidField.of("node", f"name one; online are: {', '.join(online[:20])}", "missing")
    return online[0]


def _every_node(context: Context, asked: str | None) -> list[str]:
    if asked is not None:
        check_node(context, asked)
        return [asked]
    return live_nodes(context)


def accepted(context: Context, asked: Sequence[NewJob], caller: Caller) -> list[Accepted]:
    """On disk as the caller's, and told to the dispatcher.

    Raises InvalidField (the key), LimitReached, or Conflict naming the other download.
    """
    new = [caller.owning(one) for one in asked]
    made: list[Accepted] = []
    # The first carries the client's own key: where that means something else, no other job may come of it.
    for some in (new[:1], new[1:]):
        for job, outcome in zip(some, records.accept(context.database, some) if some else (), strict=True):
            if isinstance(outcome, Conflict):
                raise _under_way(context, job)
            if not isinstance(outcome, Accepted):
                raise outcome
            made.append(outcome)
    context.waker.wake()
    return made


def _under_way(context: Context, new: NewJob) -> Conflict:
    model_id, node = getattr(new.params, "model_id", None), getattr(new.params, "node", None)
    others = download_control.active(context.database, model_id, node)
    which = f"job {others[0].id}" if others else "a job that is just being cancelled"
    return Conflict(f"A download of {model_id} to node {node} is under way already: {which}")


def keyed(asked: BaseModel, new: Sequence[NewJob], key: str | None) -> list[NewJob]:
    """The jobs under the client's Idempotency-Key: the first bears it as it is, each other one a key made of it."""
    if key is None or not new:
        return list(new)
    said = {"type": new[0].type, "request": asked.model_dump(mode="json", exclude_unset=True)}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    keys = [key, *(hashlib.sha256(f"{key} {_node(one)}".encode()).hexdigest() for one in new[1:])]
    return [replace(one, idempotency_key=each, request_hash=digest) for one, each in zip(new, keys, strict=True)]


def _made(context: Context, asked: BaseModel, new: Sequence[NewJob], key: str | None, caller: Caller) -> Response:
    made = accepted(context, keyed(asked, new, key), caller)
    replayed = all(one.replayed for one in made)
    rows: list[Job] = [one.job for one in made]
    where = f"/api/v1/jobs/{rows[0].id}" if len(rows) == 1 else f"/api/v1/jobs?type={rows[0].type}"
    extra = {"Location": where, **({"Idempotency-Replayed": "true"} if replayed else {})}
    jobs_shown = shown(context, rows)
    body = jobs_shown[0] if len(rows) == 1 else node_job_schemas.Jobs(data=jobs_shown)
    return answered(body, 200 if replayed else 202, extra)


def _node(new: NewJob) -> str:
    return str(getattr(new.params, "node", ""))


_ACCEPTED_ON_NODES = (
    Answer(
        202, "The job, or one for each node, on disk and queued.", node_job_schemas.JobOrJobs, headers=("Location",)
    ),
    Answer(200, "What this key made before.", node_job_schemas.JobOrJobs, headers=("Location", "Idempotency-Replayed")),
)

OPERATIONS = (
    Operation(
        "POST", "/api/v1/jobs/download", create_download, "createDownload", "Fetch a model to a node",
        answers=ACCEPTED, problems=(400, 404, 409, 413, 415, 503, 507), headers=("Idempotency-Key",),
        body=node_job_schemas.DownloadRequest,
        description="409 where one of that model to that node is under way already.", scope=Scope.ADMIN,
    ),
    Operation(
        "POST", "/api/v1/jobs/integrity-check", create_integrity_check, "createIntegrityCheck",
        "Verify models, and repair them on request",
        answers=_ACCEPTED_ON_NODES, problems=(400, 404, 409, 413, 415, 503, 507), headers=("Idempotency-Key",),
        body=node_job_schemas.IntegrityCheckRequest, scope=Scope.ADMIN,
    ),
    Operation(
        "POST", "/api/v1/jobs/cleanup", create_cleanup, "createCleanup", "Cleanup as a job",
        answers=_ACCEPTED_ON_NODES, problems=(400, 409, 413, 415, 503, 507), headers=("Idempotency-Key",),
        body=cleanup_schemas.CleanupRequest, scope=Scope.ADMIN,
    ),
)  # fmt: skip
