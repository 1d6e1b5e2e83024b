"""Starts the process that finishes jobs (`finisher.py`), starts it again when it ends, and kills it when it is stuck.

The same rule as for the pool's children decides about killing. Nothing that happens to this process is a fault of the
device.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress

from shared.errors import StoreFull, Unavailable
from shared.jobs import finishing
from shared.jobs.reading import running_attempts
from shared.telemetry.loops import Loop
from workers.processes import process
from workers.processes.kill_rule import Answering, Limits, judge

log = logging.getLogger("wanworks.finisher")

_PASS_SECONDS = 0.25
# The process starts this long after its worker, or with the first handover: a worker that starts has other work first.
_FIRST_START_SECONDS = 5.0
_JUDGE_SECONDS = 2.0
_SHORT_LIFE_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 10.0
# So many starts in a row renew the lease of what waits. A process that cannot start at all must lose its job.
_RENEWING_STARTS = 3


class FinisherWatch:
    """Supervises the process. It is in the worker's main process."""

    def __init__(self) -> None:
        settings = process.settings()
        self._handovers = process.handovers()
        self._lease_seconds = settings.lease_seconds
        self._limits = Limits(settings.cancel_grace_seconds, settings.finishing_limit_seconds)
        self._answering: dict[tuple[str, int], Answering] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = self._judged_at = float("-inf")
        self._first_start_at = time.monotonic() + _FIRST_START_SECONDS
        self._short_lives = 0
        self._lock = threading.Lock()  # between a pass and `stop`
        meters, reporter = process.meters(), process.reporter()
        self.loop = Loop("finisher", _PASS_SECONDS, self.watch, meters=meters, reporter=reporter)

    def start(self) -> None:
        self.loop.start()

    def stop(self, seconds: float) -> None:
        """Let the process end the attempt that it finishes within this time, then kill it."""
        with self._lock:
            self.loop.stopping.set()
            running = self._process
        if running is not None:
            running.terminate()
            with suppress(subprocess.TimeoutExpired):
                running.wait(seconds)
            running.kill()
            running.wait()
        self.loop.stop()

    def watch(self) -> None:
        with self._lock:
            if self.loop.stopping.is_set():
                return
            if self._is_needed():
                self._keep_running()
        if time.monotonic() - self._judged_at >= _JUDGE_SECONDS:
            self._judged_at = time.monotonic()
            self._judge()

    def _is_needed(self) -> bool:
        return time.monotonic() >= self._first_start_at or any(True for _ in self._handovers.all())

    def _keep_running(self) -> None:
        now = time.monotonic()
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                return
            short = now - self._started_at < _SHORT_LIFE_SECONDS
            self._short_lives = self._short_lives + 1 if short else 0
            log.error("the process that finishes jobs has ended with status %d; it is started again", status)
            self._process = None
        pause = min(_LONGEST_PAUSE_SECONDS, 0.5 * (2**self._short_lives - 1))
        if now - self._started_at < pause:
            return
        self._started_at = now
        argv = [sys.executable, "-m", "workers.processes.finisher"]
        self._process = subprocess.Popen(argv, env=os.environ, stdin=subprocess.DEVNULL)
        self._answering = {}
        if self._short_lives < _RENEWING_STARTS:
            self._renew()

    def _renew(self) -> None:
        """Renew the leases of the attempts that the new process will take up, because its start takes seconds."""
        try:
            for waiting in self._handovers.waiting():
                finishing.take_up(process.database(), waiting.job_id, waiting.attempt, self._lease_seconds)
        except (Unavailable, StoreFull) as error:
            log.warning("the leases of jobs that are being finished cannot be renewed: %s", error)

    def _judge(self) -> None:
        """Kill the process if an attempt in its care has lost its lease, or ignores its cancel, or is over.

        A new process is judged only after the time of a lease: what it found may have been lost before it started.
        """
        if time.monotonic() - self._started_at < self._lease_seconds:
            return
        waiting = {(one.job_id, one.attempt) for one in self._handovers.waiting()}
        rows = running_attempts.held(process.database(), {job_id for job_id, _ in waiting})
        judged, reason = {}, None
        for job_id, attempt in waiting:
            row = rows.get(job_id)
            first = Answering(process.worker_name(), None, attempt, failures=row.failures if row is not None else 0)
            known = self._answering.get((job_id, attempt), first)
            judgement = judge(known, row, time.monotonic(), self._limits)
            judged[job_id, attempt] = judgement.answering
            if judgement.kill is not None:
                reason = f"job {job_id}: {judgement.kill}"
        self._answering = judged
        if reason is not None and self._process is not None:
            log.error("killing the process that finishes jobs, %d: %s", self._process.pid, reason)
            self._process.kill()
            self._answering = {}
