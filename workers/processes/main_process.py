"""A worker's main process: sends the device's heartbeat, kills stuck children and recovers their jobs.

It does not import torch, so it answers ping and inspect during a long step. Its children run the jobs. When one dies,
this process updates the job's row at once instead of waiting for the lease to expire.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from billiard import active_children
from billiard.exceptions import Terminated, WorkerLostError
from celery.worker import state as worker_state
from celery.worker.request import Request

from shared import clock
from shared.cluster import nodes
from shared.database.tables import Device
from shared.errors import FaultKind, StoreFull, Unavailable
from shared.jobs import attempt_spans, attempts, checkpoints
from shared.jobs.device_faults import Fault
from shared.jobs.reading import running_attempts
from shared.jobs.reading.running_attempts import Running
from shared.messaging import celery
from shared.messaging.progress import Progress, RestingRedis
from shared.models import replicas
from shared.telemetry.loops import Loop
from shared.telemetry.metrics import count_end
from workers.devices import discovery
from workers.generation.checkpoints import Checkpoints
from workers.processes import main_loop, process
from workers.processes.finisher_watch import FinisherWatch
from workers.processes.kill_rule import Answering, Limits, judge

log = logging.getLogger("wanworks.worker")

_PASS_SECONDS = 2.0
# A running job without a child is returned after this number of passes: a child reports that it has begun
# within milliseconds of its claim.
_UNCARRIED_PASSES = 3
# Grace for a late renewal: a child counts as running a job with an unknown message if its lease was renewed recently.
_RENEWAL_SECONDS = 2.0
# The children that this process has ended because nothing ran in them. Celery may send one a job at that moment.
_ended_idle: set[int] = set()

# A worker that stops waits so long for the job that has left its device, within `shutdown.LIMIT_SECONDS`.
_FINISHING_SECONDS = 1.0
# And so long for the generation on the device to write a checkpoint after its step.
_YIELD_SECONDS, _YIELD_POLL_SECONDS = 0.6, 0.05
_SWEEP_SECONDS = 60.0


class JobRequest(Request):  # type: ignore[misc]
    """A dispatch message that a child processes. Recovers the job when the child dies."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        # A job that failed normally has ended by now; if the rows still show it as running here, its process died. If
        # the child itself died, all its jobs are lost, including one that it had begun ahead.
        lost = isinstance(exc_info.exception, WorkerLostError | Terminated)
        recover("The worker process died", self.worker_pid or 0, None if lost else self.id)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)


def recover(reason: str, pid: int | None = None, job_id: str | None = None) -> None:
    """Count a crash of the jobs that the rows show as running in that child, or of all that run in this worker.

    With `job_id`, only of that job.

    Selected by process, not by job: a duplicate message may have died while another attempt at the job is alive. A job
    that began in a child while this process was ending it as an idle one is returned without a failure. If the database
    is unavailable, the lease recovers the job.
    """
    backoff = process.settings().retry_backoff_seconds
    emptied = pid is None
    try:
        for running in running_attempts.running_on(process.database(), process.worker_name()):
            if pid not in (None, running.pid) or job_id not in (None, running.job_id) or _is_kept(running):
                continue
            if running.pid in _ended_idle:
                _give_back(running.job_id, running.attempt, "its process was ended as an idle one")
                continue
            fault = Fault(FaultKind.PROCESS_DEATH, reason)
            job = attempts.crashed(process.database(), running.job_id, running.attempt, reason, backoff, fault=fault)
            if job is not None:
                log.warning("job %s: %s; now %s", running.job_id, reason, job.status)
                attempt_spans.report_lost(job, running.attempt, "worker_lost", reason)
                if job.finished_at is not None:
                    count_end(process.meters(), job)
                emptied = True
        if emptied and process.role() == "gpu":
            nodes.report_loaded(process.database(), process.claimant().device_key, [])
    except (Unavailable, StoreFull) as error:
        log.warning("cannot recover the job now; its lease will expire: %s", error)


def _is_kept(running: Running) -> bool:
    """Return whether the attempt has left the device and can be finished from its folder, whatever has died."""
    return running.finishing and process.handovers().has(running.job_id, running.attempt)


def _are_on_device(job_ids: Collection[str]) -> bool:
    running = running_attempts.running_on(process.database(), process.worker_name()) if job_ids else []
    return any(row.job_id in job_ids and not row.finishing for row in running)


class Guard:
    """Sends the device's heartbeat, kills children that are stuck, and recovers their jobs."""

    def __init__(self, deregister: Callable[[], None]) -> None:
        self._deregister = deregister
        self._answering: dict[tuple[str, int], Answering] = {}
        self._uncarried: dict[tuple[str, int], int] = {}  # by job and attempt: passes in which no child ran it
        # Seconds in which this process received messages from its children. Only these count towards `finishing`.
        self._heard_seconds, self._judged_at = 0.0, time.monotonic()
        settings, meters, reporter = process.settings(), process.meters(), process.reporter()
        self._loops = [Loop("guard", _PASS_SECONDS, self._watch, meters=meters, reporter=reporter)]
        if process.role() == "gpu":
            every = settings.device_heartbeat_seconds
            self._loops.append(Loop("device-heartbeat", every, _beat, meters=meters, reporter=reporter))
            sweep = partial(Checkpoints(settings.home).sweep, process.database(), settings.node)
            self._loops.append(Loop("checkpoints", _SWEEP_SECONDS, sweep, meters=meters, reporter=reporter))
        self._finisher = FinisherWatch() if process.role() == "gpu" and settings.overlap_finishing else None
        self._limits = Limits(settings.cancel_grace_seconds, settings.finishing_limit_seconds)

    def start(self) -> None:
        for loop in self._loops:
            loop.start()
        if self._finisher is not None:
            self._finisher.start()

    def stop(self) -> None:
        """Deregister, so that nothing is dispatched to this worker or claimed by it, and then return its jobs.

        In that order: a child whose job was returned asks for the next one until it is killed. A job that has left the
        device has a moment to end.
        """
        for loop in self._loops:
            loop.stopping.set()
        for loop in self._loops:
            loop.stop()  # a later heartbeat would register the device again
        try:
            self._deregister()
            self._let_yield()
            self._give_back_all(finishing=False)
            if self._finisher is not None:
                self._finisher.stop(_FINISHING_SECONDS)
            self._give_back_all(finishing=True)
        except (Unavailable, StoreFull) as error:
            log.warning("cannot deregister; the lease will expire: %s", error)

    def _let_yield(self) -> None:
        """Ask the generations that run here for a last checkpoint, and wait a moment for those whose step ends soon."""
        if process.role() != "gpu":
            return
        database, worker = process.database(), process.worker_name()
        asked = checkpoints.ask_generation_to_yield(
            database, [row.job_id for row in running_attempts.running_on(database, worker)]
        )
        progress = Progress(RestingRedis(process.settings().redis))
        for job_id in asked:
            progress.hint(job_id)
        deadline = time.monotonic() + _YIELD_SECONDS
        while time.monotonic() < deadline and _are_on_device(asked):
            time.sleep(_YIELD_POLL_SECONDS)

    def _give_back_all(self, *, finishing: bool) -> None:
        for running in running_attempts.running_on(process.database(), process.worker_name()):
            if running.finishing == finishing:
                _give_back(running.job_id, running.attempt, "this worker is stopping")

    def _watch(self) -> None:
        self._judge_requests()
        self._give_back_uncarried()
        if process.role() == "gpu":
            self._evict_stale()
            self._release()

    def _judge_requests(self) -> None:
        now = time.monotonic()
        if main_loop.turns():
            self._heard_seconds += now - self._judged_at
        self._judged_at = now
        requests = set(_job_requests())
        begun_ahead = _begun_ahead() - requests
        on_device = requests | begun_ahead
        rows = running_attempts.held(process.database(), {job_id for job_id, _ in on_device})
        judged = {}
        for job_id, pid in on_device:
            known = self._answering.get((job_id, pid), Answering(process.worker_name(), pid))
            waits = any(other != job_id and its_pid == pid for other, its_pid in begun_ahead)
            judgement = judge(known, rows.get(job_id), self._heard_seconds, self._limits, waits_for_another=waits)
            judged[job_id, pid] = judgement.answering
            if judgement.kill is not None:
                self._kill(job_id, pid, judgement.kill)
                if (job_id, pid) in begun_ahead:
                    recover(f"The worker process was killed: {judgement.kill}", pid)
        self._answering = judged

    def _give_back_uncarried(self) -> None:
        """Return jobs that the rows show as running here but no child runs, because its claim was not confirmed.

        A child runs a job if it renews its lease, also where this process knows no request.
        """
        if not main_loop.turns():
            return  # a child may have begun a request that is not known here yet
        carried = set(_job_requests()) | _begun_ahead()
        rows = running_attempts.running_on(process.database(), process.worker_name())
        seen = {}
        for row in rows:
            if (row.job_id, row.pid) in carried or _is_kept(row):
                continue
            passes = seen[row.job_id, row.attempt] = self._uncarried.get((row.job_id, row.attempt), 0) + 1
            if passes >= _UNCARRIED_PASSES and self._has_died(row):
                recover("The worker process died", row.pid)
            elif passes >= _UNCARRIED_PASSES:
                _give_back(row.job_id, row.attempt, "no process of this worker runs it")
        self._uncarried = seen

    def _has_died(self, row: Running) -> bool:
        """Return whether the child that ran the job is gone and was not noticed, as no message of its job was known."""
        gone = row.pid is not None and row.pid not in {child.pid for child in active_children()}
        return gone and not row.finishing and row.leased_seconds > process.settings().lease_seconds + 0.01

    def _evict_stale(self) -> None:
        """End an idle child that holds a model whose files were found wrong or were removed; the next one is fresh."""
        database, claimant = process.database(), process.claimant()
        now = replicas.generations(database, claimant.node)
        warm = nodes.warm(database, claimant.device_key)
        stale = [entry["model_id"] for entry in warm if entry.get("generation") != now.get(entry["model_id"])]
        if not stale or not _is_idle():
            return
        log.warning("%s: the files on disk have changed since the model was loaded", ", ".join(stale))
        nodes.report_loaded(database, claimant.device_key, [])
        _end_idle_children()

    def _release(self) -> None:
        """End an idle child whose loaded models take host memory that another device needs."""
        database, key = process.database(), process.claimant().device_key
        if not nodes.must_release(database, key) or not _is_idle():
            return
        log.info("another device of this host needs memory: dropping the loaded models")
        nodes.released(database, key)
        _end_idle_children()

    def _kill(self, job_id: str, pid: int, reason: str) -> None:
        log.error("job %s: killing process %d: %s", job_id, pid, reason)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            log.info("process %d was gone already", pid)


def take_over(deregister: Callable[[], None] | None = None) -> Guard:
    """Recover the jobs of an earlier worker of this name, and register the device if there is one.

    `deregister` is called when the worker stops; without it, the device is deregistered.
    """
    recover("The worker died")
    if process.role() == "gpu":
        _register()
    return Guard(deregister or _deregister_device)


def _deregister_device() -> None:
    nodes.deregister_device(process.database(), process.claimant().device_key, os.getpid())


def _end_idle_children() -> None:
    """Kill the children. Each is noted first, so that a job which it begins now counts no failure."""
    children = [child.pid for child in active_children()]
    _ended_idle.update(children)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _job_requests() -> list[tuple[str, int]]:
    """Return (job id, process) of the jobs that children run, without scheduled work and other tasks."""
    active = [request for request in list(worker_state.active_requests) if isinstance(request, JobRequest)]
    return [(request.id, request.worker_pid) for request in active if request.worker_pid]


def _begun_ahead() -> set[tuple[str, int]]:
    """Return (job id, process) of the jobs that a device's child runs by the rows: it has renewed their leases.

    Such a job may have begun before its dispatch message came. A claim that was not confirmed is never renewed.
    """
    if process.role() != "gpu":
        return set()
    children = {child.pid for child in active_children()}
    settings = process.settings()
    margin = settings.heartbeat_seconds + _RENEWAL_SECONDS
    rows = running_attempts.running_on(process.database(), process.worker_name())
    alive = [
        row
        for row in rows
        if not row.finishing
        and (row.lease_seconds > settings.lease_seconds - margin or row.leased_seconds > settings.lease_seconds + 0.01)
    ]
    return {(row.job_id, row.pid) for row in alive if row.pid is not None and row.pid in children}


def _is_idle() -> bool:
    return not (worker_state.active_requests or worker_state.reserved_requests or _begun_ahead())


def _give_back(job_id: str, attempt: int, reason: str) -> None:
    job = attempts.give_back(process.database(), job_id, attempt)
    if job is not None:
        attempt_spans.report_returned(job, attempt)
        if job.finished_at is not None:
            count_end(process.meters(), job)
        log.info("job %s: returned to the queue: %s", job_id, reason)


def _beat() -> None:
    if not nodes.device_beat(process.database(), process.claimant().device_key):
        log.warning("this node had been removed; it registers again")
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
        compute_capability=device.compute_capability,
        worker=claimant.worker,
        pid=os.getpid(),
        visible=process.visible_devices(),
        started_at=clock.now(),
        seen_at=0.0,
        message_protocol=celery.PROTOCOL,
        warm=[],
    )
    nodes.register_device(process.database(), row, discovery.host_memory_mb())
