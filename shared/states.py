"""The words that rows say: states of jobs and replicas, and phases; with those that clients know as well."""

from enum import StrEnum

from wanworks.states import JOB_ENDS as JOB_ENDS
from wanworks.states import JobState as JobState
from wanworks.states import Priority as Priority
from wanworks.states import Scope as Scope


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
