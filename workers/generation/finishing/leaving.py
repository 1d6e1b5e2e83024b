"""How a generation leaves its device: its frames are written to the disk while they are decoded, and its row and its
folder pass to the process that finishes it.

At most one attempt of a device is being finished. The next one waits for that before it leaves the device.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from types import TracebackType
from typing import Self

from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import StoreFull, Unavailable
from shared.jobs import finishing
from shared.settings import Settings
from shared.states import Phase
from shared.storage.store import Store
from workers.attempts.handover import Handovers
from workers.attempts.heartbeat import Heartbeat
from workers.attempts.persisting import persist
from workers.generation.context import Decoded
from workers.generation.finishing import frame_file
from workers.generation.finishing.frame_file import FrameFile
from workers.generation.reporting.reporter import Reporter

log = logging.getLogger("wanworks.generation")

_LOOK_SECONDS = 0.01
_REPORT_SECONDS = 1.0


class Leaving:
    """One attempt's way from the device: ``with Leaving(...) as leaving``. What is not handed over is removed."""

    def __init__(
        self, settings: Settings, database: Database, store: Store, handovers: Handovers, job: Job, frames: int
    ) -> None:
        """Raises StoreFull."""
        self._settings = settings
        self._database = database
        self._store = store
        self._handovers = handovers
        self._job = job
        self._folder = handovers.begin(job.id, job.attempt)
        spare = int(settings.min_free_disk_mb * 1e6)
        self.frames = FrameFile(self._folder.folder / frame_file.NAME, frames, spare)
        self._left = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._left:
            self.frames.close()
            self._folder.discard()

    def leave(self, made: Decoded, heartbeat: Heartbeat, reporter: Reporter, report_models: Callable[[], None]) -> bool:
        """Hand the attempt over. Return False if the disk has no room for its frames, or the job before
        it is not finished, so that this process must finish it.

        Raises what `Heartbeat.check` raises, Fenced, and Unavailable if the database stays away.
        """
        if not self.frames.close():
            return False
        job = self._job
        self._store.release_inputs(job.id, job.attempt)
        try:
            report_models()
        except (Unavailable, StoreFull) as error:
            log.warning("job %s: the loaded models cannot be recorded: %s", job.id, error)
        if not self._has_room(heartbeat, reporter):
            log.warning("job %s: the job before it is not finished; this process finishes it itself", job.id)
            return False
        reporter.flush()  # the process that finishes the attempt reports next
        try:
            complete = self._handovers.complete(self._folder, asdict(made))
        except StoreFull as error:
            log.warning("job %s: it cannot be handed over: %s", job.id, error)
            return False
        self._left = True
        release = finishing.release_device
        try:
            persist(self._settings, lambda: release(self._database, job.id, job.attempt, self._settings.lease_seconds))
        except BaseException as error:
            if not isinstance(error, Unavailable | StoreFull):  # after those the row may say that it was released
                complete.discard()
            raise
        self._handovers.wake()
        return True

    def _has_room(self, heartbeat: Heartbeat, reporter: Reporter) -> bool:
        """Wait until no earlier attempt of this device is being finished. The device is idle meanwhile.

        Return False after `finishing_limit_seconds`: that process may not start again.
        """
        report_at = time.monotonic() + _REPORT_SECONDS
        give_up_at = time.monotonic() + self._settings.finishing_limit_seconds
        while self._handovers.waiting():
            heartbeat.check()
            if time.monotonic() > give_up_at:
                return False
            if time.monotonic() >= report_at:
                reporter(Phase.DECODING)
                report_at = time.monotonic() + _REPORT_SECONDS
            time.sleep(_LOOK_SECONDS)
        return True
