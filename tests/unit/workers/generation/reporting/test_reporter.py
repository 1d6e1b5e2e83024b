"""The percentage never falls; the ETA uses this attempt's own pace and earlier measurements, or is absent."""

from typing import Any, cast

from shared.jobs.usage.durations import PhaseTimes
from shared.states import Phase
from workers.attempts.heartbeat import Heartbeat
from workers.generation.reporting.reporter import Reporter


class FakeHeartbeat:
    def moved(self, phase: Phase, percent: float, step: int | None = None) -> None: ...


class Events(list[dict[str, Any]]):
    def __call__(self, event: dict[str, Any]) -> None:
        self.append(event)

    def flush(self) -> None: ...


class Life:
    """A reporter with a clock that the test controls."""

    def __init__(self, measured: PhaseTimes) -> None:
        self.now = 0.0
        self.events = Events()
        self.report = Reporter(self.events, measured, cast(Heartbeat, FakeHeartbeat()), clock=lambda: self.now)

    def at(self, seconds: float, phase: Phase, step: int | None = None, steps: int | None = None) -> dict[str, Any]:
        self.now = seconds
        self.report(phase, step, steps)
        return self.events[-1]


UNKNOWN = PhaseTimes({}, None)
KNOWN = PhaseTimes(
    {Phase.LOADING: 2.0, Phase.ENCODING: 1.0, Phase.DENOISING: 40.0, Phase.DECODING: 6.0, Phase.MUXING: 1.0}, 4.0
)


def walk(life: Life) -> None:
    life.at(0, Phase.LOADING)
    life.at(2, Phase.ENCODING)
    for step in range(11):
        life.at(3 + 4 * step, Phase.DENOISING, step, 10)
    for step in range(5):
        life.at(44 + step, Phase.DECODING, step, 4)
    life.at(49, Phase.MUXING)


def test_percent_rises_to_just_below_the_end() -> None:
    for measured in (UNKNOWN, KNOWN):
        life = Life(measured)
        walk(life)
        percents = [event["percent"] for event in life.events]
        assert percents == sorted(percents)
        assert percents[0] == 0
        assert 90 < percents[-1] < 100


def test_there_is_no_eta_where_nothing_was_measured() -> None:
    life = Life(UNKNOWN)
    walk(life)
    assert {event["eta_seconds"] for event in life.events} == {None}


def test_the_eta_follows_this_attempts_own_pace() -> None:
    life = Life(KNOWN)
    life.at(0, Phase.ENCODING)
    assert life.at(1, Phase.DENOISING, 0, 10)["eta_seconds"] == 40.0 + 6.0 + 1.0  # as measured before
    assert life.at(9, Phase.DENOISING, 1, 10)["eta_seconds"] == 9 * 8.0 + 7.0  # twice as slow today
    assert life.at(17, Phase.DENOISING, 2, 10)["eta_seconds"] == 8 * 8.0 + 7.0
