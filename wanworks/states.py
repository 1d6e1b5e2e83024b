"""The words that the API and its clients say: states of jobs, priorities, and what a key is good for."""

from enum import StrEnum


class JobState(StrEnum):
    QUEUED = "queued"  # stored and waiting: for a device, for its model, or for its back-off to pass
    RUNNING = "running"  # one attempt holds the lease
    PAUSED = "paused"  # a download that somebody stopped; its bytes are kept
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


JOB_ENDS = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class Priority(StrEnum):
    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 is served first."""
        return list(Priority).index(self)


class Scope(StrEnum):
    """What a key may be good for. A key has one or more of them; `admin` holds the others."""

    READ = "read"  # see its own jobs, and everything that is about the installation
    SUBMIT = "submit"  # ask for videos; cancel, retry and delete its own jobs
    ADMIN = "admin"  # all jobs, the models, the nodes, the alerts, Flower and the audit
