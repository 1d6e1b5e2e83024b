"""What may not start now: left out of placement, and recalled from devices that have not started it yet.

That is what is paused, and jobs of low priority outside their window until they are held.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from shared.database.engine import Database
from shared.database.tables import Pause
from shared.jobs import dispatch
from shared.jobs.claims import pauses
from shared.jobs.dispatch import Queue, Waiting
from shared.jobs.lines import windows
from shared.jobs.lines.windows import Windows


@dataclass(frozen=True)
class Pauses:
    """The pauses during one pass."""

    in_force: tuple[Pause, ...]
    resumed_at: Mapping[tuple[str, str], float]  # when each scope was last resumed, by (kind, value)
    windows: Windows = field(default_factory=Windows)
    now: float = 0.0

    @property
    def devices(self) -> frozenset[str]:
        """Return the keys of the paused devices."""
        return frozenset(row.value for row in self.in_force if row.kind == "device")

    @property
    def cover_nothing(self) -> bool:
        """Return whether every job may start."""
        return not self.in_force and self.windows.is_empty

    def covers(self, job: Waiting) -> bool:
        """Return whether the job may not start, wherever it would run."""
        if self.cover_nothing:
            return False
        if self.windows.closed(job.type, job.priority, job.owner, job.front_at, self.now):
            return True
        return (
            pauses.covering(
                self.in_force,
                model_id=job.model_id,
                owner=job.owner,
                job_type=job.type,
                node=job.target_node,
            )
            is not None
        )

    def left_out_of(self, queue: Queue) -> Queue:
        """Return the queue without the paused jobs, and with the waiting times that count."""
        if self.cover_nothing and not self.resumed_at:
            return queue
        return replace(queue, waiting=tuple(self._counted(job) for job in queue.waiting if not self.covers(job)))

    def _counted(self, job: Waiting) -> Waiting:
        since = self.waiting_since(job)
        return job if since == job.queued_at else job._replace(queued_at=since)

    def waiting_since(self, job: Waiting) -> float:
        """Return since when the job may start: a time in which it was paused is not counted as waiting."""
        if not self.resumed_at:
            return job.queued_at
        scopes = (("everything", ""), ("model_id", job.model_id), ("key", job.owner), ("job_type", job.type))
        return max((job.queued_at, *(self.resumed_at.get((kind, value or ""), 0.0) for kind, value in scopes)))


def read(database: Database, now: float) -> Pauses:
    """Return the pauses and windows at that moment by the database's clock. Raises DatabaseUnavailable."""
    return Pauses(tuple(pauses.in_force(database)), pauses.resumed_at(database), windows.read(database), now)


def startable(database: Database, queue: Queue, now: Pauses) -> Queue:
    """Return the queue without the paused jobs; their messages are recalled, and they do not count as unplaceable."""
    paused = [] if now.cover_nothing else [job for job in queue.waiting if now.covers(job)]
    if sent := [job.job_id for job in paused if job.dispatched_to is not None]:
        dispatch.recall(database, sent)
    if unplaceable := {job.line for job in paused if job.unplaceable_since is not None}:
        dispatch.forget_unplaceable(database, unplaceable)
    return now.left_out_of(queue)
