"""A cancel that comes at a given point of a generation."""

import time

from shared.errors import Cancelled
from shared.states import Phase


class Stop:
    """A cancel that comes when a given phase and step are reported; `late` is what ran after it."""

    def __init__(self, phase: Phase, step: int | None) -> None:
        self.at = (phase, step)
        self.cancelled_at: float | None = None
        self.seen: list[tuple[Phase, int | None]] = []

    def report(self, phase: Phase, step: int | None = None, steps: int | None = None) -> None:
        self.seen.append((phase, step))
        if (phase, step) == self.at:
            self.cancelled_at = time.perf_counter()

    def check(self) -> None:
        if self.cancelled_at is not None:
            raise Cancelled
