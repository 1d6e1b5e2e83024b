"""Measure how far the expected starts of queued jobs are from the truth, on a simulated clock."""

from tests.bench.bench import Bench
from tests.bench.support.row import Row
from tests.support import estimated_trace

_SEED, _JOBS = 1, 200


def estimates(bench: Bench) -> list[Row]:
    """Expected starts of a mixed trace: with nothing arriving later, and with jobs that keep arriving."""
    trace = estimated_trace.trace(_SEED, _JOBS, load=0.7)
    at_once = [job._replace(queued_at=0.0) for job in trace]
    rows = []
    for name, jobs, most in (("all queued at once", at_once, 0.15), ("jobs keep arriving", trace, 0.5)):
        found = estimated_trace.error(jobs)
        share, p90_share = found.median_of_wait, found.p90_seconds / found.median_wait
        what = f"{found.jobs} jobs that wait {found.median_wait:.0f} s in the median, 4 simulated devices, {name}"
        rows += [
            Row(
                f"start expected at arrival, median error over the median wait ({found.median_seconds:.0f} s; {what})",
                f"{share:.2f}",
                f"<= {most}",
                share <= most,
            ),
            Row(
                f"the same, 90th percentile of the error ({found.p90_seconds:.0f} s)",
                f"{p90_share:.2f}",
                f"<= {3 * most:g}",
                p90_share <= 3 * most,
            ),
        ]
    return rows
