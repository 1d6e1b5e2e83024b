"""The stored states of jobs and replicas, and phases. Those that clients use are in `wanworks.states`."""

from enum import StrEnum

from wanworks.states import JOB_ENDS as JOB_ENDS
from wanworks.states import JobState as JobState
from wanworks.states import Priority as Priority
from wanworks.states import Scope as Scope


class Phase(StrEnum):
    """The phase of a job. A queued job can only be in `WAITING_FOR_MODEL`."""

    WAITING_FOR_MODEL = "waiting_for_model"
    LOADING = "loading"
    ENCODING = "encoding"
    DENOISING = "denoising"
    DECODING = "decoding"
    MUXING = "muxing"
    FINISHING = "finishing"  # muxed, checked and stored by another process, while the device runs the next job
    LISTING = "listing"  # a download lists the files on the hub
    FETCHING = "fetching"
    VERIFYING = "verifying"
    PREPARING = "preparing"  # copies of the weights are written in the form in which they are loaded
    REMOVING = "removing"


class ReplicaState(StrEnum):
    """The nine availability values of a model's files on one node, and `REMOVING`."""

    AVAILABLE = "available"
    UPDATING = "updating"
    DOWNLOADING = "downloading"
    PAUSED = "paused"
    QUEUED = "queued"
    CORRUPTED = "corrupted"
    FAILED = "failed"
    MISSING = "missing"
    UNKNOWN = "unknown"
    REMOVING = "removing"  # internal; shown as missing


# A replica in one of these can serve a generation now.
REPLICA_READY = frozenset({ReplicaState.AVAILABLE, ReplicaState.UPDATING})
