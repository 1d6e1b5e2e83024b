"""The GPU-seconds of a key: how much of each limit is used, and whether another job is accepted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import ceil

from shared import clock
from shared.access.keys import Limits
from shared.catalogue.job_types import GenerationParams
from shared.database.engine import Database
from shared.errors import LimitReached
from shared.jobs import accepting
from shared.jobs.accepting import NewJob
from shared.jobs.reading import queues
from shared.jobs.usage import gpu_time


@dataclass(frozen=True)
class LimitUse:
    """How much of a limit of a key is used."""

    name: str
    allowed: float
    used: float
    expected: float  # what the key's queued jobs are expected to add
    resets_at: datetime | None  # None: it is not counted over a time


def check(database: Database, limits: Limits, new: NewJob) -> None:
    """Raise LimitReached if the key has used its GPU-seconds, counting what its queued jobs are expected to take.

    A repeated request for an accepted job is not refused.
    """
    now = clock.now()
    for use in _gpu_uses(database, limits, new.owner, now):
        if use.used + use.expected >= use.allowed and not accepting.was_accepted(database, new):
            raise _refusal(use, now)


def check_several(database: Database, limits: Limits, new: Sequence[NewJob]) -> None:
    """Raise LimitReached if one of the jobs would be refused when they were submitted one after the other."""
    if not limits.counts_gpu_seconds or not new:
        return
    now = clock.now()
    made = [one for one in new if isinstance(one.params, GenerationParams) and not one.mock]
    kinds = [
        gpu_time.Alike(params.model_cache_key, params.speed, params.devices_per_job, params.volume, params.work)
        for params in (one.params for one in made[:-1])
        if isinstance(params, GenerationParams)
    ]
    before = gpu_time.expected_gpu_seconds(database, kinds)
    for use in _gpu_uses(database, limits, new[0].owner, now):
        if use.used + use.expected + before >= use.allowed:
            raise _refusal(replace(use, expected=use.expected + before), now)


def uses(database: Database, limits: Limits, owner: str | None) -> list[LimitUse]:
    """Return the use of each limit that decides whether another job is accepted or starts."""
    if owner is None:
        return []
    found = list(_gpu_uses(database, limits, owner, clock.now()))
    if limits.queued_jobs is not None:
        found.append(LimitUse("queued_jobs", limits.queued_jobs, queues.queued_of(database, owner), 0, None))
    return found


def check_room(uses: list[LimitUse]) -> None:
    """Raise LimitReached as accepting a job would, if one of the limits is reached."""
    for use in uses:
        if use.used + use.expected < use.allowed:
            continue
        if use.resets_at is None:
            message = accepting.queue_limit_message(int(use.allowed))
            raise LimitReached(message, accepting.QUEUE_RETRY_SECONDS)
        raise _refusal(use, clock.now())


def _gpu_uses(database: Database, limits: Limits, owner: str | None, now: datetime) -> Iterator[LimitUse]:
    if owner is None or (limits.gpu_seconds_per_day is None and limits.gpu_seconds_per_month is None):
        return
    expected = gpu_time.awaited_gpu_seconds(database, owner)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if (allowed := limits.gpu_seconds_per_day) is not None:
        used = gpu_time.gpu_seconds(database, owner, midnight, now)
        yield LimitUse("gpu_seconds_per_day", allowed, used, expected, midnight + timedelta(days=1))
    if (allowed := limits.gpu_seconds_per_month) is not None:
        first = midnight.replace(day=1)
        used = gpu_time.gpu_seconds(database, owner, first, now)
        yield LimitUse("gpu_seconds_per_month", allowed, used, expected, (first + timedelta(days=32)).replace(day=1))


def _refusal(use: LimitUse, now: datetime) -> LimitReached:
    assert use.resets_at is not None
    period = "day" if use.name == "gpu_seconds_per_day" else "month"
    message = f"This API key has used {use.used:.0f} of its {use.allowed:g} GPU-seconds per {period} (UTC)"
    message += f"; its queued jobs are expected to take {use.expected:.0f} more" if use.expected else ""
    message += f". Send the request again after {clock.iso(use.resets_at)}, or have an administrator raise the limit"
    return LimitReached(message, ceil((use.resets_at - now).total_seconds()))
