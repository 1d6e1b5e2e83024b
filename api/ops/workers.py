"""List devices and nodes, and what runs on them."""

from collections import Counter
from collections.abc import Collection
from datetime import timedelta
from typing import Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import Caller, caller_of
from api.context import Context
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas.ops import nodes as node_schemas
from shared import clock
from shared.cluster import nodes
from shared.cluster.nodes import SeenDevice
from shared.database.tables import Job, Node, Pause, Sample
from shared.insight import samples
from shared.jobs import device_faults
from shared.jobs.claims import gangs, pauses
from shared.jobs.reading import queues as queue_reads
from shared.states import Phase, Scope


def workers(context: Context, request: Request, query: BaseModel) -> Response:
    return json_response(seen(context, caller_of(request)))


def seen(context: Context, caller: Caller) -> node_schemas.Workers:
    """Return all devices and nodes, with the running jobs that the caller may see. Raises DatabaseUnavailable."""
    running = queue_reads.running(context.database)
    holding = [job for job in running if job.phase != Phase.FINISHING and job.device_key is not None]
    on_devices = {key: job for job in holding for key in (job.device_key or "", *gangs.keys_of(job.members))}
    finishing = {job.device_key: job for job in running if job.phase == Phase.FINISHING}
    silence = context.settings.device_silence_seconds
    readings = samples.latest(context.database, clock.now() - timedelta(seconds=context.settings.reading_seconds))
    known = nodes.nodes(context.database)
    faults = device_faults.counts(context.database)
    paused = {row.value: row for row in pauses.in_force(context.database) if row.kind == "device"}
    drained = {node.name for node, _ in known if node.drained_at is not None}
    devices = [
        _device(
            one,
            on_devices.get(one.device.key),
            finishing.get(one.device.key),
            readings.get(one.device.key),
            silence,
            drained=one.device.node in drained,
            pause=paused.get(one.device.key),
            faults=faults.get((one.device.node, one.device.uuid), 0),
        )
        for one in nodes.devices(context.database)
    ]
    there = {device.node for device in devices if device.state != "offline"}
    counts = Counter(job.node for job in running)
    hidden = {job.id for job in running if not caller.sees(job.owner)}
    return node_schemas.Workers(
        devices=[_without(one, hidden) for one in devices],
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


def _without(device: node_schemas.DeviceStatus, hidden: Collection[str]) -> node_schemas.DeviceStatus:
    """Return the device without the jobs that the caller may not see."""
    jobs = {"job": device.job, "finishing_job": device.finishing_job}
    return device.model_copy(update={name: None for name, job in jobs.items() if job in hidden})


def _device(
    seen: SeenDevice,
    job: Job | None,
    finishing: Job | None,
    sample: Sample | None,
    silence_seconds: float,
    *,
    drained: bool,
    pause: Pause | None,
    faults: int,
) -> node_schemas.DeviceStatus:
    device = seen.device
    state: Literal["idle", "busy", "draining", "drained", "paused", "quarantined", "offline"] = "idle"
    if not seen.alive(silence_seconds):
        state = "offline"
    elif device.quarantined_at is not None:
        state = "quarantined"
    elif drained:
        state = "drained" if job is None and finishing is None else "draining"
    elif job is not None:
        state = "busy"
    elif pause is not None:
        state = "paused"
    return node_schemas.DeviceStatus(
        node=device.node,
        index=device.index,
        kind="cuda" if device.kind == "cuda" else "cpu",
        uuid=device.uuid,
        name=device.name,
        memory_mb=device.memory_mb,
        compute_capability=None if device.compute_capability is None else f"{device.compute_capability / 10:.1f}",
        worker=device.worker,
        pid=device.pid,
        visible=device.visible,
        state=state,
        job=job.id if job is not None and not job.deleted else None,
        finishing_job=finishing.id if finishing is not None and not finishing.deleted else None,
        warm=device.warm,
        faults=faults,
        quarantined_at=clock.iso(device.quarantined_at),
        quarantine_reason=device.quarantine_reason,
        paused_at=clock.iso(pause.created_at) if pause is not None else None,
        pause_reason=pause.reason if pause is not None else None,
        paused_until=clock.iso(clock.from_epoch(pause.until)) if pause is not None and pause.until else None,
        sample=_sample(sample) if sample is not None and state != "offline" else None,
        last_seen=None if seen.deregistered else _ago(seen.silent_seconds),
        started_at=clock.iso(device.started_at) or "",
    )


def _sample(sample: Sample) -> node_schemas.DeviceSample:
    return node_schemas.DeviceSample(
        timestamp=clock.iso(sample.at) or "",
        utilization_percent=sample.utilization_percent,
        memory_used_mb=sample.memory_used_mb,
        memory_total_mb=sample.memory_total_mb,
        temperature_celsius=sample.temperature_celsius,
        power_watts=sample.power_watts,
        phase=sample.phase,
        ecc_uncorrected=sample.ecc_uncorrected,
        throttle_reasons=None if sample.throttle_reasons is None else _listed(sample.throttle_reasons),
    )


def _listed(reasons: str) -> list[str]:
    return reasons.split(",") if reasons else []


def _node(
    node: Node, silent_seconds: float, running: int, *, io_online: bool, devices_online: bool
) -> node_schemas.NodeStatus:
    online = io_online or devices_online
    state: Literal["online", "draining", "drained", "offline"] = "online" if online else "offline"
    if online and node.drained_at is not None:
        state = "draining" if running else "drained"
    return node_schemas.NodeStatus(
        name=node.name,
        version=node.version,
        state=state,
        io_online=io_online,
        drained_at=clock.iso(node.drained_at),
        running_jobs=running,
        last_seen=None if node.seen_at == 0.0 else _ago(silent_seconds),
        started_at=clock.iso(node.started_at) or "",
        memory_mb=node.memory_mb,
        disk_total_mb=node.disk_total_mb,
        disk_free_mb=node.disk_free_mb,
    )


def _ago(seconds: float) -> str:
    """Return the time `seconds` before now by this process's clock; the database's clock measured the seconds."""
    return clock.iso(clock.now() - timedelta(seconds=max(0.0, seconds))) or ""


OPERATIONS = (
    Operation(
        "GET", "/api/v1/workers", workers, "listWorkers", "List devices and nodes with their running jobs",
        answers=(Answer(200, "All devices and nodes.", node_schemas.Workers),), problems=(503,), tag="operations",
        scope=Scope.READ,
    ),
)  # fmt: skip
