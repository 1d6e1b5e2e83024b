"""The one rule that decides which of its children a worker's main process may kill.

It applies to requests that carry a job and reads the job's row. A child may be killed if its attempt has lost its lease
or its job, if it ignores a cancel for longer than the grace period, or if it is not done long after its job's end. It
does not apply to other tasks, in particular scheduled work. Pure: no clock, no database, no process.
"""

from dataclasses import dataclass, replace

from shared.jobs.reading.running_attempts import Held
from shared.states import JobState

# An attempt must be lost in so many successive passes before its process is killed: the child may be about to notice.
_LOST_PASSES = 2


@dataclass(frozen=True)
class Limits:
    """In seconds."""

    cancel_grace: float
    finishing: float


@dataclass(frozen=True)
class Answering:
    """One request that a child of this worker is processing."""

    worker: str
    pid: int | None  # None: the process that finishes jobs, which no row names
    attempt: int | None = None  # that it held when last seen
    failures: int = 0  # of the job, when it was seen to hold it
    lost_passes: int = 0
    idle_since: float | None = None  # since when the row has not been running here


@dataclass(frozen=True)
class Judgement:
    answering: Answering
    kill: str | None  # the reason to kill the process, or None


def judge(
    known: Answering, row: Held | None, now: float, limits: Limits, *, waits_for_another: bool = False
) -> Judgement:
    """Judge a request by its job's row, None if the job was purged. `now` may be of any monotonic clock.

    `waits_for_another`: its process runs another job, which holds the device.
    """
    if row is not None and row.status == JobState.RUNNING and _is_in_its_hands(known, row):
        holding = replace(known, attempt=row.attempt, failures=row.failures, lost_passes=0, idle_since=None)
        if row.lapsed:
            return Judgement(holding, "its lease has expired")
        if row.cancel_seconds is not None and row.cancel_seconds > limits.cancel_grace:
            return Judgement(holding, f"it has ignored its cancel for {row.cancel_seconds:.0f} s")
        return Judgement(holding, None)
    if _has_lost(known, row):
        losing = replace(known, lost_passes=known.lost_passes + 1)
        return Judgement(losing, "its job was taken from it" if losing.lost_passes >= _LOST_PASSES else None)
    # Before the claim, or after an end that it wrote itself, or after another process has taken the attempt over.
    if row is not None and row.finishing:
        known = replace(known, attempt=None)  # another process ends it now
    since = now if known.idle_since is None or waits_for_another else known.idle_since
    finishing = replace(known, lost_passes=0, idle_since=since)
    late = now - since > limits.finishing
    return Judgement(finishing, f"it is not done {now - since:.0f} s after its job's end" if late else None)


def _is_in_its_hands(known: Answering, row: Held) -> bool:
    if row.worker != known.worker:
        return False
    return row.finishing if known.pid is None else row.pid == known.pid and not row.finishing


def _has_lost(known: Answering, row: Held | None) -> bool:
    """Return whether another process has returned or failed its job: a failure was counted, or a new attempt began."""
    if known.attempt is None or row is None:
        return False
    return row.attempt != known.attempt or row.failures > known.failures
