"""A mixed trace on a simulated clock: estimates made when each job arrives, against what then happens.

Real placement decides. Jobs differ in model, size, priority and owner, durations vary by 10 % around the measured
medians, and jobs keep arriving, so that no estimate can be exact.
"""

import random
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace

from scheduler.placement.devices import Assignment, Moment, decide
from shared.forecast.simulation import Expected, Place, Situation, Took, simulate
from shared.forecast.slots import DeviceView, Estimates
from shared.jobs.dispatch import Busy, Waiting
from tests.support import simulation
from tests.support.simulation import device, job

MODELS = ("a", "b", "c")
LOAD, RUN = 20.0, 60.0  # seconds
SIZES = (0.5, 1.0, 3.0)


@dataclass(frozen=True)
class Error:
    """How far the estimates of all jobs that had to wait were from the truth."""

    jobs: int
    median_seconds: float
    p90_seconds: float
    median_wait: float

    @property
    def median_of_wait(self) -> float:
        return self.median_seconds / self.median_wait


def trace(seed: int, count: int = 300, devices: int = 4, load: float = 1.0) -> list[Waiting]:
    """Jobs that keep the devices busy to this degree, and a burst at the beginning."""
    rng = random.Random(seed)
    at, jobs = 0.0, []
    mean = RUN * statistics.mean(SIZES) + LOAD / 3
    for place in range(count):
        if place > count // 3:
            at += rng.expovariate(load * devices / mean)
        size = rng.choice(SIZES)
        jobs.append(
            job(
                f"{place:04}", rng.choice(MODELS), at, work=size * rng.uniform(0.9, 1.1),
                priority=rng.choices((0, 1, 2, 3), (1, 2, 6, 3))[0], owner=rng.choice(("x", "x", "y", "z")),
            )
        )  # fmt: skip
    return jobs


def expected_run(_: str, work: float) -> float:
    """The measured median of that size, without the variation."""
    return RUN * min(SIZES, key=lambda size: abs(size - work))


ESTIMATES = Estimates(lambda _: LOAD, expected_run)


def expected(moment: Moment, jobs: Iterable[Waiting] | None = None) -> dict[str, Expected]:
    """What is expected at that moment of the queue."""
    now = moment.queue.now
    busy = {one.device_key: one for one in moment.queue.busy}
    waiting = list(moment.queue.waiting if jobs is None else jobs)
    return simulate(
        Situation(
            now, [_place(view, busy.get(view.key), now) for view in moment.devices], waiting, [], moment.queue.busy,
            lambda one: Took(expected_run("", one.work), LOAD, True), ESTIMATES,
        )
    )  # fmt: skip


def _place(view: DeviceView, running: Busy | None, now: float) -> Place:
    if running is None:
        return Place(view, now, view.warm)
    load = 0.0 if running.model_cache_key in view.warm else LOAD
    ends = running.claimed_at + load + expected_run("", running.work)
    return Place(view, max(now, ends), frozenset((running.model_cache_key,)))


def error(jobs: list[Waiting], count: int = 4) -> Error:
    """Play the trace, and compare each job's start with what was expected at its arrival."""
    found: dict[str, float] = {}

    def policy(moment: Moment) -> Iterable[Assignment]:
        new = [one for one in moment.queue.waiting if one.job_id not in found]
        if new:
            at = expected(moment)
            found.update({one.job_id: at[one.job_id].start or 0.0 for one in new})
        return decide(replace(moment, estimates=ESTIMATES))

    devices = [device(index, MODELS) for index in range(count)]
    truth = simulation.simulate(jobs, devices, lambda _: LOAD, lambda _, work: RUN * work, policy)
    waits = {one.job_id: truth.starts[one.job_id] - one.queued_at for one in jobs}
    errors = [abs(found[one.job_id] - truth.starts[one.job_id]) for one in jobs if waits[one.job_id] > 1.0]
    waited = [wait for wait in waits.values() if wait > 1.0]
    return Error(
        len(errors), statistics.median(errors), statistics.quantiles(errors, n=10)[-1], statistics.median(waited)
    )
