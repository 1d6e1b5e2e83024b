"""A mixed trace on a simulated clock: estimates made when each job arrives, against what then happens.

Real placement decides. Jobs differ in model, size, steps, priority and owner. The code that estimates jobs expects of
them what generations of the same kind took before. Times vary by 10 %, attention makes large videos slower for the same
work, and jobs keep arriving, so that no estimate can be exact.
"""

import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from scheduler.placement.devices import Assignment, Moment, decide
from shared.forecast.simulation import Expected, Place, Situation, Took, simulate
from shared.forecast.slots import DeviceView, Estimates
from shared.jobs.dispatch import Busy, Waiting
from shared.jobs.usage.parts import Expectation, History, Parts
from tests.support import simulation
from tests.support.simulation import device, job

MODELS = ("a", "b", "c")
LOAD = 20.0  # seconds
SIZES = ((256, 256, 17), (832, 480, 33), (832, 480, 81), (1280, 720, 81))
STEPS = (2, 4, 8, 20, 40)
_DENOISING, _DECODING, _FIXED = 0.045, 0.2, 2.0  # seconds for each unit of work and of volume, and of the rest
_ATTENTION = 0.3  # its share of denoising at 832x480 with 81 frames
_LEARNED = 60  # generations that were measured before
_VARIATION = 0.1

Rule = Callable[[float, float], float]
"""From a job's work and volume to seconds."""


@dataclass(frozen=True)
class Error:
    """How far the estimates of all jobs that had to wait were from the truth."""

    jobs: int
    median_seconds: float
    p90_seconds: float
    median_wait: float
    p90_wait: float

    @property
    def median_of_wait(self) -> float:
        return self.median_seconds / self.median_wait


def parts(work: float, volume: float, rng: random.Random | None = None) -> Parts:
    """What a generation takes, with the variation of one run if `rng` is given."""

    def vary(seconds: float) -> float:
        return seconds * rng.uniform(1 - _VARIATION, 1 + _VARIATION) if rng is not None else seconds

    large = volume / (832 * 480 * 81 / 1e6)
    denoising = _DENOISING * work * (1 - _ATTENTION + _ATTENTION * large)
    return Parts(work, volume, vary(_FIXED), vary(denoising), vary(_DECODING * volume), 0.0)


def run_seconds(_: str, work: float, volume: float) -> float:
    """How long that job runs: `trace` gives no two jobs the same work."""
    return parts(work, volume, random.Random(work)).seconds


@cache
def _expected(volume: float) -> Expectation:
    rng = random.Random(0)
    past = [parts(volume * steps, volume, rng) for volume, steps in (_drawn(rng) for _ in range(_LEARNED))]
    found = History(past).expected(volume)
    assert found is not None
    return found


def by_parts(work: float, volume: float) -> float:
    """The expectation of today."""
    return _expected(volume).device_seconds(work, volume)


def by_work(work: float, volume: float) -> float:
    """The rule for jobs whose volume is not known, because a version before has accepted them."""
    return _expected(0.0).device_seconds(work, 0.0)


def trace(seed: int, count: int = 300, devices: int = 4, load: float = 1.0) -> list[Waiting]:
    """Jobs that keep the devices busy to this degree, and a burst at the beginning."""
    rng = random.Random(seed)
    mean = statistics.fmean(parts(volume * steps, volume).seconds for volume in map(_volume, SIZES) for steps in STEPS)
    at, jobs = 0.0, []
    for place in range(count):
        if place > count // 3:
            at += rng.expovariate(load * devices / (mean + LOAD / 3))
        volume, steps = _drawn(rng)
        jobs.append(
            job(
                f"{place:04}", rng.choice(MODELS), at, work=volume * steps * (1 + place * 1e-9), volume=volume,
                priority=rng.choices((0, 1, 2, 3), (1, 2, 6, 3))[0], owner=rng.choice(("x", "x", "y", "z")),
            )
        )  # fmt: skip
    return jobs


def expected(moment: Moment, rule: Rule, jobs: Iterable[Waiting] | None = None) -> dict[str, Expected]:
    """What is expected at that moment of the queue."""
    now = moment.queue.now
    busy = {one.device_key: one for one in moment.queue.busy}
    waiting = list(moment.queue.waiting if jobs is None else jobs)
    return simulate(
        Situation(
            now, [_place(view, busy.get(view.key), now, rule) for view in moment.devices], waiting, [],
            moment.queue.busy, lambda one: Took(rule(one.work, one.volume), LOAD, True), _estimates(rule),
        )
    )  # fmt: skip


def error(jobs: list[Waiting], count: int = 4, rule: Rule = by_parts) -> Error:
    """Play the trace, and compare each job's start with what was expected at its arrival."""
    found: dict[str, float] = {}

    def policy(moment: Moment) -> Iterable[Assignment]:
        new = [one for one in moment.queue.waiting if one.job_id not in found]
        if new:
            at = expected(moment, rule)
            found.update({one.job_id: at[one.job_id].start or 0.0 for one in new})
        return decide(replace(moment, estimates=_estimates(rule)))

    devices = [device(index, MODELS) for index in range(count)]
    truth = simulation.simulate(jobs, devices, lambda _: LOAD, run_seconds, policy)
    waits = {one.job_id: truth.starts[one.job_id] - one.queued_at for one in jobs}
    errors = [abs(found[one.job_id] - truth.starts[one.job_id]) for one in jobs if waits[one.job_id] > 1.0]
    waited = [wait for wait in waits.values() if wait > 1.0]
    return Error(len(errors), statistics.median(errors), _p90(errors), statistics.median(waited), _p90(waited))


def _p90(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=10)[-1]


def errors_of_durations(jobs: Sequence[Waiting], rule: Rule = by_parts) -> list[float]:
    """How far each job's expected duration is from the true one, as a share of that."""
    true = [(run_seconds("", one.work, one.volume), rule(one.work, one.volume)) for one in jobs]
    return sorted(abs(expected - seconds) / seconds for seconds, expected in true)


def _place(view: DeviceView, running: Busy | None, now: float, rule: Rule) -> Place:
    if running is None:
        return Place(view, now, view.warm)
    load = 0.0 if running.model_cache_key in view.warm else LOAD
    ends = running.claimed_at + load + rule(running.work, running.volume)
    return Place(view, max(now, ends), frozenset((running.model_cache_key,)))


def _estimates(rule: Rule) -> Estimates:
    return Estimates(lambda _: LOAD, lambda _, work, volume: rule(work, volume))


def _drawn(rng: random.Random) -> tuple[float, int]:
    return _volume(rng.choice(SIZES)), rng.choice(STEPS)


def _volume(size: tuple[int, int, int]) -> float:
    width, height, frames = size
    return width * height * frames / 1e6
