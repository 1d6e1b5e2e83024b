"""Keeps owners within their limits of jobs that hold devices at once. Pure.

A job that is dispatched to a device counts like a running one, so that no worker receives a job that it may not claim.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from scheduler.placement.devices import Assignment
from shared.jobs.dispatch import Queue


class OwnerLimits:
    """The room that each owner with a limit has left during one decision."""

    def __init__(self, queue: Queue, limits: Mapping[str, int]) -> None:
        """`queue`: the jobs of devices. `limits`: of the owners that have one."""
        self._queue = queue
        self._limits = limits
        self._out = {job.job_id for job in queue.waiting if job.dispatched_to is not None}
        held = Counter(job.owner for job in queue.busy)
        held.update(job.owner for job in queue.waiting if job.job_id in self._out)
        self._left = {owner: limit - held[owner] for owner, limit in limits.items()}
        self.skipped = False  # whether `within` has left out an assignment

    def excess(self) -> list[str]:
        """Return the dispatched jobs to recall, latest first: their owner's limit was lowered."""
        over = {owner: -left for owner, left in self._left.items() if left < 0}
        out = [job for job in self._queue.waiting if job.job_id in self._out and job.owner in over]
        found = []
        for job in sorted(out, key=lambda one: one.dispatched_at or 0.0, reverse=True):
            if job.owner is not None and over[job.owner] > 0:
                over[job.owner] -= 1
                found.append(job.job_id)
        return found

    def queue(self) -> Queue:
        """Return the queue without the jobs that wait for a running job of their own owner."""
        if all(left > 0 for left in self._left.values()):
            return self._queue
        waiting = tuple(job for job in self._queue.waiting if job.job_id in self._out or self._may_start(job.owner))
        return replace(self._queue, waiting=waiting)

    def within(self, decided: Iterable[Assignment]) -> Iterator[Assignment]:
        """Yield the assignments that leave every owner within its limit."""
        owners = {job.job_id: job.owner for job in self._queue.waiting} if self._limits else {}
        for assignment in decided:
            owner = owners.get(assignment.job_id)
            if owner in self._left and assignment.job_id not in self._out:
                if not self._may_start(owner):
                    self.skipped = True
                    continue
                self._left[owner] -= 1
            yield assignment

    def _may_start(self, owner: str | None) -> bool:
        return owner is None or self._left.get(owner, 1) > 0
