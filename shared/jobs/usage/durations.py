"""How long loading and running take: medians of the latest successful generations, by model and speed tier.

Where a tier has not run yet, the times of `exact` are multiplied by the ratio that a benchmark of this installation has
measured, or taken as they are. Where only other models of the same weights have run (a preset, or its base), their
times are scaled by the work.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from sqlmodel import col, select

from shared.catalogue.job_types import GenerationParams
from shared.database.engine import Database
from shared.database.tables import TierMeasurement, Use
from shared.states import JobState, Phase
from wanworks.requests import Speed

# Medians over this many of the latest uses: enough to be stable, few enough to follow a new driver or GPU.
_LATEST = 20
# So many of all models of the same weights are read to find them.
_READ = 100


@dataclass(frozen=True)
class Durations:
    """Measured medians of one model and tier. None: never measured."""

    load_seconds: float | None
    seconds_per_work: float | None  # seconds without loading, per megapixel x frame x step
    samples: int = 0  # jobs behind `seconds_per_work`
    derived: bool = False  # from another tier, number of devices, or model of the same weights


@dataclass(frozen=True)
class PhaseTimes:
    """Measured medians of one model and tier at one size, in seconds. None: never measured."""

    phases: Mapping[str, float]  # by phase name
    step: float | None  # one denoising step


def measured(
    database: Database, model_cache_key: str, model_id: str | None = None, speed: str = "exact", devices: int = 1
) -> Durations:
    """Return the medians of the latest real successes with that model cache key and tier, on any device.

    `model_id`: preferably of this model; without it of the one whose weights the key names. `devices`: of jobs on so
    many devices; if there is none, of jobs on one, whose time is divided among them.
    """
    wanted = model_id or model_cache_key.partition(":")[0]
    uses, ratio = _of_tier(database, model_cache_key, wanted, speed, devices)
    derived = not uses and devices > 1
    if derived:
        uses, ratio = _of_tier(database, model_cache_key, wanted, speed, 1)
        ratio /= devices
    chosen = _preferred(uses, wanted)
    derived = derived or any(use.speed != speed or use.model_id != wanted for use in chosen)
    rates = [ratio * (sum(use.timings.values()) - use.timings.get(Phase.LOADING, 0.0)) / work_of(use) for use in chosen]
    return Durations(_median(_loads(database, model_cache_key, wanted, devices)), _median(rates), len(rates), derived)


def phase_times(database: Database, model_cache_key: str, params: GenerationParams, device_name: str) -> PhaseTimes:
    """Return the medians of the latest real successes of exactly that size on that kind of device. See `measured`."""
    size = (params.width, params.height, params.frames, device_name)

    def fits(use: Use) -> bool:
        return (use.width, use.height, use.frames, use.device_name) == size

    uses, ratio = _of_tier(database, model_cache_key, params.model_id, params.speed, params.devices_per_job, fits)
    by_phase: dict[str, list[float]] = {}
    for use in _preferred(uses, params.model_id):
        for phase, seconds in use.timings.items():
            # Without the work of the use, the steps are compared.
            more = params.work / use.work if use.work else params.steps / use.steps
            by_phase.setdefault(phase, []).append(seconds * ratio * more if phase == Phase.DENOISING else seconds)
    phases = {phase: statistics.median(values) for phase, values in by_phase.items()}
    denoising = phases.get(Phase.DENOISING)
    return PhaseTimes(phases, None if denoising is None else denoising / params.steps)


def work_of(use: Use) -> float:
    """Return the use's work, by which times are compared. For uses of earlier versions guidance is not considered."""
    return use.work or use.width * use.height * use.frames * use.steps / 1e6


def timing_key(model_cache_key: str, speed: str, devices: int = 1) -> str:
    """Return the key of a model cache key's times with a tier on so many devices.

    For `exact` on one device it is the model cache key itself.
    """
    key = model_cache_key if speed == "exact" else f"{model_cache_key}:{speed}"
    return key if devices == 1 else f"{key}:x{devices}"


def of_timing_key(database: Database, key: str) -> Durations:
    """Return what was measured under a key that `timing_key` has returned."""
    head, _, tail = key.rpartition(":")
    devices = 1
    if tail.startswith("x") and tail[1:].isdecimal():
        key, devices = head, int(tail[1:])
        head, _, tail = key.rpartition(":")
    if tail in get_args(Speed):
        return measured(database, head, speed=tail, devices=devices)
    return measured(database, key, devices=devices)


def _of_tier(
    database: Database,
    model_cache_key: str,
    model_id: str,
    speed: str,
    devices: int,
    fits: Callable[[Use], bool] = bool,
) -> tuple[list[Use], float]:
    """Return the uses to estimate from, and the factor for their times. All are of the same weights, newest first."""
    uses = [use for use in _latest(database, model_cache_key, speed, devices) if fits(use)]
    if uses or speed == "exact":
        return uses, 1.0
    exact = [use for use in _latest(database, model_cache_key, "exact", devices) if fits(use)]
    return exact, _ratio(database, model_cache_key, model_id, speed) if exact else 1.0


def _preferred(uses: Sequence[Use], model_id: str) -> Sequence[Use]:
    """Return the uses of that model; those of others with the same weights if there is none."""
    return ([use for use in uses if use.model_id == model_id] or uses)[:_LATEST]


def _loads(database: Database, model_cache_key: str, model_id: str, devices: int) -> list[float]:
    """Return the latest times of loading. Every tier loads the same; each device of several loads for itself."""
    for count in dict.fromkeys((devices, 1)):
        uses = _latest_cold(database, model_cache_key, count)
        if uses:
            return [use.timings.get(Phase.LOADING, 0.0) for use in _preferred(uses, model_id)]
    return []


def _latest_cold(database: Database, model_cache_key: str, devices: int) -> Sequence[Use]:
    """Return the latest successes that had to load the model, however many have found it loaded since."""
    query = (
        select(Use)
        .where(
            Use.model_cache_key == model_cache_key,
            Use.devices == devices,
            col(Use.mock).is_(False),
            Use.outcome == JobState.SUCCEEDED,
            col(Use.warm).is_(False),
        )
        .order_by(col(Use.finished_at).desc())
        .limit(_LATEST)
    )
    with database.read() as session:
        return session.exec(query).all()


def _latest(database: Database, model_cache_key: str, speed: str, devices: int) -> Sequence[Use]:
    query = (
        select(Use)
        .where(
            Use.model_cache_key == model_cache_key,
            Use.speed == speed,
            Use.devices == devices,
            col(Use.mock).is_(False),
            Use.outcome == JobState.SUCCEEDED,
            col(Use.resumed_from_step).is_(None),  # its denoising took only a part of its steps
        )
        .order_by(col(Use.finished_at).desc())
        .limit(_READ)
    )
    with database.read() as session:
        return session.exec(query).all()


def _ratio(database: Database, model_cache_key: str, model_id: str, speed: str) -> float:
    """Return the tier's time over that of `exact` by the latest benchmarks; 1 if there is none."""
    weights_id, _, quantization = model_cache_key.partition(":")
    for name in dict.fromkeys((model_id, weights_id)):
        query = (
            select(TierMeasurement.seconds, TierMeasurement.exact_seconds)
            .where(
                TierMeasurement.model_id == name,
                TierMeasurement.speed == speed,
                TierMeasurement.quantization == quantization,
            )
            .order_by(col(TierMeasurement.measured_at).desc())
            .limit(_LATEST)
        )
        with database.read() as session:
            found = [seconds / exact for seconds, exact in session.exec(query) if exact > 0]
        if found:
            return statistics.median(found)
    return 1.0


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
