"""The one rule that says which of its children a worker's main process may kill.

It judges requests that carry a job, by the job's row. A child may be killed where its attempt has lost its lease or its
job, where it does not heed a cancel within its grace, and where it is not done long after its job's end. Everything
else that a child does, a tick above all, is not judged here. Pure: no clock, no database, no process.
"""

from dataclasses import dataclass, replace

from shared.jobs.attempts import Held
from shared.states import JobState

# So many passes in a row an attempt is seen as lost before its process is killed: the child may be noticing it itself.
_LOST_PASSES = 2


@dataclass(frozen=True)
class Limits:
    """In seconds."""

    cancel_grace: float
    finishing: float


@dataclass(frozen=True)
class Answering:
    """What is known of one request that a child of this worker is answering."""

    worker: str
    pid: int
    attempt: int | None = None  # that it was seen to hold
    failures: int = 0  # of the job, when it was seen to hold it
    lost_passes: int = 0
    idle_since: float | None = None  # since when the row has not shown it as running here


@dataclass(frozen=True)
class Judgement:
    answering: Answering
    kill: str | None  # the reason, where it is to be killed


def judge(known: Answering, row: Held | None, now: float, limits: Limits) -> Judgement:
    """Judges a request by its job's row; None where the job has been purged. `now` is on any steady clock."""
    if row is not None and row.status == JobState.RUNNING and (row.worker, row.pid) == (known.worker, known.pid):
        holding = replace(known, attempt=row.attempt, failures=row.failures, lost_passes=0, idle_since=None)
        if row.lapsed:
            return Judgement(holding, "its lease has lapsed")
        if row.cancel_seconds is not None and row.cancel_seconds > limits.cancel_grace:
            return Judgement(holding, f"it has not heeded its cancel for {row.cancel_seconds:.0f} s")
        return Judgement(holding, None)
    if _has_lost(known, row):
        losing = replace(known, lost_passes=known.lost_passes + 1)
        return Judgement(losing, "its job was taken from it" if losing.lost_passes >= _LOST_PASSES else None)
    # Before the claim, or after an end that it wrote itself.
    since = now if known.idle_since is None else known.idle_since
    finishing = replace(known, lost_passes=0, idle_since=since)
    late = now - since > limits.finishing
    return Judgement(finishing, f"it is not done {now - since:.0f} s after its job's end" if late else None)


def _has_lost(known: Answering, row: Held | None) -> bool:
    """Whether somebody else has put its job back or given it up: that counts as a failure, or begins a new attempt."""
    if known.attempt is None or row is None:
        return False
    return row.attempt != known.attempt or row.failures > known.failures
