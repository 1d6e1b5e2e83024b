"""How long loading and running take: medians of the latest successful generations, by model and speed tier.

`parts.py` says how the time follows from a job's work and volume. Where a tier has not run yet, the times of `exact`
are multiplied by the ratio that a benchmark of this installation has measured, or taken as they are. Where only other
models of the same weights have run (a preset, or its base), their times are taken.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from sqlmodel import col, select

from shared.catalogue.job_types import GenerationParams
from shared.database.engine import Database
from shared.database.tables import Job, TierMeasurement, Use
from shared.jobs.usage.parts import LATEST, TIERED, History, Parts, nearest
from shared.jobs.usage.parts import volume_of as _volume
from shared.states import JobState, Phase
from wanworks.requests import Speed

# So many of all models of the same weights are read, to find those of a model and a size among them.
_READ = 400
_BY_VOLUME = frozenset((Phase.DECODING, Phase.MUXING, Phase.FINISHING))


@dataclass(frozen=True)
class Durations:
    """What was measured of one model and tier."""

    load_seconds: float | None  # None: never measured
    history: History = field(default_factory=History)
    derived: bool = False  # from another tier, number of devices, or model of the same weights

    def seconds(self, work: float, volume: float) -> float | None:
        """Return the expected seconds of a generation without loading; None: none was ever measured.

        `work`, `volume`: as its job has them; volume 0: the job was accepted by an earlier version.
        """
        found = self.history.expected(volume)
        return None if found is None else found.seconds(work, volume)

    def device_seconds(self, work: float, volume: float) -> float | None:
        """Return for how long it is expected to hold its devices: without what is done beside the next job."""
        found = self.history.expected(volume)
        return None if found is None else found.device_seconds(work, volume)

    def samples(self, volume: float) -> int:
        """Return how many measured jobs are behind the times of that volume."""
        found = self.history.expected(volume)
        return 0 if found is None else found.samples


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
    many devices; if there is none, of jobs on one, whose denoising is divided among them.
    """
    wanted = model_id or model_cache_key.partition(":")[0]
    uses, ratio = _of_tier(database, model_cache_key, wanted, speed, devices)
    divided = not uses and devices > 1
    if divided:
        uses, ratio = _of_tier(database, model_cache_key, wanted, speed, 1)
    chosen = _preferred(uses, wanted)
    derived = divided or any(use.speed != speed or use.model_id != wanted for use in chosen)
    parts = [one.in_tier(ratio) for use in chosen if (one := Parts.of(use)) is not None]
    if divided:
        parts = [one.on_devices(devices) for one in parts]
    loads = _loads(database, model_cache_key, wanted, devices)
    return Durations(statistics.median(loads) if loads else None, History(parts), derived)


def phase_times(database: Database, model_cache_key: str, params: GenerationParams, device_name: str) -> PhaseTimes:
    """Return the medians of the latest real successes of nearly that size on that kind of device. See `measured`.

    Denoising is scaled by the work, decoding and what follows by the volume.
    """

    def fits(use: _Timed) -> bool:
        return use.device_name == device_name

    uses, ratio = _of_tier(database, model_cache_key, params.model_id, params.speed, params.devices_per_job, fits)
    volume = params.width * params.height * params.frames / 1e6
    by_phase: dict[str, list[float]] = {}
    chosen = _preferred(uses, params.model_id)
    same = [use for use in chosen if _volume(use) == volume][:LATEST]
    for use in same or nearest(chosen, volume, _volume):
        larger = volume / _volume(use)
        # Without the work of the use, the steps are compared.
        more = params.work / use.work if use.work else larger * params.steps / use.steps
        for phase, seconds in use.timings.items():
            scale = more if phase == Phase.DENOISING else larger if phase in _BY_VOLUME else 1.0
            by_phase.setdefault(phase, []).append(seconds * scale * (ratio if phase in TIERED else 1.0))
    phases = {phase: statistics.median(values) for phase, values in by_phase.items()}
    denoising = phases.get(Phase.DENOISING)
    return PhaseTimes(phases, None if denoising is None else denoising / params.steps)


def volume_of(job: Job) -> float:
    """Return the volume of a generation; of one that an earlier version has accepted, by its parameters."""
    params = job.params
    return job.volume or float(params["width"] * params["height"] * params["frames"]) / 1e6


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
    fits: Callable[["_Timed"], bool] = bool,
) -> tuple[list["_Timed"], float]:
    """Return the uses to estimate from, and the factor for their times. All are of the same weights, newest first."""
    uses = [use for use in _latest(database, model_cache_key, speed, devices) if fits(use)]
    if uses or speed == "exact":
        return uses, 1.0
    exact = [use for use in _latest(database, model_cache_key, "exact", devices) if fits(use)]
    return exact, _ratio(database, model_cache_key, model_id, speed) if exact else 1.0


def _preferred(uses: Sequence["_Timed"], model_id: str) -> Sequence["_Timed"]:
    """Return the uses of that model; those of others with the same weights if there is none."""
    return [use for use in uses if use.model_id == model_id] or uses


def _loads(database: Database, model_cache_key: str, model_id: str, devices: int) -> list[float]:
    """Return the latest times of loading. Every tier loads the same; each device of several loads for itself."""
    for count in dict.fromkeys((devices, 1)):
        cold = _read(database, model_cache_key, count, col(Use.warm).is_(False), most=LATEST)
        if cold:
            return [use.timings.get(Phase.LOADING, 0.0) for use in _preferred(cold, model_id)]
    return []


def _latest(database: Database, model_cache_key: str, speed: str, devices: int) -> list["_Timed"]:
    # The denoising of a job that continued from a checkpoint took only a part of its steps.
    whole = col(Use.resumed_from_step).is_(None)
    return _read(database, model_cache_key, devices, Use.speed == speed, whole, most=_READ)


class _Timed(NamedTuple):
    """What is read of a use."""

    model_id: str
    speed: str
    devices: int
    device_name: str | None
    width: int
    height: int
    frames: int
    steps: int
    work: float | None
    timings: Mapping[str, float]
    seconds: float | None
    device_seconds: float | None


_COLUMNS = [getattr(Use, name) for name in _Timed._fields]


def _read(database: Database, model_cache_key: str, devices: int, *wanted: Any, most: int) -> list[_Timed]:
    """Return the latest real successes of that kind, newest first."""
    query = (
        select(*_COLUMNS)
        .where(
            Use.model_cache_key == model_cache_key,
            Use.devices == devices,
            col(Use.mock).is_(False),
            Use.outcome == JobState.SUCCEEDED,
            *wanted,
        )
        .order_by(col(Use.finished_at).desc())
        .limit(most)
    )
    with database.read() as session:
        return [_Timed._make(row) for row in session.connection().execute(query)]


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
            .limit(LATEST)
        )
        with database.read() as session:
            found = [seconds / exact for seconds, exact in session.exec(query) if exact > 0]
        if found:
            return statistics.median(found)
    return 1.0
