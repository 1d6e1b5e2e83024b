"""Nodes, devices, processes, and what the whole installation shares."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Index, false, text
from sqlmodel import Field, SQLModel

from shared.stored_names import stored

_OPEN = text("cleared_at IS NULL")


class Node(SQLModel, table=True):
    """One host with its model storage. Written by `cluster/nodes.py` alone."""

    __tablename__ = "nodes"

    name: str = Field(primary_key=True, max_length=64)
    version: str = Field(max_length=32)
    started_at: datetime
    seen_at: float
    disk_total_mb: float | None = None
    disk_free_mb: float | None = None
    memory_mb: int | None = None  # of its host, or of what a control group lets it use
    drained_at: datetime | None = None  # since when it accepts no new jobs; survives restarts
    # The newest protocol of dispatch messages that its io worker reads.
    message_protocol: int = Field(default=1, sa_column_kwargs={**stored("message_protocol"), "server_default": "1"})


class Device(SQLModel, table=True):
    """One GPU or CPU device and the worker that is pinned to it.

    Written by `cluster/nodes.py` alone, except for the quarantine, which `jobs/device_faults.py` writes.
    """

    __tablename__ = "devices"

    key: str = Field(primary_key=True, max_length=96)  # node/index
    node: str = Field(max_length=64, index=True)
    index: int
    kind: str = Field(max_length=8)  # cuda or cpu
    uuid: str = Field(max_length=96)
    name: str = Field(max_length=128)
    memory_mb: int
    compute_capability: int | None = None  # of a GPU, times ten: 89 is 8.9
    worker: str = Field(max_length=160)
    pid: int
    visible: str = Field(default="", max_length=96)  # CUDA_VISIBLE_DEVICES as the worker process sees it
    started_at: datetime
    seen_at: float  # 0 once the worker has deregistered
    # The newest protocol of dispatch messages that its worker reads.
    message_protocol: int = Field(default=1, sa_column_kwargs={**stored("message_protocol"), "server_default": "1"})
    # Whether it is to drop its loaded models once it is idle, because another device of its host needs the memory.
    must_release: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    warm: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))
    quarantined_at: datetime | None = None  # since when it accepts no jobs because it is faulty; survives restarts
    quarantine_reason: str | None = Field(default=None, max_length=300)


class DeviceFault(SQLModel, table=True):
    """One fault of a device. Written by `jobs/device_faults.py` alone.

    A device is identified by its node and UUID: a GPU keeps its faults if its index changes, and a new GPU under the
    same index has none.
    """

    __tablename__ = "device_faults"
    __table_args__ = (
        Index("ix_device_faults_open", "node", "uuid", sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_device_faults_job", "job_id"),
    )

    id: str = Field(primary_key=True, max_length=36)  # a UUIDv7
    node: str = Field(max_length=64)
    uuid: str = Field(max_length=96)  # of the GPU, or cpu-0
    device_key: str = Field(max_length=96)
    job_id: str | None = Field(default=None, max_length=36)  # that ran; None: the driver reported the fault
    attempt: int | None = None
    pid: int | None = None  # of the process that ran the attempt
    kind: str = Field(max_length=32)  # cuda_error, failed_probe, process_death or xid
    detail: str = Field(max_length=300)
    at: datetime
    cleared_at: datetime | None = None  # by a successful job or a release; until then it counts
    quarantine_reason: str | None = Field(default=None, max_length=300)  # if this fault quarantined the device


class Process(SQLModel, table=True):
    """One process supervised by `wanworks up`, as its supervisor reports it. Written by `cluster/nodes.py` alone."""

    __tablename__ = "processes"

    node: str = Field(primary_key=True, max_length=64)
    name: str = Field(primary_key=True, max_length=32)
    state: str = Field(max_length=16)  # starting, running, backoff, crash_loop or stopped
    restarts: int
    since: datetime
    seen_at: float  # when its supervisor last reported it


class LoopReport(SQLModel, table=True):
    """When a background loop of one process last finished a pass. Written by `telemetry/loop_reports.py` alone."""

    __tablename__ = "loop_reports"

    process: str = Field(primary_key=True, max_length=160)  # such as `gpu-0@node`
    loop: str = Field(primary_key=True, max_length=64)
    node: str = Field(max_length=64, index=True)
    every_seconds: float  # its period
    seen_at: float


class Tick(SQLModel, table=True):
    """One run of one schedule. The row makes it happen once. Written by `shared/messaging/ticks.py` alone."""

    __tablename__ = "ticks"

    schedule: str = Field(primary_key=True, max_length=64)
    tick: int = Field(primary_key=True)
    ran_at: datetime
    outcome: str = Field(max_length=500)
    running_until: float | None = None  # while it runs: until when no other run of its schedule may start


class Installation(SQLModel, table=True):
    """Values that the whole installation shares, such as the store's marker. Written by `cluster/nodes.py`.

    `shared/jobs/lines/windows.py` writes the window of low priority.
    """

    __tablename__ = "installation"

    name: str = Field(primary_key=True, max_length=64)
    value: str = Field(max_length=500)
