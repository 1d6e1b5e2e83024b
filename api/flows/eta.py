"""Estimate when a flow ends: the measured times of its open jobs, along its dependencies and over its devices."""

from collections.abc import Mapping
from datetime import datetime

from shared import clock
from shared.catalogue.job_types import GENERATION
from shared.database.engine import Database
from shared.database.tables import Job
from shared.jobs.flows import plan
from shared.jobs.flows.reading import Whole
from shared.jobs.usage import durations
from shared.jobs.usage.durations import Durations


def eta_seconds(database: Database, whole: Whole, devices: int) -> float | None:
    """Return the expected seconds until the flow ends, if its jobs wait for none outside of it; None: unknown.

    It is the longer of two times: that of the longest chain of dependent jobs, and that of all jobs divided among so
    many devices.
    """
    if whole.flow.finished_at is not None:
        return None
    now = clock.now()
    left: dict[str, float] = {}
    known: dict[tuple[str, str | None, str, int], Durations] = {}
    for node in whole.nodes:
        if node.outcome is not None:
            left[node.name] = 0.0
            continue
        job = whole.jobs.get(node.job_id)
        seconds = _left(database, job, known, now) if job is not None else None
        if seconds is None:
            return None
        left[node.name] = seconds
    depends_on = {node.name: node.depends_on for node in whole.nodes}
    return round(max(longest_chain(depends_on, left), sum(left.values()) / max(1, devices)), 1)


def longest_chain(depends_on: Mapping[str, list[str]], seconds: Mapping[str, float]) -> float:
    """Return the time of the longest chain, each of whose jobs starts when the one before has ended."""
    ends: dict[str, float] = {}
    for name in plan.depth_order(depends_on)[0]:
        ends[name] = seconds[name] + max((ends[other] for other in depends_on[name]), default=0.0)
    return max(ends.values(), default=0.0)


def _left(
    database: Database, job: Job, known: dict[tuple[str, str | None, str, int], Durations], now: datetime
) -> float | None:
    """Return the seconds that the job will still run; None: its like was never measured."""
    if job.type != GENERATION or job.mock:
        return None
    key = (job.model_cache_key, job.model_id, job.speed, job.devices)
    if key not in known:
        known[key] = durations.measured(database, *key)
    seconds = known[key].seconds(job.work, durations.volume_of(job))
    if seconds is None:
        return None
    run = (now - job.started_at).total_seconds() if job.started_at is not None else 0.0
    return max(0.0, seconds - run)
