"""Bodies about nodes, devices and queues."""

from typing import Annotated, Any, Literal

from pydantic import Field

from api.schemas.fields import Public, Time
from shared.states import Priority


class DeviceSample(Public):
    """What was last read from the device, or of the worker's processes on a CPU; null where it does not tell."""

    timestamp: Time
    utilization_percent: Annotated[float | None, Field(description="On a CPU of one core, so it may pass 100.")]
    memory_used_mb: float | None
    memory_total_mb: float | None
    temperature_celsius: float | None
    power_watts: float | None
    phase: Annotated[str | None, Field(description="Of the job that ran there.")]


class DeviceStatus(Public):
    """One GPU, or CPU stand-in, and the worker that is pinned to it."""

    node: str
    index: int
    kind: Literal["cuda", "cpu"]
    uuid: str
    name: str
    memory_mb: int
    worker: str
    pid: int
    visible: Annotated[str, Field(description="CUDA_VISIBLE_DEVICES as the worker process sees it.")]
    state: Annotated[
        Literal["idle", "busy", "draining", "drained", "offline"],
        Field(description="`draining`: finishes its job and takes no other; `drained`: has done so."),
    ]
    job: Annotated[str | None, Field(description="Id of the job that runs there.")]
    warm: list[dict[str, Any]]
    sample: Annotated[DeviceSample | None, Field(description="Null where nothing was read lately.")] = None
    last_seen: Time | None
    started_at: Time


class NodeStatus(Public):
    """One host with its model storage. Disk sizes are in MB of 10^6 bytes."""

    name: str
    version: str
    state: Literal["online", "draining", "drained", "offline"]
    io_online: Annotated[
        bool,
        Field(description="Whether its io worker is heard, which alone does downloads, checks and clean-ups there."),
    ]
    drained_at: Annotated[Time | None, Field(description="Since when it takes nothing new, also while offline.")]
    running_jobs: Annotated[int, Field(description="Generations and the node's own jobs.")]
    last_seen: Annotated[Time | None, Field(description="Its io worker. Null: not yet, or stopped in good order.")]
    started_at: Time
    disk_total_mb: float | None
    disk_free_mb: float | None


class Workers(Public):
    """Every device and node that has ever registered."""

    devices: list[DeviceStatus]
    nodes: list[NodeStatus]


class Node(NodeStatus):
    """A node with its devices."""

    devices: list[DeviceStatus]


class Nodes(Public):
    """Every node that has registered and was not removed."""

    nodes: list[Node]


class QueueDepth(Public):
    """What waits and runs for one model at one priority."""

    priority: Priority
    model_id: Annotated[str | None, Field(description="Null: jobs for every model.")]
    queued: int
    waiting_for_model: Annotated[int, Field(description="Of the queued ones: no node holds the model.")]
    running: int
    oldest_age_seconds: Annotated[float | None, Field(description="How long the first of the queued ones has waited.")]


class Queues(Public):
    """Queue depths, most urgent first; an empty list where nothing waits or runs."""

    queued: int
    running: int
    waiting_for_model: int
    oldest_age_seconds: float | None
    queues: list[QueueDepth]
