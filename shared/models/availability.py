"""A model's availability, from the state of its files and of its newest download. Pure: it reads no table."""

from collections.abc import Iterable

from shared.states import REPLICA_READY, JobState, ReplicaState

# A model has the availability of its best replica.
BEST_FIRST = (
    ReplicaState.AVAILABLE,
    ReplicaState.UPDATING,
    ReplicaState.DOWNLOADING,
    ReplicaState.PAUSED,
    ReplicaState.QUEUED,
    ReplicaState.CORRUPTED,
    ReplicaState.FAILED,
    ReplicaState.MISSING,
    ReplicaState.UNKNOWN,
)


def of_replica(files: ReplicaState | None, download: JobState | None, *, online: bool = True) -> ReplicaState:
    """Return the availability of one model on one node; unknown if the node is not `online`.

    `files`: the result of the last scan, None before the first. `download`: the newest one of the model to the node. A
    usable model stays `available` while its update waits or is paused.
    """
    if not online:
        return ReplicaState.UNKNOWN
    whole = files in REPLICA_READY
    if download == JobState.RUNNING:
        return ReplicaState.UPDATING if whole else ReplicaState.DOWNLOADING
    if whole:
        return ReplicaState.AVAILABLE
    if download in (JobState.QUEUED, JobState.PAUSED):
        return ReplicaState(download.value)
    if files is None or files == ReplicaState.UNKNOWN:
        return ReplicaState.FAILED if download == JobState.FAILED else ReplicaState.UNKNOWN
    if files == ReplicaState.CORRUPTED:
        return ReplicaState.CORRUPTED
    return ReplicaState.FAILED if download == JobState.FAILED else ReplicaState.MISSING


def with_base(own: ReplicaState, base: ReplicaState) -> ReplicaState:
    """Return the availability of a preset on a node, from that of its own files and that of its base there."""
    if own not in REPLICA_READY or base in REPLICA_READY:
        return own
    # A download of the preset that runs fetches the base.
    return ReplicaState.DOWNLOADING if own == ReplicaState.UPDATING else base


def of_download(download: JobState, files: ReplicaState | None) -> ReplicaState:
    """Return the availability as shown with a download; for one that has ended, that of the files."""
    if download in (JobState.QUEUED, JobState.PAUSED):
        return ReplicaState(download.value)
    return of_replica(files, download)


def best(states: Iterable[ReplicaState]) -> ReplicaState:
    """Return the state that is first in `BEST_FIRST`; unknown if there are none."""
    return min(states, key=BEST_FIRST.index, default=ReplicaState.UNKNOWN)
