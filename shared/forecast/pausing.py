"""The pauses and windows during one pass: which jobs and devices may not start now, and since when the others may."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from shared.database.engine import Database
from shared.database.tables import Pause
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
        closed = self.windows.closed
        if not self.windows.is_empty and closed(job.type, job.priority, job.owner, job.front_at, self.now):
            return True
        # A pass asks this of every job that it reads, whatever the number of pauses.
        return not self._scopes.isdisjoint(pauses.scopes_over(job.model_id, job.owner, job.type, job.target_node))

    @cached_property
    def _scopes(self) -> frozenset[tuple[str, str]]:
        return frozenset((row.kind, row.value) for row in self.in_force)

    def covered_until(self, job: Waiting) -> float:
        """Return when all pauses that cover the job now are over: infinite if one has no end, 0 if there is none."""
        rows = [row for row in self.in_force if self._covers(row, job)]
        return max((math.inf if row.until is None else row.until for row in rows), default=0.0)

    def _covers(self, row: Pause, job: Waiting) -> bool:
        return (
            pauses.covering((row,), model_id=job.model_id, owner=job.owner, job_type=job.type, node=job.target_node)
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


def read(database: Database, queue: Queue) -> Pauses:
    """Return the pauses and windows at the moment of the queue. Raises DatabaseUnavailable.

    Where the queue was read without any, there is nothing more to read: the next pass sees what has come since, and
    claims read them in any case.
    """
    now = queue.now
    if not queue.has_rules:
        return Pauses((), {}, Windows(), now)
    return Pauses(tuple(pauses.in_force(database)), pauses.resumed_at(database), windows.read(database), now)
