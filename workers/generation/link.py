"""Connects a generation on the device with its attempt, which may be claimed only after the generation has begun."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from shared.errors import Fenced
from shared.states import Phase
from workers.generation.checkpoints import AttemptRow
from workers.generation.context import Report
from workers.generation.frames.previews import Cells
from workers.generation.reporting.previews import Publisher

if TYPE_CHECKING:
    import numpy


class Link:
    """The callbacks of a generation's context. Safe to call from any thread.

    Before the claim, a generation may encode its prompt and compute its first step, and then waits. So nothing is
    loaded, decoded or reported for a job that this device may not get.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decided = threading.Event()
        self._report: Report | None = None
        self._check: Callable[[], None] = lambda: None
        self._frame: Callable[[int, numpy.ndarray], None] = lambda _index, _frame: None
        self._row: AttemptRow | None = None
        self._previews: Publisher | None = None
        self._abandoned = False
        self._latest: tuple[Phase, int | None, int | None] | None = None

    def bind(
        self,
        report: Report,
        check: Callable[[], None],
        frame: "Callable[[int, numpy.ndarray], None] | None" = None,
        row: AttemptRow | None = None,
        previews: Publisher | None = None,
    ) -> None:
        """Let the attempt's callbacks take over. The phase that was entered before is reported now."""
        with self._lock:
            self._check, self._row, self._previews = check, row, previews
            if frame is not None:
                self._frame = frame
            if self._latest is not None:
                report(*self._latest)
            self._report = report
        self._decided.set()

    def abandon(self) -> None:
        """Stop the generation: this device does not get the job."""
        self._abandoned = True
        self._decided.set()

    def report(self, phase: Phase, step: int | None = None, steps: int | None = None) -> None:
        with self._lock:
            if self._report is None:
                first = self._latest is None or self._latest[0] is not Phase.DENOISING
                if phase is Phase.ENCODING or (phase is Phase.DENOISING and first):
                    self._latest = (phase, step, steps)
                    return
        self._decided.wait()
        self.check()
        if self._report is not None:
            self._report(phase, step, steps)

    def check(self) -> None:
        """Raise Fenced if the generation was abandoned, and what the attempt's check raises."""
        if self._abandoned:
            raise Fenced()
        self._check()

    def asked_to_yield(self) -> bool:
        return self._row is not None and self._row.asked_to_yield()

    def checkpointed(self, step: int) -> None:
        if self._row is not None:
            self._row.written(step)

    def preview(self, cells: Cells) -> None:
        """Publish a preview. Before the claim there is none."""
        if self._previews is not None:
            self._previews.put(cells)

    def preview_failed(self) -> None:
        if self._previews is not None:
            self._previews.failed()

    def frame(self, index: int, frame: "numpy.ndarray") -> None:
        self._frame(index, frame)
