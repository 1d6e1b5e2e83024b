"""What ended generations teach: how long a model takes to load and to run. Sole reader of `uses`."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from sqlmodel import col, select

from shared.database import Database
from shared.states import JobState, Phase
from shared.tables import Use

# Medians over this many of the latest uses: enough to steady them, few enough to follow a new driver or GPU.
_LATEST = 20


@dataclass(frozen=True)
class Durations:
    """Measured medians for one warm key. None: never measured."""

    load_seconds: float | None
    seconds_per_work: float | None  # seconds, loading left out, per megapixel x frame x step


@dataclass(frozen=True)
class PhaseTimes:
    """Measured medians of one model at one size, in seconds. None: never measured."""

    phases: Mapping[str, float]  # by phase name
    step: float | None  # one denoising step


def durations(database: Database, warm_key: str) -> Durations:
    """From the latest real successes under that warm key, on any device."""
    loads, rates = [], []
    for use in _latest(database, warm_key):
        work = use.width * use.height * use.frames * use.steps / 1e6
        loading = use.timings.get(Phase.LOADING, 0.0)
        if use.warm is False:
            loads.append(loading)
        rates.append((sum(use.timings.values()) - loading) / work)
    return Durations(_median(loads), _median(rates))


def phase_times(
    database: Database, warm_key: str, device_name: str, width: int, height: int, frames: int
) -> PhaseTimes:
    """From the latest real successes of exactly that size on that kind of device."""
    uses = [
        use
        for use in _latest(database, warm_key)
        if (use.width, use.height, use.frames, use.device_name) == (width, height, frames, device_name)
    ]
    by_phase: dict[str, list[float]] = {}
    for use in uses:
        for phase, seconds in use.timings.items():
            by_phase.setdefault(phase, []).append(seconds)
    steps = [use.timings[Phase.DENOISING] / use.steps for use in uses if Phase.DENOISING in use.timings]
    return PhaseTimes({phase: statistics.median(values) for phase, values in by_phase.items()}, _median(steps))


def _latest(database: Database, warm_key: str) -> list[Use]:
    model_id = warm_key.partition(":")[0]
    query = (
        select(Use)
        .where(
            Use.model_id == model_id,
            Use.warm_key == warm_key,
            Use.outcome == JobState.SUCCEEDED,
            col(Use.mock).is_(False),
        )
        .order_by(col(Use.finished_at).desc())
        .limit(_LATEST)
    )
    with database.read() as session:
        return list(session.exec(query))


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None
