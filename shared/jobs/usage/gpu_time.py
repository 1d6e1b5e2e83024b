"""The device time of an owner's generations, which the limits of API keys count."""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from sqlmodel import col, func, select

from shared.catalogue.job_types import GENERATION
from shared.database.engine import Database
from shared.database.tables import Job, Use
from shared.jobs.usage import durations
from shared.jobs.usage.durations import Durations
from shared.states import JobState


class Alike(NamedTuple):
    """Generations of one kind and volume."""

    model_cache_key: str
    speed: str
    devices: int
    volume: float  # of each
    work: float  # of all
    jobs: int = 1


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
        select(  # type: ignore[call-overload]
            Job.model_cache_key, Job.speed, Job.devices, Job.volume, func.sum(Job.work), func.count()
        )
        .where(Job.owner == owner, Job.status == JobState.QUEUED, Job.type == GENERATION, col(Job.mock).is_(False))
        .group_by(col(Job.model_cache_key), col(Job.speed), col(Job.devices), col(Job.volume))
    )  # fmt: skip
    with database.read() as session:
        found = session.exec(waiting).all()
    return expected_gpu_seconds(database, (Alike(*one) for one in found))


def expected_gpu_seconds(database: Database, jobs: Iterable[Alike]) -> float:
    """Return the seconds for which generations are expected to hold devices.

    A model that was never measured counts as 0.
    """
    known: dict[tuple[str, str, int], Durations] = {}
    seconds = 0.0
    for some in jobs:
        kind = (some.model_cache_key, some.speed, some.devices)
        if kind not in known:
            known[kind] = durations.measured(database, kind[0], speed=some.speed, devices=some.devices)
        expected = known[kind].history.expected(some.volume)
        if expected is not None:
            held = expected.device_seconds(some.work, some.volume * some.jobs, some.jobs)
            seconds += some.devices * held
    return seconds


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
