"""The handler that finishes generations whose frames another process has decoded."""

from typing import Any

from shared.catalogue.job_types import GenerationParams
from shared.catalogue.models import Catalogue
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import CannotFinish
from shared.jobs.usage.durations import phase_times
from shared.messaging.progress import Progress
from shared.models import memory_plan
from shared.settings import Settings
from shared.states import Phase
from shared.storage.store import Store
from workers.attempts.handover import Handover
from workers.attempts.heartbeat import Heartbeat
from workers.generation.checkpoints import Checkpoints
from workers.generation.context import Decoded
from workers.generation.finishing import frame_file
from workers.generation.finishing.ending import Ending
from workers.generation.reporting.publishing import ProgressSender
from workers.generation.reporting.reporter import Reporter

TRIES = 3
"""A process that finishes an attempt may die so often, less one. Then the job fails."""


class FinishingHandler:
    """Finishes one attempt from its folder."""

    at_most: int | None = None

    def __init__(
        self,
        settings: Settings,
        database: Database,
        catalogue: Catalogue,
        store: Store,
        progress: Progress,
        device_name: str,
        handover: Handover,
    ) -> None:
        self._settings = settings
        self._database = database
        self._catalogue = catalogue
        self._store = store
        self._progress = progress
        self._device_name = device_name
        self._handover = handover
        self._ending = Ending(store, device_name)

    def run(self, job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
        """Return the job's result. Raises CannotFinish if the earlier tries have ended in the death of the process."""
        heartbeat.yield_between_steps()  # there are none: it ends soon
        made = Decoded(**self._handover.facts())
        entry = self._catalogue.get(job.model_id or "")
        heartbeat.expect_work(memory_plan.work_factor(entry, made.width, made.height, made.frames))
        measured = phase_times(
            self._database, job.model_cache_key, GenerationParams.model_validate(job.params), self._device_name
        )
        with ProgressSender(self._settings, self._database, self._progress, job, heartbeat.cancel) as send:
            reporter = Reporter(send, measured, heartbeat)
            reporter(Phase.FINISHING)
            heartbeat.check()
            if self._handover.count_try() > TRIES:
                raise CannotFinish(
                    "The frames were decoded, but the process that encodes, checks and stores the video died "
                    f"{TRIES} times"
                )
            folder = self._store.attempt_dir(job.id, job.attempt)
            frames = frame_file.read(self._handover.folder / frame_file.NAME, made.frames, made.height, made.width)
            return self._ending.complete(job, made, frames, folder, heartbeat, reporter, shown_as=Phase.FINISHING)

    def undo(self, job: Job) -> None:
        self._ending.undo(job)

    def after(self, job: Job) -> None:
        if job.finished_at is not None:
            Checkpoints(self._settings.home).remove(job.id)
        self._ending.remove_unneeded(job)
