"""Values shared by the API and its clients: job states, priorities, and scopes of keys."""

from enum import StrEnum


class JobState(StrEnum):
    QUEUED = "queued"  # stored and waiting: for a device, for its model, or for its back-off to pass
    RUNNING = "running"  # one attempt holds the lease
    PAUSED = "paused"  # a download that was paused; its bytes are kept
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


JOB_ENDS = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})

FLOW_ENDS = frozenset({"succeeded", "failed", "cancelled"})


class Priority(StrEnum):
    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """Return the rank; 0 is served first."""
        return list(Priority).index(self)


class Scope(StrEnum):
    """What a key permits. A key has one or more scopes; `admin` includes the others."""

    READ = "read"  # see its own jobs, and everything about the installation
    SUBMIT = "submit"  # submit videos; cancel, retry and delete its own jobs
    ADMIN = "admin"  # all jobs, the models, the nodes, the alerts, Flower and the audit
