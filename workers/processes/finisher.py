"""The process that finishes the jobs of one device beside its next ones: `python -m workers.processes.finisher`.

A GPU worker's main process starts it, and starts it again whenever it ends. It takes up the attempts that the worker's
child has handed over (`workers/attempts/handover.py`), one after another, from the beginning of their end: encoding,
playback check, quality, storing, and the end of the row. It loads no torch and touches no device.
"""

import ctypes
import fcntl
import logging
import os
import select
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

from shared import startup

if __name__ == "__main__":
    startup.begin()

from celery import Celery

from shared import garbage
from shared.catalogue import models as catalogue
from shared.cluster import nodes
from shared.database.tables import Job
from shared.errors import AttemptStopped, Cancelled, JobFailed, StoreFull, Unavailable
from shared.jobs import finishing
from shared.messaging import celery
from shared.messaging.progress import Progress, RestingRedis
from shared.states import JobState
from shared.storage.store import Store, open_store
from shared.telemetry import tracing
from shared.telemetry.loops import RepeatedErrors
from workers.attempts.handover import Handover, Handovers
from workers.attempts.runner import Runner
from workers.generation.finishing.handler import FinishingHandler
from workers.processes import process

log = logging.getLogger("wanworks.finisher")

_PR_SET_PDEATHSIG = 1
_NICENESS = 5  # the device's own process must launch its kernels in time
_PASS_SECONDS = 1.0
_SWEEP_PASSES = 15
# By default kombu tries to connect for ever.
_FEW_TRIES = {"max_retries": 1, "interval_start": 0.2, "interval_step": 0.2, "interval_max": 0.2}


class Finisher:
    """Takes up one attempt after another."""

    def __init__(self, handovers: Handovers) -> None:
        self._handovers = handovers
        self._settings, self._database = process.settings(), process.database()
        self._catalogue = catalogue.load(self._settings.catalogue)
        self._progress = Progress(RestingRedis(self._settings.redis))
        self._runner = Runner(self._settings, self._database, process.claimant(), {}, process.meters())
        self._events = TaskEvents(celery.celery_app(self._settings, "wanworks.finisher"), process.worker_name())
        self._store: Store | None = None
        self._errors = RepeatedErrors()
        self.stopping = threading.Event()

    def run(self) -> None:
        """Finish attempts until `stopping` is set, which takes effect between two of them."""
        pipe = self._handovers.open_pipe()
        passes = 0
        while not self.stopping.is_set():
            try:
                if passes % _SWEEP_PASSES == 0:
                    self.sweep()
                passes += 1
                if self.run_pass():
                    continue
            except (Unavailable, StoreFull, OSError) as error:
                if self._errors.is_news(error):
                    log.warning("attempts cannot be finished now: %s", error)
            ready, _, _ = select.select([pipe], [], [], _PASS_SECONDS)
            if ready:
                with suppress(BlockingIOError):
                    os.read(pipe, 4096)

    def stop(self) -> None:
        """End `run` after the attempt that is being finished."""
        self.stopping.set()
        self._handovers.wake()

    def run_pass(self) -> bool:
        """Finish the oldest attempt that was handed over. Return whether there was one.

        Raises Unavailable and StoreFull; then the attempt is taken up again.
        """
        for handover in self._handovers.waiting():
            if not handover.survived():
                log.warning("job %s: the host has restarted since its frames were decoded", handover.job_id)
                handover.discard()
                continue
            lease = self._settings.lease_seconds
            job = finishing.take_up(self._database, handover.job_id, handover.attempt, lease)
            if job is not None:
                self._finish(job, handover)
                return True
            if not finishing.is_running(self._database, handover.job_id, handover.attempt):
                handover.discard()  # it was returned to the queue, or has ended
        return False

    def sweep(self) -> None:
        """Remove the folders of attempts that do not run any more, complete or not."""
        for handover in self._handovers.all():
            if not finishing.is_running(self._database, handover.job_id, handover.attempt):
                handover.discard()

    def _finish(self, job: Job, handover: Handover) -> None:
        handler = FinishingHandler(
            self._settings,
            self._database,
            self._catalogue,
            self._opened_store(),
            self._progress,
            process.device().name,
            handover,
        )
        state = JobState.SUCCEEDED
        try:
            self._runner.finish(job, handler)
        except Cancelled:
            state = JobState.CANCELLED
        except AttemptStopped as stopped:
            log.info("job %s: attempt %d: %s", job.id, job.attempt, type(stopped).__name__)
            handover.discard()
            return
        except JobFailed as error:
            log.info("job %s: failed: %s", job.id, error.code)
            state = JobState.FAILED
        handover.discard()  # the next attempt may leave the device
        self._events.ended(job, state)

    def _opened_store(self) -> Store:
        if self._store is None:
            self._store = open_store(self._settings, lambda: nodes.agreed(self._database, "store"), create=False)
        return self._store


class TaskEvents:
    """Reports the end of jobs to Celery's listeners, because their tasks have ended before."""

    def __init__(self, app: Celery, worker: str) -> None:
        self._app = app
        self._worker = worker

    def ended(self, job: Job, state: JobState) -> None:
        """Send the event for this end. It never raises: Flower may miss one."""
        kinds: dict[JobState, tuple[str, dict[str, Any]]] = {
            JobState.SUCCEEDED: ("task-succeeded", {"result": "None"}),
            JobState.FAILED: ("task-failed", {"exception": "JobFailed()", "traceback": ""}),
            JobState.CANCELLED: ("task-revoked", {"terminated": False, "signum": None, "expired": False}),
        }
        kind, fields = kinds[state]
        began = job.started_at
        runtime = (job.released_at - began).total_seconds() if began and job.released_at else 0.0
        try:
            with (
                self._app.connection_for_write(transport_options=_FEW_TRIES) as connection,
                self._app.events.Dispatcher(connection, hostname=self._worker, buffer_while_offline=False) as events,
            ):
                events.send(kind, uuid=job.id, runtime=runtime, **fields)
        except Exception as error:  # kombu raises what its transport raises
            log.warning("job %s: Celery's listeners cannot be notified: %s", job.id, error)


def _alone(handovers: Handovers) -> int:
    """Wait until no other process finishes this device's jobs. Return the descriptor that holds the lock."""
    handovers.prepare()
    descriptor = os.open(handovers.lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def main() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        sys.exit("the worker has ended")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker decides when this process ends
    os.nice(_NICENESS)
    from workers.processes.child_process import set_up_logs, set_up_traces

    set_up_logs()
    set_up_traces()
    handovers = process.handovers()
    held = _alone(handovers)
    finisher = Finisher(handovers)
    signal.signal(signal.SIGTERM, lambda *_: finisher.stop())
    garbage.freeze()
    finisher.run()
    process.meters().close()
    tracing.close()
    logging.shutdown()
    os.close(held)


if __name__ == "__main__":
    main()
