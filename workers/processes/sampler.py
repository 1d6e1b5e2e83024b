"""The sampler of a GPU worker: every few seconds, what its device reads and what runs on it, as one row.

A loop of the main process, which has no part in the job: a reading that is slow, a database or a Redis that is away
costs a sample, never a step.
"""

from shared import clock
from shared.insight import samples
from shared.insight.samples import Doing
from shared.jobs import attempts
from shared.messaging.progress import Progress, RestingRedis
from shared.telemetry.loops import Loop
from workers.devices import readings
from workers.processes import process


class Sampler:
    """Takes the first sample one interval after its start."""

    def __init__(self) -> None:
        seconds = process.settings().sample_seconds
        self._gauge = readings.gauge(process.device())
        self._progress = Progress(RestingRedis(process.settings().redis))
        self.loop = Loop(
            "sampler",
            seconds,
            self.sample,
            meters=process.meters(),
            reporter=process.reporter(),
            first_after_seconds=seconds,
        )

    def start(self) -> None:
        self.loop.start()

    def stop(self) -> None:
        if self.loop.stop():  # a gauge that still reads must not be closed
            self._gauge.close()

    def sample(self) -> None:
        """Raises Unavailable or StoreFull where the database does not take it."""
        at, reading = clock.now(), self._gauge.read()
        key, kind = process.claimant().device_key, process.device().kind
        samples.record(process.database(), key, kind, reading, self._doing(), at)

    def _doing(self) -> Doing:
        """By the rows; the phase by the attempt's last word in Redis."""
        for running in attempts.running_on(process.database(), process.worker_name()):
            event = self._progress.latest([running.job_id]).get(running.job_id, {})
            phase = event.get("phase") if event.get("attempt") == running.attempt else None
            return Doing(running.job_id, None if running.mock else running.model_id, phase)
        return Doing(None, None, None)
