"""The sampler of a GPU worker: every few seconds it stores its device's readings and what runs there as one row.

It is a loop of the main process, apart from the job: a slow reading, or an unavailable database or Redis, costs a
sample, never a step.
"""

from shared import clock
from shared.insight import samples
from shared.insight.samples import Doing
from shared.jobs.reading import running_attempts
from shared.messaging.progress import Progress, RestingRedis
from shared.telemetry.loops import Loop
from workers.devices import readings
from workers.processes import process


class Sampler:
    """Takes samples; the first one an interval after its start."""

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
        if self.loop.stop():  # do not close a gauge that is still reading
            self._gauge.close()

    def sample(self) -> None:
        """Take one sample. Raises Unavailable or StoreFull if the database does not store it."""
        at, reading = clock.now(), self._gauge.read()
        key, kind = process.claimant().device_key, process.device().kind
        samples.record(process.database(), key, kind, reading, self._doing(), at)

    def _doing(self) -> Doing:
        """Return what runs here by the rows, with the phase of the attempt's last event in Redis."""
        for running in running_attempts.running_on(process.database(), process.worker_name()):
            if running.finishing:  # it has left the device
                continue
            event = self._progress.latest([running.job_id]).get(running.job_id, {})
            phase = event.get("phase") if event.get("attempt") == running.attempt else None
            return Doing(running.job_id, None if running.mock else running.model_id, phase)
        return Doing(None, None, None)
