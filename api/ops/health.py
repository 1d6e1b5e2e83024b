"""Probes for operators and load balancers: liveness and readiness."""

import anyio
import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas.ops import health
from shared.cluster import nodes
from shared.cluster.nodes import SeenDevice
from shared.errors import DatabaseUnavailable
from shared.messaging.progress import answers
from shared.telemetry import loop_reports
from shared.telemetry.loop_reports import SeenLoop

_TIMEOUT_SECONDS = 0.5


async def healthz(context: Context, request: Request, query: BaseModel) -> Response:
    return json_response(health.Health())


async def readyz(context: Context, request: Request, query: BaseModel) -> Response:
    """Check the database and other parts. Raises DatabaseUnavailable; other failures only degrade the status."""
    found: list[SeenDevice] | None = None
    drained: frozenset[str] = frozenset()
    loops: list[SeenLoop] = []
    heard: list[bool] = []  # of each node, whether its io worker is
    silence = context.settings.device_silence_seconds
    with anyio.move_on_after(_TIMEOUT_SECONDS):
        drained = await anyio.to_thread.run_sync(nodes.drained, context.database, abandon_on_cancel=True)
        loops = await anyio.to_thread.run_sync(loop_reports.seen, context.database, abandon_on_cancel=True)
        known = await anyio.to_thread.run_sync(nodes.nodes, context.database, abandon_on_cancel=True)
        heard = [nodes.is_heard(silent, silence) for _, silent in known]
        found = await anyio.to_thread.run_sync(nodes.devices, context.database, abandon_on_cancel=True)
    if found is None:
        raise DatabaseUnavailable("The database does not respond")
    reasons = []
    if not await _store_answers(context):
        reasons.append("store_unavailable")
    if not await anyio.to_thread.run_sync(answers, context.settings.redis, abandon_on_cancel=True):
        reasons.append("redis_unavailable")
    elif not loop_reports.dispatcher_heard(loops):
        reasons.append("no_dispatcher")
    alive = [device for device in found if device.alive(silence)]
    if not alive:
        reasons.append("no_worker")
    elif all(device.device.node in drained or device.device.quarantined_at is not None for device in alive):
        reasons.append("drained" if all(device.device.node in drained for device in alive) else "quarantined")
    if not any(heard):
        reasons.append("no_io_worker")
    return json_response(health.Readiness(status="degraded" if reasons else "ok", reasons=reasons))


async def _store_answers(context: Context) -> bool:
    with anyio.move_on_after(_TIMEOUT_SECONDS):
        return await anyio.to_thread.run_sync(context.storage.answers, abandon_on_cancel=True)
    return False


OPERATIONS = (
    Operation(
        "GET", "/healthz", healthz, "healthz", "Liveness",
        answers=(Answer(200, "The process is alive.", health.Health),), tag="operations", scope=None,
    ),
    Operation(
        "GET", "/readyz", readyz, "readyz", "Readiness",
        answers=(Answer(200, "Jobs are accepted; `degraded` if another part is missing.", health.Readiness),),
        problems=(503,), tag="operations", scope=None,
    ),
)  # fmt: skip
