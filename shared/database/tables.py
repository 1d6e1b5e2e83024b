"""The tables. Rows only: who may write each is said beside it, and nothing else does.

Times that people read are aware UTC datetimes from the writing process's clock. Times that decide something (leases,
bells, silence) are seconds since 1970 by the *database's* clock, so that nodes need not agree on the hour.
"""

from datetime import date, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Float, Index, false, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlmodel import Field, SQLModel

from shared.stored_names import COLUMNS, stored


class epoch_now(FunctionElement[float]):
    """The database's own clock: seconds since 1970 as a double."""

    type = Float()
    inherit_cache = True


@compiles(epoch_now, "sqlite")
def _epoch_now_sqlite(element: Any, compiler: SQLCompiler, **kwargs: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(epoch_now, "postgresql")
def _epoch_now_postgresql(element: Any, compiler: SQLCompiler, **kwargs: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


_OPEN = text("resolved_at IS NULL")
_OF_NODES = text("target_node IS NOT NULL")
_LIVE = text("revoked_at IS NULL")
_OWNED = text("owner IS NOT NULL")
_DOWNLOADING = text("type = 'download' AND status IN ('queued', 'running', 'paused')")
_QUEUED = text("status = 'queued'")
_DISPATCHED = text(f"status = 'queued' AND {COLUMNS['dispatched_to']} IS NOT NULL")


class Job(SQLModel, table=True):
    """A durable row that somebody asked for. Written by `shared/jobs/records.py` alone."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_ended", "status", "finished_at"),
        # The lines of the queue (`shared/jobs/lines.py`), each in order.
        Index("ix_jobs_line", "line", "queued_at", "phase", sqlite_where=_QUEUED, postgresql_where=_QUEUED),
        # What each device is called to.
        Index("ix_jobs_bell", "dispatched_to", sqlite_where=_DISPATCHED, postgresql_where=_DISPATCHED),
        # The order of the whole queue, whatever the model.
        Index("ix_jobs_order", "priority", "queued_at", sqlite_where=_QUEUED, postgresql_where=_QUEUED),
        # The few jobs of nodes are found among a million generations.
        Index(
            "ix_jobs_of_nodes",
            "type",
            "target_node",
            "model_id",
            "id",
            sqlite_where=_OF_NODES,
            postgresql_where=_OF_NODES,
        ),
        # What is to be dropped.
        Index(
            "ix_jobs_hidden",
            "id",
            sqlite_where=text(f"{COLUMNS['deleted']} IS 1"),
            postgresql_where=text(f"{COLUMNS['deleted']} IS true"),
        ),
        # What a key sees.
        Index("ix_jobs_owner", "owner", "id", sqlite_where=_OWNED, postgresql_where=_OWNED),
        # Those of one kind, in order: what lists are made of.
        Index("ix_jobs_kind", "status", "type", "model_id", "id"),
        Index(
            "ix_jobs_owner_kind",
            "owner",
            "status",
            "type",
            "model_id",
            "id",
            sqlite_where=_OWNED,
            postgresql_where=_OWNED,
        ),
        # One download of a model is under way to a node, never two.
        Index(
            "ix_jobs_one_download",
            "model_id",
            "target_node",
            unique=True,
            sqlite_where=_DOWNLOADING,
            postgresql_where=_DOWNLOADING,
        ),
    )

    id: str = Field(primary_key=True, max_length=36)  # a UUIDv7: sorts by creation
    type: str = Field(max_length=32)
    status: str = Field(max_length=16)
    model_id: str | None = Field(default=None, max_length=64)  # None: every model
    # What must be loaded: model and quantization.
    model_cache_key: str = Field(default="", max_length=80, sa_column_kwargs=stored("model_cache_key"))
    target_node: str | None = Field(default=None, max_length=64)  # where a node's job has to run
    priority: int  # rank; 0 is served first
    owner: str | None = Field(default=None, max_length=64)  # the API key that asked: who sees it, and whose turn it is
    mock: bool = False
    min_vram_mb: int = 0
    min_ram_mb: int = 0
    line: str = Field(default="", max_length=24, sa_column_kwargs={"server_default": ""})  # of `shared/jobs/lines.py`
    work: float = 0.0  # megapixels x frames x steps: what run-time estimates scale with
    params: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    labels: dict[str, str] = Field(sa_column=Column("metadata", JSON, nullable=False))
    idempotency_key: str | None = Field(default=None, max_length=255, unique=True)
    request_hash: str | None = Field(default=None, max_length=64)
    retry_of: str | None = Field(default=None, max_length=36)
    traceparent: str | None = Field(default=None, max_length=55)  # the W3C trace of the request that asked for it

    created_at: datetime
    queued_at: float
    not_before: float = 0.0  # back-off: not rung before this
    unplaceable_since: float | None = None  # since when nothing that is there could run it; None: something could
    started_at: datetime | None = None  # the winning attempt's claim
    finished_at: datetime | None = None

    phase: str | None = Field(default=None, max_length=32)
    percent: float = 0.0  # at the last pause or end; Redis has it live
    bytes_done: int | None = Field(default=None, sa_type=BigInteger)  # of a download, likewise
    bytes_total: int | None = Field(default=None, sa_type=BigInteger)
    bandwidth_mbps: float | None = None  # of a download; may change while it runs
    attempt: int = 0  # always rises: the fence
    failures: int = 0  # crashes and lapsed leases, held against max_failures
    max_failures: int = 5
    lease_until: float | None = None
    node: str | None = Field(default=None, max_length=64)
    worker: str | None = Field(default=None, max_length=160)
    pid: int | None = None  # of the process that runs the attempt: the worker's child
    device: str | None = Field(default=None, max_length=96)  # as people know it: the GPU's UUID, or cpu-0
    device_key: str | None = Field(default=None, max_length=96)
    claimed_at: float | None = None

    # The device or node whose queue the dispatch message is on.
    dispatched_to: str | None = Field(default=None, max_length=96, sa_column_kwargs=stored("dispatched_to"))
    dispatched_at: float | None = Field(default=None, sa_column_kwargs=stored("dispatched_at"))
    cancel_at: float | None = None  # when somebody asked to cancel
    # Of a running download: to pause, or to yield its slot.
    requested_action: str | None = Field(default=None, max_length=16, sa_column_kwargs=stored("requested_action"))
    paused_by: str | None = Field(default=None, max_length=16)  # owner, or disk_full
    # By its owner: the row is removed once the job has ended.
    deleted: bool = Field(default=False, sa_column_kwargs=stored("deleted"))

    error: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    result: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))

    webhook_url: str | None = Field(default=None, max_length=2000)  # told of the end
    webhook_progress: bool = Field(default=False, sa_column_kwargs={"server_default": false()})  # and of progress


class WebhookMessage(SQLModel, table=True):
    """One message about a job to the webhook that it names. Written by `shared/jobs/webhooks.py` alone.

    Made in the transaction that ends the job, so that no end goes untold.
    """

    __tablename__ = "webhook_messages"
    __table_args__ = (
        Index("ix_webhook_messages_due", "due_at", "receiver"),
        Index("ix_webhook_messages_job", "job_id", "type"),
        Index("ix_webhook_messages_state", "state", "id"),
    )

    id: str = Field(primary_key=True, max_length=64)  # the same at every try
    job_id: str = Field(max_length=36)
    type: str = Field(max_length=32)  # job.succeeded, job.failed, job.cancelled or job.progress
    url: str = Field(max_length=2000)
    # Host and port of the URL: deliveries to one receiver are limited, so that it cannot hold up the others.
    receiver: str = Field(default="", max_length=261, sa_column_kwargs={"server_default": ""})
    data: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    state: str = Field(max_length=16)  # waiting, delivered or dead
    created_at: datetime
    tries: int = 0
    due_at: float | None = None  # the next try, by the database's clock; while one is under way, when it is given up
    delivered_at: datetime | None = None
    error: str | None = Field(default=None, max_length=200)  # of the last try


class Use(SQLModel, table=True):
    """One ended generation, kept when its job is gone. Written with the job's end by `shared/jobs/records.py`."""

    __tablename__ = "uses"
    __table_args__ = (
        Index("ix_uses_model", "model_id", "finished_at"),
        Index("ix_uses_finished", "finished_at"),
        Index("ix_uses_owner", "owner", "finished_at", sqlite_where=_OWNED, postgresql_where=_OWNED),
    )

    id: int | None = Field(default=None, primary_key=True)
    job_id: str = Field(max_length=36, unique=True)
    model_id: str = Field(max_length=64)
    model_cache_key: str = Field(max_length=80, sa_column_kwargs=stored("model_cache_key"))
    outcome: str = Field(max_length=16)  # succeeded, failed or cancelled
    owner: str | None = Field(default=None, max_length=64)  # the API key that asked
    mock: bool = False
    node: str | None = Field(default=None, max_length=64)
    device: str | None = Field(default=None, max_length=96)
    device_name: str | None = Field(default=None, max_length=128)
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime
    seconds: float | None = None  # finished_at - started_at
    width: int
    height: int
    frames: int
    steps: int
    warm: bool | None = None
    timings: dict[str, float] = Field(sa_column=Column(JSON, nullable=False))  # seconds by phase
    peak_vram_mb: float | None = None
    profile: str | None = Field(default=None, max_length=64)  # the memory profile that it ran under
    quality: float | None = None  # the technical score of what was made, 0.0 to 1.0
    error_code: str | None = Field(default=None, max_length=64)


class ApiKey(SQLModel, table=True):
    """One key to the API, of which only a hash is kept. Written by `shared/access/keys.py` alone; never deleted."""

    __tablename__ = "api_keys"
    __table_args__ = (
        # A revoked key's name may be given again.
        Index("ix_api_keys_name", "name", unique=True, sqlite_where=_LIVE, postgresql_where=_LIVE),
    )

    id: str = Field(primary_key=True, max_length=36)  # a UUIDv7: what rows name as their owner
    name: str = Field(max_length=64)
    hash: str = Field(max_length=64, unique=True)  # SHA-256 of the whole key, which has 256 random bits
    hint: str = Field(max_length=16)  # its first characters, to tell keys apart by
    scopes: list[str] = Field(sa_column=Column(JSON, nullable=False))  # of submit, read, admin
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    used_at: datetime | None = None  # to the minute
    requests_per_minute: int | None = None
    queued_jobs: int | None = None
    gpu_seconds_per_day: float | None = None
    priority_ceiling: str | None = Field(default=None, max_length=16)  # the highest that its jobs may have


class AuditEntry(SQLModel, table=True):
    """One administrative act, done or refused. Written by `shared/access/audit.py` alone."""

    __tablename__ = "audit_entries"
    __table_args__ = (Index("ix_audit_entries_actor", "actor", "id"),)

    id: str = Field(primary_key=True, max_length=36)  # a UUIDv7
    at: datetime
    actor: str = Field(max_length=64)  # the key's name; "local" where no key was asked for; "cli" on the host itself
    key_id: str | None = Field(default=None, max_length=36)
    act: str = Field(max_length=64)  # the operation, as the API's document names it, or key.created and the like
    subject: str = Field(max_length=200)  # the path, or the name of what it was done to
    outcome: int  # the answer's HTTP status
    detail: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    request_id: str | None = Field(default=None, max_length=64)
    address: str | None = Field(default=None, max_length=64)  # whom the request came from


class Node(SQLModel, table=True):
    """One host with its model storage. Written by `cluster/nodes.py` alone."""

    __tablename__ = "nodes"

    name: str = Field(primary_key=True, max_length=64)
    version: str = Field(max_length=32)
    started_at: datetime
    seen_at: float
    disk_total_mb: float | None = None
    disk_free_mb: float | None = None
    drained_at: datetime | None = None  # since when it is to take nothing new; outlives its processes
    # As of a device, for its io worker.
    message_protocol: int = Field(default=1, sa_column_kwargs={**stored("message_protocol"), "server_default": "1"})


class Device(SQLModel, table=True):
    """One GPU or CPU stand-in and the worker that is pinned to it. Written by `cluster/nodes.py` alone."""

    __tablename__ = "devices"

    key: str = Field(primary_key=True, max_length=96)  # node/index
    node: str = Field(max_length=64, index=True)
    index: int
    kind: str = Field(max_length=8)  # cuda or cpu
    uuid: str = Field(max_length=96)
    name: str = Field(max_length=128)
    memory_mb: int
    worker: str = Field(max_length=160)
    pid: int
    visible: str = Field(default="", max_length=96)  # CUDA_VISIBLE_DEVICES as the worker process sees it
    started_at: datetime
    seen_at: float  # 0 once the worker has said goodbye
    # The newest protocol of dispatch messages that its worker reads.
    message_protocol: int = Field(default=1, sa_column_kwargs={**stored("message_protocol"), "server_default": "1"})
    warm: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))


class Sample(SQLModel, table=True):
    """What one device did at one moment. Written by `shared/insight/samples.py` alone; kept for a day."""

    __tablename__ = "samples"
    __table_args__ = (
        Index("ix_samples_device", "device_key", "at"),
        Index("ix_samples_model", "model_id", "at"),
        Index("ix_samples_at", "at"),
    )

    id: int | None = Field(default=None, primary_key=True)
    device_key: str = Field(max_length=96)
    at: datetime
    kind: str = Field(max_length=8)  # cuda: of the GPU, by NVML; cpu: of the worker's processes
    utilization_percent: float | None = None  # of the GPU; of one core for a process, so it may pass 100
    memory_used_mb: float | None = None
    memory_total_mb: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    job_id: str | None = Field(default=None, max_length=36)  # what ran at that moment
    model_id: str | None = Field(default=None, max_length=64)
    phase: str | None = Field(default=None, max_length=32)


class SampleHour(SQLModel, table=True):
    """A device's samples of one hour under one model, rolled up. Written by `shared/insight/samples.py` alone.

    Sums and counts go by figure, since a device may not tell all of them.
    """

    __tablename__ = "sample_hours"
    __table_args__ = (Index("ix_sample_hours_model", "model_id", "hour"),)

    device_key: str = Field(primary_key=True, max_length=96)
    hour: datetime = Field(primary_key=True)  # its beginning
    model_id: str = Field(primary_key=True, max_length=64)  # empty: nothing ran
    kind: str = Field(max_length=8)
    samples: int
    utilization_sum: float = 0.0
    utilization_count: int = 0
    memory_sum_mb: float = 0.0
    memory_max_mb: float = 0.0
    memory_count: int = 0
    memory_total_mb: float | None = None
    temperature_sum: float = 0.0
    temperature_max: float = 0.0
    temperature_count: int = 0
    power_sum: float = 0.0
    power_count: int = 0


class Snapshot(SQLModel, table=True):
    """The figures of the whole installation at one minute. Written by `shared/insight/snapshots.py` alone."""

    __tablename__ = "snapshots"

    at: datetime = Field(primary_key=True)
    total_models: int
    healthy_models: int
    active_models: int
    total_generations_24h: int
    average_quality_score: float | None = None
    average_performance_score: float | None = None
    system_load_percent: float | None = None
    memory_usage_percent: float | None = None
    alerts_count: int
    recommendations_count: int
    queued_jobs: int
    running_jobs: int
    oldest_queued_seconds: float | None = None
    succeeded_1h: int
    failed_1h: int
    average_generation_seconds: float | None = None  # of the successes of the last hour
    disk_used_percent: float | None = None
    disk_free_gb: float | None = None


class Alert(SQLModel, table=True):
    """One cause for concern, from its beginning to its end. Written by `shared/cluster/alerts.py` alone."""

    __tablename__ = "alerts"
    __table_args__ = (
        # One open alert for a rule and what it is about, never two.
        Index(
            "ix_alerts_one_open",
            "rule",
            "subject",
            unique=True,
            sqlite_where=_OPEN,
            postgresql_where=_OPEN,
        ),
        Index("ix_alerts_opened", "opened_at"),
    )

    id: str = Field(primary_key=True, max_length=36)  # a UUIDv7
    rule: str = Field(max_length=64)
    subject: str = Field(max_length=200)  # what it is about: a model, node, device, job or process; empty: all
    severity: str = Field(max_length=16)  # critical, warning or info
    model_id: str | None = Field(default=None, max_length=64)
    title: str = Field(max_length=200)
    message: str = Field(max_length=1000)
    action_required: bool
    suggested_action: str = Field(max_length=500)
    opened_at: datetime
    seen_at: datetime  # the last time that the cause was there
    resolved_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = Field(default=None, max_length=64)


class AlertWatch(SQLModel, table=True):
    """A cause that a rule sees, or that has gone and may come back. Written by `shared/cluster/alerts.py` alone."""

    __tablename__ = "alert_watches"

    rule: str = Field(primary_key=True, max_length=64)
    subject: str = Field(primary_key=True, max_length=200)
    since: datetime  # seen without a break since then
    gone_since: datetime | None = None  # of an open alert: not seen any more since then


class AlertDelivery(SQLModel, table=True):
    """One message about an alert to the webhook. Written by `shared/cluster/alerts.py` alone."""

    __tablename__ = "alert_deliveries"

    id: str = Field(primary_key=True, max_length=64)  # the message's id; the same at every try
    alert_id: str = Field(max_length=36, index=True)
    event: str = Field(max_length=32)  # alert.opened or alert.resolved
    tries: int = 0
    due_at: datetime | None  # the next try; None: it is over
    delivered_at: datetime | None = None
    error: str | None = Field(default=None, max_length=200)  # of the last try


class Process(SQLModel, table=True):
    """One process that a `wanworks up` supervises, as it says itself. Written by `cluster/nodes.py` alone."""

    __tablename__ = "processes"

    node: str = Field(primary_key=True, max_length=64)
    name: str = Field(primary_key=True, max_length=32)
    state: str = Field(max_length=16)  # starting, running, backoff, crash_loop or stopped
    restarts: int
    since: datetime
    seen_at: float  # when its supervisor last said so


class LoopReport(SQLModel, table=True):
    """When a background loop of one process last finished a pass. Written by `telemetry/loop_reports.py` alone."""

    __tablename__ = "loop_reports"

    process: str = Field(primary_key=True, max_length=160)  # as `gpu-0@node`
    loop: str = Field(primary_key=True, max_length=64)
    node: str = Field(max_length=64, index=True)
    every_seconds: float  # how often it is to run
    seen_at: float


class Replica(SQLModel, table=True):
    """One model's files on one node. Written by `shared/models/replicas.py` alone."""

    __tablename__ = "replicas"

    node: str = Field(primary_key=True, max_length=64)
    model_id: str = Field(primary_key=True, max_length=64)
    state: str = Field(max_length=16)  # of the files; downloads are added when it is read
    repo: str = Field(max_length=200)
    revision: str | None = Field(default=None, max_length=64)  # the commit sha
    bytes: int = Field(default=0, sa_type=BigInteger)
    missing_files: list[str] = Field(sa_column=Column(JSON, nullable=False))
    checked_at: datetime  # the last look at which files are there
    verified_at: datetime | None = None  # the last time that their hashes were checked
    verified_full: bool = False  # whether that read every byte
    verified_bytes: int = Field(default=0, sa_type=BigInteger)  # found right
    expected_bytes: int = Field(default=0, sa_type=BigInteger)  # of all the files that should be there
    faults: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))  # path, type
    # Rises whenever files that may be loaded were found wrong, repaired or removed: what was loaded before is stale.
    generation: int = 0


class ReplicaFile(SQLModel, table=True):
    """One file of a replica as it was last verified. Written by `shared/models/replicas.py` alone."""

    __tablename__ = "replica_files"

    node: str = Field(primary_key=True, max_length=64)
    model_id: str = Field(primary_key=True, max_length=64)
    path: str = Field(primary_key=True, max_length=500)
    revision: str = Field(max_length=64)
    size: int = Field(sa_type=BigInteger)  # expected
    oid: str = Field(max_length=64)  # sha256, or a git blob's sha1
    mtime: float | None = None  # with inode and size: whether it has been touched since it was verified
    inode: int | None = Field(default=None, sa_type=BigInteger)
    verified_at: datetime | None = None
    fault: str | None = Field(default=None, max_length=32)


class Blob(SQLModel, table=True):
    """One blob or partial blob in a node's cache, so that a dry run of cleanup plans from SQL.

    Written by `shared/models/replicas.py` alone.
    """

    __tablename__ = "blobs"

    node: str = Field(primary_key=True, max_length=64)
    repo: str = Field(primary_key=True, max_length=200)
    name: str = Field(primary_key=True, max_length=80)  # the oid; of a partial one with its ending
    bytes: int = Field(sa_type=BigInteger)
    partial: bool = False
    modified_at: datetime
    revisions: list[str] = Field(sa_column=Column(JSON, nullable=False))  # the snapshots that point to it


class ModelVersion(SQLModel, table=True):
    """What the hub last said of a model's newest commit. Written by `shared/models/replicas.py` alone."""

    __tablename__ = "model_versions"

    model_id: str = Field(primary_key=True, max_length=64)
    latest: str | None = Field(default=None, max_length=64)
    asked_at: datetime  # the last time that the hub was asked
    answered_at: datetime | None = None  # the last time that it answered
    failures: int = 0  # in a row


class Pin(SQLModel, table=True):
    """A model that cleanup must leave alone. Written by `shared/models/replicas.py` alone."""

    __tablename__ = "pins"

    model_id: str = Field(primary_key=True, max_length=64)
    pinned_at: datetime


class UseDay(SQLModel, table=True):
    """A model's uses of one day in UTC, rolled up. Written by `shared/jobs/usage.py` alone."""

    __tablename__ = "use_days"

    model_id: str = Field(primary_key=True, max_length=64)
    day: date = Field(primary_key=True)
    uses: int
    successes: int
    seconds: float  # summed over the successes
    busy_seconds: float = Field(default=0.0, sa_column_kwargs={"server_default": "0"})  # over all uses, failed ones too
    until: datetime  # what ended before this moment is counted; the day's end once it is over
    hours: list[int] = Field(sa_column=Column(JSON, nullable=False))  # uses by hour of the day
    histogram: dict[str, int] = Field(sa_column=Column(JSON, nullable=False))  # successes, by 1/16 octave


class Tick(SQLModel, table=True):
    """One run of one schedule: the row makes a tick happen once. Written by `shared/messaging/ticks.py` alone."""

    __tablename__ = "ticks"

    schedule: str = Field(primary_key=True, max_length=64)
    tick: int = Field(primary_key=True)
    ran_at: datetime
    outcome: str = Field(max_length=500)
    running_until: float | None = None  # while it is worked on: until when no other tick of its schedule may begin


class Installation(SQLModel, table=True):
    """What the whole installation agrees on, by name (the store's marker). Written by `cluster/nodes.py` alone."""

    __tablename__ = "installation"

    name: str = Field(primary_key=True, max_length=64)
    value: str = Field(max_length=500)
