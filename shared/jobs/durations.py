"""How long loading and running take: medians of the latest successful generations."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from sqlmodel import col, select

from shared.database.engine import Database
from shared.database.tables import Use
from shared.states import JobState, Phase

# Medians over this many of the latest uses: enough to be stable, few enough to follow a new driver or GPU.
_LATEST = 20


@dataclass(frozen=True)
class Durations:
    """Measured medians of one model cache key. None: never measured."""

    load_seconds: float | None
    seconds_per_work: float | None  # seconds without loading, per megapixel x frame x step
    samples: int = 0  # jobs behind `seconds_per_work`


@dataclass(frozen=True)
class PhaseTimes:
    """Measured medians of one model at one size, in seconds. None: never measured."""

    phases: Mapping[str, float]  # by phase name
    step: float | None  # one denoising step


def measured(database: Database, model_cache_key: str, model_id: str | None = None, devices: int = 1) -> Durations:
    """Return the medians of the latest real successes with that model cache key, on any device.

    `model_id`: of this model; without it of the one whose weights the key names. A preset's steps take less time.
    `devices`: of jobs on this number of devices.
    """
    loads, rates = [], []
    for use in _latest(database, model_cache_key, model_id, devices):
        work = use.width * use.height * use.frames * use.steps / 1e6
        loading = use.timings.get(Phase.LOADING, 0.0)
        if use.warm is False:
            loads.append(loading)
        rates.append((sum(use.timings.values()) - loading) / work)
    return Durations(_median(loads), _median(rates), len(rates))


def phase_times(
    database: Database,
    model_cache_key: str,
    device_name: str,
    width: int,
    height: int,
    frames: int,
    model_id: str | None = None,
    devices: int = 1,
) -> PhaseTimes:
    """Return the medians of the latest real successes of exactly that size on that kind of device. See `measured`."""
    uses = [
        use
        for use in _latest(database, model_cache_key, model_id, devices)
        if (use.width, use.height, use.frames, use.device_name) == (width, height, frames, device_name)
    ]
    by_phase: dict[str, list[float]] = {}
    for use in uses:
        for phase, seconds in use.timings.items():
            by_phase.setdefault(phase, []).append(seconds)
    steps = [use.timings[Phase.DENOISING] / use.steps for use in uses if Phase.DENOISING in use.timings]
    return PhaseTimes({phase: statistics.median(values) for phase, values in by_phase.items()}, _median(steps))


def _latest(database: Database, model_cache_key: str, model_id: str | None, devices: int) -> list[Use]:
    model_id = model_id or model_cache_key.partition(":")[0]
    query = (
        select(Use)
        .where(
            Use.model_id == model_id,
            Use.model_cache_key == model_cache_key,
            Use.outcome == JobState.SUCCEEDED,
            Use.devices == devices,
            col(Use.mock).is_(False),
        )
        .order_by(col(Use.finished_at).desc())
        .limit(_LATEST)
    )
    with database.read() as session:
        return list(session.exec(query))


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None
