"""Convert phases and steps into a percentage and an estimate of the remaining time.

The percentage is the share of the expected time that has passed, phase by phase, and never falls. The expectation is
the measured median of the same model at the same size on the same kind of device. Without measurements, the
percentage uses fixed weights and there is no estimate.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from shared.jobs.usage.durations import PhaseTimes
from shared.states import Phase
from workers.attempts.heartbeat import Heartbeat

_ORDER = (Phase.LOADING, Phase.ENCODING, Phase.DENOISING, Phase.DECODING, Phase.MUXING)
_WEIGHTS: Mapping[str, float] = {
    Phase.LOADING: 5.0,
    Phase.ENCODING: 2.0,
    Phase.DENOISING: 70.0,
    Phase.DECODING: 20.0,
    Phase.MUXING: 3.0,
}


def _place(phase: Phase) -> Phase:
    """Return the phase in whose place this one comes."""
    return Phase.MUXING if phase == Phase.FINISHING else phase


class Send(Protocol):
    """Sends events in their order."""

    def __call__(self, event: dict[str, Any]) -> None: ...

    def flush(self) -> None:
        """Wait until all events are sent, for a limited time."""
        ...


class Reporter:
    """Called at each phase and step of a generation; publishes one event each time."""

    def __init__(
        self,
        send: Send,
        measured: PhaseTimes,
        heartbeat: Heartbeat,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._measured = measured
        self._heartbeat = heartbeat
        self._clock = clock
        self._phase: Phase | None = None
        self._phase_began = 0.0
        self._first_step: tuple[int, float] | None = None
        self._percent = 0.0

    def __call__(self, phase: Phase, step: int | None = None, steps: int | None = None) -> None:
        now = self._clock()
        if phase != self._phase:
            self._phase, self._phase_began, self._first_step = phase, now, None
        if step is not None and self._first_step is None:
            self._first_step = (step, now)
        self._percent = round(max(self._percent, self._share(phase, step, steps)), 1)
        self._heartbeat.moved(phase, self._percent, step)
        event = {
            "kind": "progress",
            "phase": phase,
            "step": step,
            "steps": steps,
            "percent": self._percent,
            "eta_seconds": self._eta(phase, step, steps, now),
        }
        self._send(event)

    def flush(self) -> None:
        """Wait until all events are sent, for a limited time."""
        self._send.flush()

    def _share(self, phase: Phase, step: int | None, steps: int | None) -> float:
        phase = _place(phase)
        measured = self._measured.phases
        weights = {name: (measured if Phase.DENOISING in measured else _WEIGHTS).get(name, 0.0) for name in _ORDER}
        before = sum(weights[name] for name in _ORDER[: _ORDER.index(phase)])
        within = weights[phase] * (step / steps) if step is not None and steps else 0.0
        return 99.0 * (before + within) / (sum(weights.values()) or 1.0)

    def _eta(self, phase: Phase, step: int | None, steps: int | None, now: float) -> float | None:
        """Return the seconds left: by this attempt's own step time if known, else by medians; None if unknown."""
        phase = _place(phase)
        to_come = _ORDER[_ORDER.index(phase) + 1 :]
        if any(name not in self._measured.phases for name in to_come):
            return None
        left = sum(self._measured.phases[name] for name in to_come)
        own = self._own_step_seconds(step, now)
        if step is not None and steps and (own is not None or phase == Phase.DENOISING):
            per_step = own if own is not None else self._measured.step
            return None if per_step is None else round(left + per_step * (steps - step), 2)
        if phase not in self._measured.phases:
            return None
        return round(left + max(0.0, self._measured.phases[phase] - (now - self._phase_began)), 2)

    def _own_step_seconds(self, step: int | None, now: float) -> float | None:
        if step is None or self._first_step is None or step <= self._first_step[0]:
            return None
        return (now - self._first_step[1]) / (step - self._first_step[0])
