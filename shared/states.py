"""The words that rows and requests say: states of jobs and replicas, phases, priorities, and what a key is good for."""

from enum import StrEnum


class JobState(StrEnum):
    QUEUED = "queued"  # stored and waiting: for a device, for its model, or for its back-off to pass
    RUNNING = "running"  # one attempt holds the lease
    PAUSED = "paused"  # a download that somebody stopped; its bytes are kept
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


JOB_ENDS = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class Phase(StrEnum):
    """What a job is doing. `WAITING_FOR_MODEL` is the only one a queued job can be in."""

    WAITING_FOR_MODEL = "waiting_for_model"
    LOADING = "loading"
    ENCODING = "encoding"
    DENOISING = "denoising"
    DECODING = "decoding"
    MUXING = "muxing"
    LISTING = "listing"  # a download asks the hub what there is
    FETCHING = "fetching"
    VERIFYING = "verifying"
    REMOVING = "removing"


class Priority(StrEnum):
    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 is served first."""
        return list(Priority).index(self)


class ReplicaState(StrEnum):
    """The nine availability values of a model's files on one node, and the one on the way out."""

    AVAILABLE = "available"
    UPDATING = "updating"
    DOWNLOADING = "downloading"
    PAUSED = "paused"
    QUEUED = "queued"
    CORRUPTED = "corrupted"
    FAILED = "failed"
    MISSING = "missing"
    UNKNOWN = "unknown"
    REMOVING = "removing"  # within the house: shown as missing


# A replica in one of these can serve a generation now.
REPLICA_READY = frozenset({ReplicaState.AVAILABLE, ReplicaState.UPDATING})


class Scope(StrEnum):
    """What a key may be good for. A key has one or more of them; `admin` holds the others."""

    READ = "read"  # see its own jobs, and everything that is about the installation
    SUBMIT = "submit"  # ask for videos; cancel, retry and delete its own jobs
    ADMIN = "admin"  # all jobs, the models, the nodes, the alerts, Flower and the audit
