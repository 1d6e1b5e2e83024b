"""The device time of an owner's generations, which the limits of API keys count."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlmodel import col, func, select

from shared.catalogue.job_types import GENERATION
from shared.database.engine import Database
from shared.database.tables import Job, Use, epoch_now
from shared.jobs.finishing import ON_DEVICE
from shared.jobs.usage import durations
from shared.states import JobState


def gpu_seconds(database: Database, owner: str, since: datetime, now: datetime) -> float:
    """Return the seconds for which the owner's ended and running generations have held devices since then.

    While a job is finished beside the next one, the device's time is that of the next one.
    """
    ended = select(func.coalesce(func.sum(func.coalesce(Use.device_seconds, Use.seconds)), 0.0)).where(
        Use.owner == owner, col(Use.finished_at) >= since, col(Use.mock).is_(False)
    )
    # Few jobs run, so those of all owners are read; one owner may have had very many jobs.
    running = select(Job.owner, Job.started_at, Job.released_at, Job.devices).where(
        Job.status == JobState.RUNNING, Job.type == GENERATION, col(Job.mock).is_(False)
    )
    with database.read() as session:
        begun = [
            (started, released or now, devices)
            for one, started, released, devices in session.exec(running)
            if one == owner and started is not None
        ]
        held: float = session.exec(ended).one() or 0.0
    return held + sum(
        devices * max(0.0, (until - max(started, since)).total_seconds()) for started, until, devices in begun
    )


def awaited_gpu_seconds(database: Database, owner: str) -> float:
    """Return the seconds for which the owner's queued generations are expected to hold devices.

    The estimate uses measured durations; a model that was never measured counts as 0.
    """
    waiting = (
        select(Job.model_cache_key, Job.speed, Job.devices, func.sum(Job.work))
        .where(Job.owner == owner, Job.status == JobState.QUEUED, Job.type == GENERATION, col(Job.mock).is_(False))
        .group_by(col(Job.model_cache_key), col(Job.speed), col(Job.devices))
    )
    with database.read() as session:
        found = session.exec(waiting).all()
    return sum(
        devices * work * (durations.measured(database, key, speed=speed, devices=devices).seconds_per_work or 0.0)
        for key, speed, devices, work in found
    )


def expected_seconds(database: Database, generations: Sequence[Any]) -> float:
    """Return the seconds for which new generations (`NewJob`) are expected to hold devices, as in the limits."""
    work: Counter[tuple[str, str, int]] = Counter()
    for new in generations:
        if not new.mock:
            params = new.params
            work[params.model_cache_key, params.speed, params.devices_per_job] += params.work
    return sum(
        devices * units * (durations.measured(database, key, speed=speed, devices=devices).seconds_per_work or 0.0)
        for (key, speed, devices), units in work.items()
    )


@dataclass(frozen=True)
class Ahead:
    """The generations that come before a new one of some priority."""

    queued: int
    running: int
    device_seconds: float | None  # that they are expected to hold devices from now on; None: a model was never measured


def ahead(database: Database, rank: int) -> Ahead:
    """Return what comes before a generation of that rank of priority: the running ones, and those queued before it."""
    kinds: tuple[Any, ...] = (Job.model_cache_key, Job.speed, Job.devices)
    waiting: Any = (
        select(*kinds, func.count(), func.sum(Job.work))  # type: ignore[call-overload]
        .where(Job.status == JobState.QUEUED, Job.type == GENERATION, col(Job.mock).is_(False), Job.priority <= rank)
        .group_by(*kinds)
    )
    holding: Any = select(*kinds, Job.work, epoch_now() - col(Job.claimed_at)).where(  # type: ignore[call-overload]
        Job.status == JobState.RUNNING, Job.type == GENERATION, col(Job.mock).is_(False), ON_DEVICE
    )
    with database.read() as session:
        queued, running = session.exec(waiting).all(), session.exec(holding).all()
    seconds: float | None = 0.0
    jobs = [(row[:3], row[4], 0.0) for row in queued] + [(row[:3], row[3], row[4] or 0.0) for row in running]
    rates: dict[tuple[str, str, int], float | None] = {}
    for (key, speed, devices), work, elapsed in jobs:
        if (kind := (key, speed, devices)) not in rates:
            found = durations.measured(database, key, speed=speed, devices=devices)
            rates[kind] = found.seconds_per_work
        rate = rates[kind]
        seconds = None if rate is None or seconds is None else seconds + devices * max(0.0, work * rate - elapsed)
    return Ahead(sum(row[3] for row in queued), len(running), seconds)


def held_seconds(job: Job, now: datetime) -> float | None:
    """Return the seconds for which a started generation has held its devices, summed over them; None for other jobs."""
    if job.type != GENERATION or job.mock or job.started_at is None:
        return None
    until = job.released_at or job.finished_at or now
    return max(0.0, (until - job.started_at).total_seconds()) * job.devices


def device_seconds(job: Job, finished_at: datetime) -> float | None:
    """Return the seconds for which the job held its devices, summed over them; None: one device, to the job's end."""
    if job.started_at is None or (job.released_at is None and job.devices == 1):
        return None
    return ((job.released_at or finished_at) - job.started_at).total_seconds() * job.devices
