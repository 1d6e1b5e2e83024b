"""A worker's main process: says that its device is alive, and kills and recovers what its children cannot.

It holds no torch, so it answers ping and inspect during a long step. Its children run the jobs; when one dies, this
process puts the job's row right at once instead of leaving it to the lease.
"""

import logging
import os
import signal
import threading
from typing import Any

from billiard import active_children
from celery.worker import state as worker_state
from celery.worker.request import Request

from shared import attempt_spans, attempts, broker, clock, nodes, replicas
from shared.errors import StoreFull, Unavailable
from shared.meters import count_end
from shared.tables import Device
from workers import process

log = logging.getLogger("wanworks.worker")

_LOOK_SECONDS = 2.0
_BEAT_EVERY_LOOKS = 3
# A request whose job the rows do not show as running here, seen this many looks in a row, is a child that was fenced
# off and does not notice: a claim or an end in between takes milliseconds.
_STRAY_LOOKS = 3


class JobRequest(Request):  # type: ignore[misc]
    """A bell being answered. Recovers the job when the child that ran it has died."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        # A job that failed in the ordinary way is over by now; if the rows still show it as running here, it died.
        recover("The worker process died", self.worker_pid or 0)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)


def recover(reason: str, pid: int | None = None) -> None:
    """Counts a crash against what the rows say that child runs, or against all that runs here.

    By process, not by job: a bell that came twice may have died beside an attempt that is well.

    A missing database leaves it to the lease.
    """
    backoff = process.settings().retry_backoff_seconds
    emptied = pid is None
    try:
        for running in attempts.running_on(process.database(), process.worker_name()):
            if pid not in (None, running.pid):
                continue
            job = attempts.crashed(process.database(), running.job_id, running.attempt, reason, backoff)
            if job is not None:
                log.warning("job %s: %s; now %s", running.job_id, reason, job.status)
                attempt_spans.tell_lost(job, running.attempt, "worker_lost", reason)
                if job.finished_at is not None:
                    count_end(process.meters(), job)
                emptied = True
        if emptied and process.role() == "gpu":
            nodes.device_beat(process.database(), process.claimant().device_key, warm=[])
    except (Unavailable, StoreFull) as error:
        log.warning("cannot recover at once: %s", error)


class Guard(threading.Thread):
    """Beats for the device, and kills a child when its job has been taken away or will not stop."""

    def __init__(self) -> None:
        super().__init__(name="guard", daemon=True)
        self._stopping = threading.Event()
        self._strays: dict[str, int] = {}

    def run(self) -> None:
        looks = 0
        while not self._stopping.is_set():
            try:
                if looks % _BEAT_EVERY_LOOKS == 0 and process.role() == "gpu":
                    _beat()
                self._look()
                if process.role() == "gpu":
                    self._evict_stale()
            except (Unavailable, StoreFull) as error:
                log.warning("database: %s", error)
            looks += 1
            self._stopping.wait(_LOOK_SECONDS)

    def stop(self) -> None:
        """Says goodbye, so that nothing more is rung here, and gives the running job back without a mark against it."""
        self._stopping.set()
        try:
            if process.role() == "gpu":
                nodes.device_goodbye(process.database(), process.claimant().device_key, os.getpid())
            for running in attempts.running_on(process.database(), process.worker_name()):
                job = attempts.give_back(process.database(), running.job_id, running.attempt)
                if job is not None:
                    attempt_spans.tell_given_back(job, running.attempt)
                log.info("job %s: given back, this worker is stopping", running.job_id)
        except (Unavailable, StoreFull) as error:
            log.warning("cannot say goodbye, the lease will tell: %s", error)

    def _look(self) -> None:
        rows = {row.job_id: row for row in attempts.running_on(process.database(), process.worker_name())}
        requests = {request.id: request.worker_pid for request in list(worker_state.active_requests)}
        self._strays = {job_id: looks for job_id, looks in self._strays.items() if job_id in requests}
        for job_id, pid in requests.items():
            row = rows.get(job_id)
            if row is None:
                self._strays[job_id] = self._strays.get(job_id, 0) + 1
                if self._strays[job_id] >= _STRAY_LOOKS:
                    self._kill(job_id, pid, "its job is not this worker's any more")
            elif row.lapsed:
                self._kill(job_id, pid, "its lease has lapsed")
            elif (row.cancel_seconds or 0.0) > process.settings().cancel_grace_seconds:
                self._kill(job_id, pid, "it does not heed its cancel")

    def _evict_stale(self) -> None:
        """Ends an idle child that holds a model whose files were found wrong or were removed; the next one is fresh."""
        database, claimant = process.database(), process.claimant()
        now = replicas.generations(database, claimant.node)
        warm = nodes.warm(database, claimant.device_key)
        stale = [entry["model_id"] for entry in warm if entry.get("generation") != now.get(entry["model_id"])]
        if not stale or worker_state.active_requests or worker_state.reserved_requests:
            return
        log.warning("%s: the files it was loaded from are not what is there now", ", ".join(stale))
        nodes.device_beat(database, claimant.device_key, warm=[])
        for child in active_children():
            os.kill(child.pid, signal.SIGKILL)

    def _kill(self, job_id: str, pid: int | None, reason: str) -> None:
        if pid:
            log.error("job %s: killing process %d: %s", job_id, pid, reason)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                log.info("process %d was gone already", pid)


def take_over() -> Guard:
    """Recovers what an earlier worker of this name left and registers the device, if there is one."""
    recover("The worker died")
    if process.role() == "gpu":
        _register()
    return Guard()


def _beat() -> None:
    if not nodes.device_beat(process.database(), process.claimant().device_key):
        log.warning("this node had been removed; it is back")
        _register()


def _register() -> None:
    device = process.device()
    claimant = process.claimant()
    row = Device(
        key=claimant.device_key,
        node=claimant.node,
        index=device.index,
        kind=device.kind,
        uuid=process.device_id(),
        name=device.name,
        memory_mb=device.memory_mb,
        worker=claimant.worker,
        pid=os.getpid(),
        visible=process.visible_devices(),
        started_at=clock.now(),
        seen_at=0.0,
        bell_protocol=broker.PROTOCOL,
        warm=[],
    )
    nodes.register_device(process.database(), row)
