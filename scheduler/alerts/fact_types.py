"""What the alert rules judge: plain data, read by `scheduler/alerts/facts.py`."""

from dataclasses import dataclass

from shared.states import ReplicaState


@dataclass(frozen=True)
class ReplicaFact:
    node: str
    availability: ReplicaState
    faults: tuple[str, ...] = ()  # paths


@dataclass(frozen=True)
class ModelFact:
    model_id: str
    replicas: tuple[ReplicaFact, ...] = ()
    waiting: int = 0  # queued generations
    downloading: bool = False
    relative_seconds: tuple[float, ...] = ()  # of the latest successes, newest first, by what their size takes
    weights_id: str | None = None  # of a preset: the model whose files it uses


@dataclass(frozen=True)
class DeviceFact:
    key: str
    name: str
    silent_seconds: float
    stopped: bool  # it has deregistered
    temperature_celsius: float | None = None
    memory_percent: float | None = None
    quarantine_reason: str | None = None  # None: not quarantined
    ecc_uncorrected: int | None = None
    throttle_reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeFact:
    name: str
    silent_seconds: float
    stopped: bool
    disk_used_percent: float | None = None
    disk_free_gb: float | None = None


@dataclass(frozen=True)
class ProcessFact:
    node: str
    name: str
    state: str
    restarts: int


@dataclass(frozen=True)
class LoopFact:
    """A background loop of a live process."""

    process: str
    loop: str
    node: str
    every_seconds: float
    silent_seconds: float


@dataclass(frozen=True)
class RunningFact:
    job_id: str
    type: str
    model_id: str | None
    node: str | None
    idle_seconds: float | None  # without progress; None if unknown
    no_bytes: bool = False  # of a download: it receives none at present


@dataclass(frozen=True)
class LateFact:
    """A waiting job that is expected to start after its latest start, at which it fails. In seconds since 1970."""

    job_id: str
    model_id: str | None
    start_before: float
    expected_start: float


@dataclass(frozen=True)
class FailedDownload:
    job_id: str
    model_id: str
    node: str
    reason: str


@dataclass(frozen=True)
class Facts:
    """The current facts. None: unknown at present, which changes no alert."""

    models: tuple[ModelFact, ...] = ()
    devices: tuple[DeviceFact, ...] = ()
    nodes: tuple[NodeFact, ...] = ()
    processes: tuple[ProcessFact, ...] = ()
    loops: tuple[LoopFact, ...] = ()
    running: tuple[RunningFact, ...] = ()
    late: tuple[LateFact, ...] = ()
    failed_downloads: tuple[FailedDownload, ...] = ()  # those that are the newest of their model and node
    queued: int = 0
    oldest_queued_seconds: float | None = (
        None  # of jobs that could run; those that wait for a model have their own rule
    )
    succeeded_1h: int = 0
    failed_1h: int = 0
    disk_full_in_hours: float | None = None  # at the rate of the last hours; None: not filling up
    redis_away: bool = False
    redis_lost_seconds: float | None = None  # since its data was found missing
    dispatcher_silent: bool | None = None
    flower_answers: bool | None = None  # to HTTP requests
    beat_silent_seconds: float | None = None
