"""What a model's availability is: the state of its files with the state of its download laid over it. Pure.

It knows no table: files and downloads come as states, and words go out.
"""

from collections.abc import Iterable

from shared.states import REPLICA_READY, JobState, ReplicaState

# The best replica speaks for the model.
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
    """`files`: what a scan found, None where none has looked; `download`: the newest one of that model to that node.

    A model that can be used stays `available` while its update waits or is paused. Nothing can be said of files on a
    node that is silent.
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


def of_download(download: JobState, files: ReplicaState | None) -> ReplicaState:
    """The word for a download that somebody steers; for one that has ended, the word for what it left."""
    if download in (JobState.QUEUED, JobState.PAUSED):
        return ReplicaState(download.value)
    return of_replica(files, download)


def best(states: Iterable[ReplicaState]) -> ReplicaState:
    """The one that comes first in `BEST_FIRST`; unknown where there is none."""
    return min(states, key=BEST_FIRST.index, default=ReplicaState.UNKNOWN)
