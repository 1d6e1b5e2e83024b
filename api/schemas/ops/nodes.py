"""Responses about nodes, devices and queues."""

from typing import Annotated, Any, Literal

from pydantic import Field

from api.schemas.fields import ResponseModel, Time
from api.schemas.ops.pauses import Pause
from shared.states import Priority


class DeviceSample(ResponseModel):
    """The latest measurements of a device or, on a CPU, of the worker's processes; null: not available."""

    timestamp: Time
    utilization_percent: Annotated[
        float | None, Field(description="On a CPU relative to one core, so it may exceed 100.")
    ]
    memory_used_mb: float | None
    memory_total_mb: float | None
    temperature_celsius: float | None
    power_watts: float | None
    phase: Annotated[str | None, Field(description="The phase of the job that ran at that time.")]
    ecc_uncorrected: Annotated[
        int | None, Field(description="Uncorrectable memory errors since the driver was loaded.")
    ] = None
    throttle_reasons: Annotated[
        list[str] | None,
        Field(description="Why the driver reduces the clock rate, such as `hw_thermal_slowdown`; empty: it does not."),
    ] = None


class DeviceStatus(ResponseModel):
    """A GPU, or a CPU used as a device, and the worker that is pinned to it."""

    node: str
    index: int
    kind: Literal["cuda", "cpu"]
    uuid: str
    name: str
    memory_mb: int
    compute_capability: Annotated[
        str | None, Field(description="Of a GPU, such as `8.9`; fp8 needs that or more. Null: a CPU, or unknown.")
    ] = None
    worker: str
    pid: int
    visible: Annotated[str, Field(description="The worker process's CUDA_VISIBLE_DEVICES.")]
    state: Annotated[
        Literal["idle", "busy", "draining", "drained", "paused", "quarantined", "offline"],
        Field(
            description="`draining`: finishes its job and accepts no other; `drained`: idle and accepts no jobs; "
            "`paused`: idle, and a pause covers it; `quarantined`: faulty, accepts no jobs until it is released."
        ),
    ]
    job: Annotated[str | None, Field(description="The id of the job that it runs.")]
    finishing_job: Annotated[
        str | None,
        Field(description="The id of the job before it, whose video is encoded, checked and stored meanwhile."),
    ] = None
    warm: list[dict[str, Any]]
    faults: Annotated[int, Field(description="Faults in a row, without a successful job between them.")] = 0
    quarantined_at: Annotated[Time | None, Field(description="Since when it is quarantined.")] = None
    quarantine_reason: str | None = None
    paused_at: Annotated[Time | None, Field(description="Since when it is paused. A job that runs there finishes.")] = (
        None
    )
    pause_reason: Annotated[str | None, Field(description="Why; null: it is not paused.")] = None
    paused_until: Annotated[Time | None, Field(description="When the pause ends by itself; null: it does not.")] = None
    sample: Annotated[DeviceSample | None, Field(description="Null: no recent measurement.")] = None
    last_seen: Time | None
    started_at: Time


class NodeStatus(ResponseModel):
    """A host with its model storage. Disk sizes are in MB of 10^6 bytes."""

    name: str
    version: str
    state: Literal["online", "draining", "drained", "offline"]
    io_online: Annotated[
        bool,
        Field(description="Whether its io worker is online, which runs downloads, integrity checks and cleanups."),
    ]
    drained_at: Annotated[Time | None, Field(description="Since when it is drained and accepts no new jobs.")]
    running_jobs: Annotated[int, Field(description="Running generations and node jobs.")]
    last_seen: Annotated[
        Time | None, Field(description="Last heartbeat of its io worker. Null: none yet, or the worker was shut down.")
    ]
    started_at: Time
    memory_mb: Annotated[int | None, Field(description="Of its host, in 10^6 bytes.")] = None
    disk_total_mb: float | None
    disk_free_mb: float | None


class Workers(ResponseModel):
    """All devices and nodes that have ever registered."""

    devices: list[DeviceStatus]
    nodes: list[NodeStatus]


class Node(NodeStatus):
    """A node with its devices."""

    devices: list[DeviceStatus]


class Nodes(ResponseModel):
    """All registered nodes that were not removed."""

    nodes: list[Node]


class QueueDepth(ResponseModel):
    """The numbers of queued and running jobs of one model at one priority."""

    priority: Priority
    model_id: Annotated[str | None, Field(description="Null: jobs for all models.")]
    queued: int
    waiting_for_model: Annotated[int, Field(description="Queued jobs whose model is on no node.")]
    running: int
    oldest_age_seconds: Annotated[float | None, Field(description="Age of the oldest queued job.")]


class Queues(ResponseModel):
    """Queue depths, highest priority first; empty if no job is queued or running."""

    queued: int
    running: int
    waiting_for_model: int
    held: Annotated[int, Field(description="Further queued jobs that may not start before a time.")] = 0
    oldest_age_seconds: float | None
    queues: list[QueueDepth]
    pauses: Annotated[list[Pause], Field(description="What is paused now; of keys, only the caller's own.")] = []
