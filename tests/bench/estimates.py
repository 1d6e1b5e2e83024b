"""Measure how far the expected durations and starts of queued jobs are from the truth, on a simulated clock."""

import statistics

from tests.bench.bench import Bench
from tests.bench.support.row import Row
from tests.support import estimated_trace
from tests.support.estimated_trace import by_parts, by_work

_SEED, _JOBS = 1, 200


def estimates(bench: Bench) -> list[Row]:
    """Expected durations and starts of a mixed trace: with nothing arriving later, and with jobs that keep arriving."""
    trace = estimated_trace.trace(_SEED, _JOBS, load=0.7)
    at_once = [job._replace(queued_at=0.0) for job in trace]
    sizes, steps = len(estimated_trace.SIZES), estimated_trace.STEPS
    what = f"{_JOBS} jobs of {sizes} sizes, {steps[0]} to {steps[-1]} steps, times that vary by 10 %"
    rows = []
    for rule, most, name in (
        (by_parts, 0.15, "expected duration"),
        (by_work, None, "the same if only the work counted"),
    ):
        errors = estimated_trace.errors_of_durations(trace, rule)
        median, p90 = statistics.median(errors), statistics.quantiles(errors, n=10)[-1]
        rows += [
            _row(f"{name}, median error over the duration ({what})", median, most),
            _row(f"{name}, 90th percentile", p90, None if most is None else 2 * most),
        ]
    for name, jobs, most in (("all queued at once", at_once, 0.15), ("jobs keep arriving", trace, 0.5)):
        found = estimated_trace.error(jobs)
        what = f"{found.jobs} jobs that wait {found.median_wait:.0f} s in the median, 4 simulated devices, {name}"
        rows += [
            _row(
                f"start expected at arrival, median error over the median wait ({found.median_seconds:.0f} s; {what})",
                found.median_of_wait,
                most,
            ),
            _row(
                f"the same, 90th percentile of the error ({found.p90_seconds:.0f} s)",
                found.p90_seconds / found.median_wait,
                3 * most,
            ),
        ]
    return rows


def _row(what: str, share: float, most: float | None = None) -> Row:
    if most is None:
        return Row(what, f"{share:.2f}", "", None)
    return Row(what, f"{share:.2f}", f"<= {most:g}", share <= most)
