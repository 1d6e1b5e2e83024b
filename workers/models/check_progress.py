"""The progress of an integrity check, from what it reads and what a repair fetches."""

import time

from shared.database.tables import Job
from shared.messaging.progress import Progress
from shared.states import Phase
from workers.attempts.heartbeat import Heartbeat
from workers.models.fetch import plan as plans

_REPORT_SECONDS = 0.25


class CheckProgress:
    """Reports the progress of the check, at most four times a second."""

    def __init__(self, job: Job, heartbeat: Heartbeat, progress: Progress, total: int) -> None:
        self._job = job
        self._heartbeat = heartbeat
        self._progress = progress
        self._total = total
        self._before = 0  # bytes of finished models
        self._reading = 0
        self._read = 0  # bytes actually read, for the rate
        self._began = time.monotonic()
        self._next = 0.0

    def skip(self, size: int) -> None:
        self._before += size

    def verified(self, size: int) -> None:
        """Record that `size` bytes of the present model were read. A hanging disk does not count as progress."""
        if size == self._reading and self._heartbeat.percent > 0:
            return
        self._read += size - self._reading
        self._reading = size
        done = self._before + size
        percent = round(min(100.0, 100 * done / self._total), 1) if self._total else 100.0
        self._heartbeat.moved(Phase.VERIFYING, percent)
        rate = self._read / max(time.monotonic() - self._began, 0.001)
        self._report(Phase.VERIFYING, done, self._total, rate)

    def close(self) -> None:
        """Record that the present model has been read."""
        self._before += self._reading
        self._reading = 0

    def fetched(self, progress: plans.Progress) -> None:
        """Report the files that are fetched again. The percentage is the check's and does not change meanwhile."""
        self._report(Phase.FETCHING, progress.bytes_done, progress.bytes_total, progress.bytes_per_second)

    def _report(self, phase: Phase, done: int, total: int, rate: float) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _REPORT_SECONDS
        event = {
            "kind": "progress",
            "attempt": self._job.attempt,
            "phase": phase,
            "percent": self._heartbeat.percent,
            "bytes_done": min(done, total),
            "bytes_total": total,
            "bytes_per_second": round(rate),
            "eta_seconds": round(max(0, total - done) / rate, 1) if rate > 0 else None,
        }
        if self._progress.report(self._job.id, event):
            self._heartbeat.cancel()
