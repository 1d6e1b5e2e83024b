"""A job's attempt, from bell to end: claim, run, finish. One pipeline for every job.

The attempt's number fences everything. A worker that was given up for dead may go on, but nothing it does counts.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from shared import attempts, broker, nodes, replicas
from shared.attempts import Claimant, Failure
from shared.catalogue import Catalogue
from shared.database import Database
from shared.errors import (
    AttemptStopped,
    Cancelled,
    DatabaseUnavailable,
    Draining,
    Fenced,
    JobFailed,
    ModelUnavailable,
    OutOfMemory,
    StoreFull,
    Unavailable,
)
from shared.job_types import GenerationParams
from shared.progress import Progress, RestingRedis
from shared.settings import Settings
from shared.store import Store
from shared.tables import Job
from shared.usage import PhaseTimes, phase_times
from workers.context import GenerationContext, Outcome
from workers.pulse import Pulse
from workers.reporter import Reporter

log = logging.getLogger("wanworks.runner")

_RETRY_SECONDS = 1.0
_MEASURED_KEEP_SECONDS = 30.0


class Runner:
    """Runs the jobs of one device, one after the other, in the process that holds the device."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        catalogue: Catalogue,
        store: Store,
        claimant: Claimant,
        device_name: str,
        handler: Callable[[GenerationContext], Outcome],
        warm: Callable[[], list[dict[str, Any]]],
    ) -> None:
        self._settings = settings
        self._database = database
        self._catalogue = catalogue
        self._store = store
        self._claimant = claimant
        self._device_name = device_name
        self._handler = handler
        self._warm = warm
        self._told_warm: list[dict[str, Any]] = []
        self._phase_times: dict[tuple[str, str, int, int, int], tuple[float, PhaseTimes]] = {}
        self._redis = RestingRedis(settings.redis)
        self._progress = Progress(self._redis)

    def run(self, job_id: str) -> bool:
        """Carries the job to its end. False: the bell was stale and nothing was done.

        Raises JobFailed after the row says failed, Cancelled after it says cancelled, and Fenced or Draining where the
        job goes on elsewhere.
        """
        job = attempts.claim(self._database, job_id, self._claimant, self._settings.lease_seconds)
        if job is None:
            return False
        broker.nudge(self._redis)  # the place ahead of this device is free
        self._tell(job)
        with Pulse(self._settings, self._database, self._redis, job.id, job.attempt) as pulse:
            try:
                result = self._work(job, pulse)
                ended = self._persist(lambda: attempts.succeed(self._database, job.id, job.attempt, result))
            except BaseException as error:
                stopped = self._stopped(job, error, pulse.percent)
                if stopped is error:
                    raise
                raise stopped from error
        self._after(ended)
        return True

    def _work(self, job: Job, pulse: Pulse) -> dict[str, Any]:
        params = GenerationParams.model_validate(job.params)
        entry = self._catalogue.get(job.model_id)
        snapshot = None if job.mock else replicas.snapshot_dir(self._settings.models_dir, entry)
        if snapshot is None and not job.mock:
            raise ModelUnavailable(f"{job.model_id} is not on node {self._settings.node}")
        reporter = Reporter(
            send=lambda event: self._progress.report(job.id, {**event, "attempt": job.attempt}),
            measured=self._measured(job, params),
            pulse=pulse,
        )
        context = GenerationContext(
            job_id=job.id,
            attempt=job.attempt,
            params=params,
            entry=entry,
            settings=self._settings,
            mock=job.mock,
            snapshot=snapshot,
            image=self._store.input_path(params.image) if params.image else None,
            output_dir=self._store.attempt_dir(job.id, job.attempt),
            report=reporter,
            check=pulse.check,
        )
        outcome = self._handler(context)
        pulse.check()
        return _result(outcome, job.mock, self._device_name)

    def _measured(self, job: Job, params: GenerationParams) -> PhaseTimes:
        key = (job.warm_key, self._device_name, params.width, params.height, params.frames)
        asked, times = self._phase_times.get(key, (float("-inf"), None))
        if times is None or time.monotonic() - asked > _MEASURED_KEEP_SECONDS:
            times = phase_times(self._database, *key)
            self._phase_times[key] = (time.monotonic(), times)
        return times

    def _stopped(self, job: Job, error: BaseException, percent: float) -> BaseException:
        """Says in the row how the attempt ended; returns what the task raises."""
        self._store.drop_attempt(job.id, job.attempt)
        if isinstance(error, Fenced):
            log.warning("job %s: attempt %d was fenced off", job.id, job.attempt)
            return error
        if isinstance(error, Cancelled):
            self._end(job, lambda: attempts.cancelled(self._database, job.id, job.attempt, percent))
            return error
        if isinstance(error, Draining | KeyboardInterrupt | SystemExit) or _is_passing(error):
            self._end(job, lambda: attempts.give_back(self._database, job.id, job.attempt))
            return error if isinstance(error, AttemptStopped) else Draining(str(error))
        failed = _failure(error)
        log.error("job %s: attempt %d failed: %s", job.id, job.attempt, failed.message, exc_info=error)
        self._end(job, lambda: attempts.fail(self._database, job.id, job.attempt, failed, percent))
        return error if isinstance(error, JobFailed) else JobFailed(failed.message)

    def _end(self, job: Job, write: Callable[[], Job | None]) -> None:
        try:
            ended = self._persist(write)
        except Fenced:
            log.warning("job %s: attempt %d was fenced off at its end", job.id, job.attempt)
            return
        if ended is not None:
            self._after(ended)

    def _persist(self, write: Callable[[], Any]) -> Any:
        """Waits for a database that is away: the work is done, and the fence decides whether it still counts."""
        deadline = time.monotonic() + 10 * self._settings.lease_seconds
        while True:
            try:
                return write()
            except (DatabaseUnavailable, StoreFull):
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)

    def _after(self, job: Job) -> None:
        """What follows the commit. Nothing here may fail the job: its end is written."""
        self._tell(job)
        if job.hidden and job.finished_at is not None:
            self._store.drop_job(job.id)
        try:
            warm = [{**entry, "warm_key": f"{entry['model_id']}:{entry['quantization']}"} for entry in self._warm()]
            if warm != self._told_warm:
                nodes.device_beat(self._database, self._claimant.device_key, warm)
                self._told_warm = warm
        except Unavailable as error:
            log.warning("cannot say what is warm: %s", error)
        broker.nudge(self._redis)

    def _tell(self, job: Job) -> None:
        event = {"kind": "state", "attempt": job.attempt, "status": job.status}
        self._progress.report(job.id, event, ended=job.finished_at is not None)


def _result(outcome: Outcome, mock: bool, device_name: str) -> dict[str, Any]:
    return {
        "artifacts": [asdict(artifact) for artifact in outcome.artifacts],
        "width": outcome.width,
        "height": outcome.height,
        "frames": outcome.frames,
        "fps": outcome.fps,
        "duration_seconds": outcome.frames / outcome.fps,
        "seed": outcome.seed,
        "timings": outcome.timings,
        "peak_vram_mb": outcome.peak_vram_mb,
        "warm": outcome.warm,
        "profile": outcome.profile,
        "device_name": device_name,
        "mock": mock,
        "notes": list(outcome.notes),
        "manifest": outcome.manifest,
    }


def _is_passing(error: BaseException) -> bool:
    """A fault of the surroundings, not of the job: it goes back without a mark against it."""
    return isinstance(error, Unavailable)


def _failure(error: BaseException) -> Failure:
    if isinstance(error, MemoryError):
        error = OutOfMemory()
    if isinstance(error, StoreFull):
        return Failure(error.code, error.message, retryable=True)
    if isinstance(error, JobFailed):
        return Failure(error.code, error.message, error.retryable)
    # The text of an unforeseen error may hold paths; the log has it.
    return Failure("internal_error", f"The attempt stopped with an unforeseen {type(error).__name__}", retryable=True)
