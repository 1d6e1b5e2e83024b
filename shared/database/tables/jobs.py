"""Jobs, their webhook messages, and the uses that outlive them."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, false, text
from sqlmodel import Field, SQLModel

from shared.stored_names import COLUMNS, stored

_OF_NODES = text("target_node IS NOT NULL")
_OWNED = text("owner IS NOT NULL")
_DOWNLOADING = text("type = 'download' AND status IN ('queued', 'running', 'paused')")
_RETRIES = text("retry_of IS NOT NULL")
_OF_FLOWS = text("flow_id IS NOT NULL")
_BATCHED = text("batch_id IS NOT NULL")
_QUEUED = text("status = 'queued'")
_HELD = text("status = 'queued' AND held IS NOT NULL")
_EXPIRING = text("status = 'queued' AND start_before IS NOT NULL")
_DISPATCHED = text(f"status = 'queued' AND {COLUMNS['dispatched_to']} IS NOT NULL")


class Job(SQLModel, table=True):
    """One job. Only the modules of `shared/jobs` that `records` names write it."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_ended", "status", "finished_at"),
        # The lines of the queue (`shared/jobs/lines/names.py`), each in order.
        Index("ix_jobs_line", "line", "queued_at", "phase", sqlite_where=_QUEUED, postgresql_where=_QUEUED),
        # Queued jobs that may not start yet, and those that must start before a time.
        Index("ix_jobs_held", "held", "queued_at", sqlite_where=_HELD, postgresql_where=_HELD),
        Index("ix_jobs_expiring", "start_before", sqlite_where=_EXPIRING, postgresql_where=_EXPIRING),
        # What was dispatched to each device.
        Index("ix_jobs_bell", "dispatched_to", sqlite_where=_DISPATCHED, postgresql_where=_DISPATCHED),
        # The order of the whole queue, whatever the model.
        Index("ix_jobs_order", "priority", "queued_at", sqlite_where=_QUEUED, postgresql_where=_QUEUED),
        # Finds the few jobs of nodes among a million generations.
        Index(
            "ix_jobs_of_nodes",
            "type",
            "target_node",
            "model_id",
            "id",
            sqlite_where=_OF_NODES,
            postgresql_where=_OF_NODES,
        ),
        # Deleted jobs, which retention removes.
        Index(
            "ix_jobs_hidden",
            "id",
            sqlite_where=text(f"{COLUMNS['deleted']} IS 1"),
            postgresql_where=text(f"{COLUMNS['deleted']} IS true"),
        ),
        # The jobs of one key.
        Index("ix_jobs_owner", "owner", "id", sqlite_where=_OWNED, postgresql_where=_OWNED),
        # Whether a failed job has been retried.
        Index("ix_jobs_retries", "retry_of", sqlite_where=_RETRIES, postgresql_where=_RETRIES),
        # The jobs of one flow.
        Index("ix_jobs_flow", "flow_id", sqlite_where=_OF_FLOWS, postgresql_where=_OF_FLOWS),
        # The jobs of one batch, by state.
        Index("ix_jobs_batch", "batch_id", "status", "id", sqlite_where=_BATCHED, postgresql_where=_BATCHED),
        # The jobs of one kind in order. Lists merge these.
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
        # At most one unfinished download of a model to a node.
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
    model_id: str | None = Field(default=None, max_length=64)  # None: all models
    # What must be loaded: the model and its quantization.
    model_cache_key: str = Field(default="", max_length=80, sa_column_kwargs=stored("model_cache_key"))
    target_node: str | None = Field(default=None, max_length=64)  # of a node job: the node that it runs on
    priority: int  # 0 is served first
    owner: str | None = Field(default=None, max_length=64)  # id of the API key that submitted it
    mock: bool = False
    min_vram_mb: int = 0
    min_ram_mb: int = 0
    # What it needs under every layout, as `memory_plan.Needs` reads it; empty: the two figures above.
    memory_needs: str = Field(default="", max_length=160, sa_column_kwargs={"server_default": ""})
    devices: int = Field(default=1, sa_column_kwargs={"server_default": "1"})  # of one node, on which it runs
    line: str = Field(
        default="", max_length=24, sa_column_kwargs={"server_default": ""}
    )  # `shared/jobs/lines/names.py`
    work: float = 0.0  # megapixels x frames x steps; denoising takes time in proportion
    # Megapixels x frames; decoding takes time in proportion. 0: not known, because an earlier version has accepted it.
    volume: float = Field(default=0.0, sa_column_kwargs={"server_default": "0"})
    speed: str = Field(default="exact", max_length=16, sa_column_kwargs={"server_default": "exact"})  # the tier
    params: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    labels: dict[str, str] = Field(sa_column=Column("metadata", JSON, nullable=False))
    idempotency_key: str | None = Field(default=None, max_length=255, unique=True)
    request_hash: str | None = Field(default=None, max_length=64)
    retry_of: str | None = Field(default=None, max_length=36)
    flow_id: str | None = Field(default=None, max_length=36)  # the flow that it belongs to
    batch_id: str | None = Field(default=None, max_length=36)  # the batch with which it was submitted
    traceparent: str | None = Field(default=None, max_length=55)  # W3C trace context of the request that submitted it

    created_at: datetime
    queued_at: float  # since when it may start; its waiting time counts from then
    # Why a queued job stands in no line: it may not start before its `start_time`, before its `window` or before other
    # jobs of its flow (`dependency`); `bulk`, a web process carries it out. None: it stands in its line.
    held: str | None = Field(default=None, max_length=16)
    start_after: float | None = None
    start_before: float | None = None  # a job that has not started by then fails as `expired`
    front_at: float | None = None  # when an administrator moved it before all others
    not_before: float = 0.0  # back-off: not dispatched before this
    unplaceable_since: float | None = None  # since when no device or node has been able to run it; None: one can
    started_at: datetime | None = None  # when the winning attempt claimed it
    released_at: datetime | None = (
        None  # when its attempt left the device to the next job; None: it holds it to its end
    )
    finished_at: datetime | None = None

    phase: str | None = Field(default=None, max_length=32)
    percent: float = 0.0  # at the last pause or end; Redis has the current value
    bytes_done: int | None = Field(default=None, sa_type=BigInteger)  # of a download; likewise
    bytes_total: int | None = Field(default=None, sa_type=BigInteger)
    bandwidth_mbps: float | None = None  # of a download; may change while it runs
    attempt: int = 0  # only rises; writes of earlier attempts are refused
    # Its ended attempts, oldest first, once a second one was needed: see `attempts._note_attempt`.
    attempt_history: list[dict[str, Any]] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    failures: int = 0  # crashes and expired leases, compared with max_failures
    max_failures: int = 5
    retry_backoff_seconds: float | None = None  # after the first failure; None: the setting
    lease_until: float | None = None
    node: str | None = Field(default=None, max_length=64)
    worker: str | None = Field(default=None, max_length=160)
    pid: int | None = None  # of the process that runs the attempt: the worker's child
    device: str | None = Field(default=None, max_length=96)  # as shown to users: the GPU's UUID, or cpu-0
    device_key: str | None = Field(default=None, max_length=96)
    claimed_at: float | None = None
    avoid_device: str | None = Field(default=None, max_length=96)  # key of the last device that failed under this job

    # The device or node whose queue the dispatch message is on.
    dispatched_to: str | None = Field(default=None, max_length=96, sa_column_kwargs=stored("dispatched_to"))
    dispatched_at: float | None = Field(default=None, sa_column_kwargs=stored("dispatched_at"))
    # Of a gang: the keys of its other devices, separated by blanks. They count while it is dispatched or running.
    members: str = Field(default="", max_length=800, sa_column_kwargs={"server_default": ""})
    cancel_at: float | None = None  # when cancelling was requested
    # The latest checkpoint of a generation: the node whose disk has it, the completed steps, and when it was written.
    checkpoint_node: str | None = Field(default=None, max_length=64)
    checkpoint_step: int | None = None
    checkpoint_at: float | None = None
    checkpoint_stored_attempt: int | None = None  # whose latest checkpoint is in the store; it stays at the job's end
    resumed_from_step: int | None = None  # of a checkpoint, from which its latest attempt has continued
    preempted: int = Field(default=0, sa_column_kwargs={"server_default": "0"})  # how often
    # Of a running download: pause, or yield its slot. Of a running generation: yield or preempt.
    requested_action: str | None = Field(default=None, max_length=16, sa_column_kwargs=stored("requested_action"))
    paused_by: str | None = Field(default=None, max_length=16)  # owner, or disk_full
    # Deleted by its owner: the row is removed once the job has ended.
    deleted: bool = Field(default=False, sa_column_kwargs=stored("deleted"))

    error: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    result: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))

    webhook_url: str | None = Field(default=None, max_length=2000)  # receives a message at the end
    webhook_progress: bool = Field(
        default=False, sa_column_kwargs={"server_default": false()}
    )  # and messages about progress


class WebhookMessage(SQLModel, table=True):
    """One message about a job, batch or flow to the webhook that it names.

    Written by `shared/jobs/ending/webhooks.py` alone.
    The row is inserted in the transaction that ends the job or flow, so that no end remains unreported.
    """

    __tablename__ = "webhook_messages"
    __table_args__ = (
        Index("ix_webhook_messages_due", "due_at", "receiver"),
        Index("ix_webhook_messages_job", "job_id", "type"),
        Index("ix_webhook_messages_state", "state", "id"),
    )

    id: str = Field(primary_key=True, max_length=64)  # the same at each attempt to deliver
    job_id: str = Field(max_length=36)  # or the id of the batch or flow
    type: str = Field(max_length=32)  # job.progress; job., batch. or flow. and then succeeded, failed or cancelled
    url: str = Field(max_length=2000)
    # Host and port of the URL. Deliveries to one receiver are limited, so that it cannot delay the others.
    receiver: str = Field(default="", max_length=261, sa_column_kwargs={"server_default": ""})
    data: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    state: str = Field(max_length=16)  # waiting, delivered or dead
    created_at: datetime
    tries: int = 0
    due_at: float | None = None  # next try, by the database's clock; during a try, when it counts as lost
    delivered_at: datetime | None = None
    error: str | None = Field(default=None, max_length=200)  # of the last try


class Use(SQLModel, table=True):
    """One ended generation. It outlives its job. Written with the job's end by `shared/jobs/ending/ends.py`."""

    __tablename__ = "uses"
    __table_args__ = (
        Index("ix_uses_model", "model_id", "finished_at"),
        Index("ix_uses_finished", "finished_at"),
        Index("ix_uses_owner", "owner", "finished_at", sqlite_where=_OWNED, postgresql_where=_OWNED),
        # The latest times of a tier, whatever else has run since.
        Index("ix_uses_times", "model_cache_key", "speed", "mock", "outcome", "finished_at"),
        # The latest times of loading, however many have found the model loaded since.
        Index(
            "ix_uses_cold",
            "model_cache_key",
            "devices",
            "mock",
            "outcome",
            "finished_at",
            sqlite_where=text("warm IS 0"),
            postgresql_where=text("warm IS false"),
        ),
    )

    id: int | None = Field(default=None, primary_key=True)
    job_id: str = Field(max_length=36, unique=True)
    model_id: str = Field(max_length=64)
    model_cache_key: str = Field(max_length=80, sa_column_kwargs=stored("model_cache_key"))
    outcome: str = Field(max_length=16)  # succeeded, failed or cancelled
    owner: str | None = Field(default=None, max_length=64)  # id of the API key
    mock: bool = False
    node: str | None = Field(default=None, max_length=64)
    device: str | None = Field(default=None, max_length=96)
    device_name: str | None = Field(default=None, max_length=128)
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime
    seconds: float | None = None  # finished_at - started_at
    device_seconds: float | None = None  # for which it held devices, summed over them; None: `seconds`
    devices: int = Field(default=1, sa_column_kwargs={"server_default": "1"})  # on which it ran
    width: int
    height: int
    frames: int
    steps: int
    speed: str = Field(default="exact", max_length=16, sa_column_kwargs={"server_default": "exact"})  # the tier
    work: float | None = None  # as of its job; None: the job ended before this was recorded
    warm: bool | None = None
    timings: dict[str, float] = Field(sa_column=Column(JSON, nullable=False))  # seconds by phase
    # The step from which it continued a checkpoint. Its times are only of the rest, so no duration is measured by it.
    resumed_from_step: int | None = None
    peak_vram_mb: float | None = None
    profile: str | None = Field(default=None, max_length=64)  # the memory profile that was used
    quality: float | None = None  # technical score of the output, 0.0 to 1.0
    error_code: str | None = Field(default=None, max_length=64)


class UseDay(SQLModel, table=True):
    """A model's uses of one day in UTC, rolled up. Written by `shared/jobs/usage/by_day.py` alone."""

    __tablename__ = "use_days"

    model_id: str = Field(primary_key=True, max_length=64)
    day: date = Field(primary_key=True)
    uses: int
    successes: int
    seconds: float  # summed over the successes
    busy_seconds: float = Field(
        default=0.0, sa_column_kwargs={"server_default": "0"}
    )  # of all uses, including failed ones
    until: datetime  # uses that ended before this are counted; the day's end once the day is over
    hours: list[int] = Field(sa_column=Column(JSON, nullable=False))  # uses by hour of the day
    histogram: dict[str, int] = Field(sa_column=Column(JSON, nullable=False))  # successes, by 1/16 octave
