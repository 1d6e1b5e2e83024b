"""Encodes and stores previews in a thread of their own, so that no step waits for it. The latest alone counts."""

import logging
import threading
from types import TracebackType
from typing import Self

from shared.messaging.previews import Preview, Previews
from shared.telemetry.metrics import PREVIEWS, Meters
from workers.generation.frames.previews import Cells, encoded

log = logging.getLogger("wanworks.generation")

_CLOSE_SECONDS = 1.0


class Publisher:
    """Publishes the previews of one attempt: ``with Publisher(...)``. The block's end waits for the last one."""

    def __init__(self, previews: Previews, meters: Meters | None, job_id: str, attempt: int) -> None:
        self._previews = previews
        self._meters = meters
        self._job_id = job_id
        self._attempt = attempt
        self._latest: Cells | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closing = True
            self._latest = self._latest if error is None else None
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)

    def put(self, cells: Cells) -> None:
        """Publish these cells soon. Cells that still wait are dropped. Returns at once."""
        with self._changed:
            self._latest = cells
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="previews", daemon=True)
                self._thread.start()
            self._changed.notify()

    def failed(self) -> None:
        """Count a preview that could not be made."""
        self._count("failed")

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._latest is None and not self._closing:
                    self._changed.wait()
                cells, self._latest = self._latest, None
            if cells is None:
                return
            try:
                preview = Preview(self._attempt, cells.step, cells.steps, encoded(cells))
                self._count("stored" if self._previews.put(self._job_id, preview) else "lost")
            except Exception as error:  # a preview never costs the job
                log.warning("job %s: a preview failed: %r", self._job_id, error)
                self._count("failed")

    def _count(self, outcome: str) -> None:
        if self._meters is not None:
            self._meters.count(PREVIEWS, outcome)
