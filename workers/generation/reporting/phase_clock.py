"""Measure the phases of a generation."""

import time

from shared.states import Phase
from workers.generation.context import Report


class PhaseClock:
    """Measures the phases and reports every change."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._phase: Phase | None = None
        self._since = 0.0
        self._seconds: dict[str, float] = {}

    def enter(self, phase: Phase, step: int | None = None, steps: int | None = None) -> None:
        """Report the phase or its step, and measure from now on if it is another phase."""
        if phase != self._phase:
            self._close()
            self._phase, self._since = phase, time.perf_counter()
        began = time.perf_counter()
        self._report(phase, step, steps)
        self._since += time.perf_counter() - began  # it may wait for the claim

    def timings(self) -> dict[str, float]:
        """End the present phase. Return the seconds of each phase."""
        self._close()
        return {phase: round(seconds, 4) for phase, seconds in self._seconds.items()}

    def _close(self) -> None:
        if self._phase is not None:
            spent = time.perf_counter() - self._since
            self._seconds[self._phase.value] = self._seconds.get(self._phase.value, 0.0) + spent
        self._phase = None
