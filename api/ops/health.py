"""What operators and load balancers ask: is it alive, is it ready, what runs where, how long are the queues."""

from collections import Counter
from datetime import timedelta
from typing import Literal

import anyio
import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import Caller, caller_of
from api.context import Context
from api.http.responses import answered
from api.operation import Answer, Operation
from api.schemas import jobs
from shared import clock
from shared.cluster import nodes
from shared.cluster.nodes import SeenDevice
from shared.database.tables import Job, Node, Sample
from shared.errors import DatabaseUnavailable
from shared.insight import samples
from shared.jobs import queues as queue_reads
from shared.messaging.progress import answers
from shared.states import Priority, Scope
from shared.telemetry import loop_reports
from shared.telemetry.loop_reports import SeenLoop

_PATIENCE_SECONDS = 0.5


async def healthz(context: Context, request: Request, query: BaseModel) -> Response:
    return answered(jobs.Health())


async def readyz(context: Context, request: Request, query: BaseModel) -> Response:
    """Really asks. Raises DatabaseUnavailable; everything else that is missing only degrades."""
    found: list[SeenDevice] | None = None
    drained: frozenset[str] = frozenset()
    loops: list[SeenLoop] = []
    with anyio.move_on_after(_PATIENCE_SECONDS):
        drained = await anyio.to_thread.run_sync(nodes.drained, context.database, abandon_on_cancel=True)
        loops = await anyio.to_thread.run_sync(loop_reports.seen, context.database, abandon_on_cancel=True)
        found = await anyio.to_thread.run_sync(nodes.devices, context.database, abandon_on_cancel=True)
    if found is None:
        raise DatabaseUnavailable("The database does not answer")
    reasons = []
    if not await _store_answers(context):
        reasons.append("store_unavailable")
    if not await anyio.to_thread.run_sync(answers, context.settings.redis, abandon_on_cancel=True):
        reasons.append("redis_unavailable")
    elif not loop_reports.dispatcher_heard(loops):
        reasons.append("no_dispatcher")
    alive = [device for device in found if device.alive(context.settings.device_silence_seconds)]
    if not alive:
        reasons.append("no_worker")
    elif all(device.device.node in drained for device in alive):
        reasons.append("drained")
    return answered(jobs.Readiness(status="degraded" if reasons else "ok", reasons=reasons))


async def _store_answers(context: Context) -> bool:
    with anyio.move_on_after(_PATIENCE_SECONDS):
        return await anyio.to_thread.run_sync(context.storage.answers, abandon_on_cancel=True)
    return False


def workers(context: Context, request: Request, query: BaseModel) -> Response:
    return answered(seen(context, caller_of(request)))


def seen(context: Context, caller: Caller) -> jobs.Workers:
    """Every device and node; of what runs, what the caller sees. Raises DatabaseUnavailable."""
    running = queue_reads.running(context.database)
    on_devices = {job.device_key: job for job in running}
    silence = context.settings.device_silence_seconds
    readings = samples.latest(context.database, clock.now() - timedelta(seconds=context.settings.reading_seconds))
    known = nodes.nodes(context.database)
    drained = {node.name for node, _ in known if node.drained_at is not None}
    devices = [
        _device(
            one,
            on_devices.get(one.device.key),
            readings.get(one.device.key),
            silence,
            drained=one.device.node in drained,
            caller=caller,
        )
        for one in nodes.devices(context.database)
    ]
    there = {device.node for device in devices if device.state != "offline"}
    counts = Counter(job.node for job in running)
    hidden = {job.id for job in running if not caller.sees(job.owner)}
    return jobs.Workers(
        devices=[one.model_copy(update={"job": None}) if one.job in hidden else one for one in devices],
        nodes=[
            _node(
                node,
                silent,
                counts[node.name],
                io_online=nodes.is_heard(silent, silence),
                devices_online=node.name in there,
            )
            for node, silent in known
        ],
    )


def queues(context: Context, request: Request, query: BaseModel) -> Response:
    depths = queue_reads.depths(context.database)
    return answered(
        jobs.Queues(
            queued=sum(depth.queued for depth in depths),
            running=sum(depth.running for depth in depths),
            waiting_for_model=sum(depth.waiting_for_model for depth in depths),
            oldest_age_seconds=max((age for depth in depths if (age := _age(depth)) is not None), default=None),
            queues=[
                jobs.QueueDepth(
                    priority=list(Priority)[depth.priority],
                    model_id=depth.model_id,
                    queued=depth.queued,
                    waiting_for_model=depth.waiting_for_model,
                    running=depth.running,
                    oldest_age_seconds=_age(depth),
                )
                for depth in depths
            ],
        )
    )


def _device(
    seen: SeenDevice, job: Job | None, sample: Sample | None, silence_seconds: float, *, drained: bool, caller: Caller
) -> jobs.DeviceStatus:
    device = seen.device
    state: Literal["idle", "busy", "draining", "drained", "offline"] = "idle"
    if not seen.alive(silence_seconds):
        state = "offline"
    elif drained:
        state = "drained" if job is None else "draining"
    elif job is not None:
        state = "busy"
    return jobs.DeviceStatus(
        node=device.node,
        index=device.index,
        kind="cuda" if device.kind == "cuda" else "cpu",
        uuid=device.uuid,
        name=device.name,
        memory_mb=device.memory_mb,
        worker=device.worker,
        pid=device.pid,
        visible=device.visible,
        state=state,
        job=job.id if job is not None and not job.hidden else None,
        warm=device.warm,
        sample=_sample(sample) if sample is not None and state != "offline" else None,
        last_seen=None if seen.said_goodbye else _ago(seen.silent_seconds),
        started_at=clock.iso(device.started_at) or "",
    )


def _sample(sample: Sample) -> jobs.DeviceSample:
    return jobs.DeviceSample(
        timestamp=clock.iso(sample.at) or "",
        utilization_percent=sample.utilization_percent,
        memory_used_mb=sample.memory_used_mb,
        memory_total_mb=sample.memory_total_mb,
        temperature_celsius=sample.temperature_celsius,
        power_watts=sample.power_watts,
        phase=sample.phase,
    )


def _node(node: Node, silent_seconds: float, running: int, *, io_online: bool, devices_online: bool) -> jobs.NodeStatus:
    heard = io_online or devices_online
    state: Literal["online", "draining", "drained", "offline"] = "online" if heard else "offline"
    if heard and node.drained_at is not None:
        state = "draining" if running else "drained"
    return jobs.NodeStatus(
        name=node.name,
        version=node.version,
        state=state,
        io_online=io_online,
        drained_at=clock.iso(node.drained_at),
        running_jobs=running,
        last_seen=None if node.seen_at == 0.0 else _ago(silent_seconds),
        started_at=clock.iso(node.started_at) or "",
        disk_total_mb=node.disk_total_mb,
        disk_free_mb=node.disk_free_mb,
    )


def _ago(seconds: float) -> str:
    """That long before now, by this process's clock: the database's own only measures the silence."""
    return clock.iso(clock.now() - timedelta(seconds=max(0.0, seconds))) or ""


def _age(depth: queue_reads.Depth) -> float | None:
    return None if depth.oldest_seconds is None else max(0.0, round(depth.oldest_seconds, 3))


OPERATIONS = (
    Operation(
        "GET", "/api/v1/workers", workers, "listWorkers", "Devices and nodes, and what runs where",
        answers=(Answer(200, "All that ever registered.", jobs.Workers),), problems=(503,), tag="operations",
        scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/queues", queues, "listQueues", "Queue depths and the age of the oldest job",
        answers=(Answer(200, "By priority and model.", jobs.Queues),), problems=(503,), tag="operations",
        scope=Scope.READ,
    ),
    Operation(
        "GET", "/healthz", healthz, "healthz", "Liveness",
        answers=(Answer(200, "The process answers.", jobs.Health),), tag="operations", scope=None,
    ),
    Operation(
        "GET", "/readyz", readyz, "readyz", "Readiness",
        answers=(Answer(200, "Jobs are accepted; `degraded` where something else is missing.", jobs.Readiness),),
        problems=(503,), tag="operations", scope=None,
    ),
)  # fmt: skip
