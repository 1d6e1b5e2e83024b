"""What the schedules do: drop what has been kept long enough, and sweep what dead attempts left.

Loaded by the io worker by its dotted name. Each tick is done once for (schedule, tick), however often beat says it.
"""

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import cache

from celery import shared_task
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlmodel import col

from scheduler.schedule import SCHEDULES, tick_number
from shared import clock, jobs, nodes
from shared.database import Database
from shared.settings import Settings, load
from shared.states import JOB_ENDS, JobState
from shared.store import Store, open_store
from shared.tables import Tick

log = logging.getLogger("wanworks.ticks")

# What nobody has touched for this long, and no row knows, is litter of a request or an attempt that died.
_LITTER_SECONDS = 3600.0
_TICKS_KEPT = timedelta(days=7)


def once(database: Database, name: str, now: float, work: Callable[[], str]) -> str | None:
    """Does the work unless this schedule's present tick was taken; then None, else its outcome."""
    schedule = next(schedule for schedule in SCHEDULES if schedule.name == name)
    number = tick_number(schedule, now)
    tick = Tick(schedule=name, tick=number, ran_at=clock.from_epoch(now), outcome="started")
    try:
        with database.write() as session:
            session.add(tick)
    except IntegrityError:
        return None
    outcome = work()
    with database.write() as session:
        row = session.get(Tick, (name, number))
        if row is not None:
            row.outcome = outcome[:500]
            session.add(row)
        expired = col(Tick.ran_at) < clock.from_epoch(now) - _TICKS_KEPT
        session.connection().execute(delete(Tick).where(expired))
    return outcome


def apply_retention(database: Database, store: Store, retention: timedelta) -> str:
    """Drops ended jobs older than that, and those that their owners deleted, with their artifacts."""
    dropped = 0
    while job_ids := jobs.purgeable(database, clock.now() - retention):
        for job_id in job_ids:
            store.drop_job(job_id)
        dropped += jobs.purge(database, job_ids)
    return f"{dropped} jobs dropped"


def sweep(database: Database, store: Store, older_than_seconds: float = _LITTER_SECONDS) -> str:
    """Removes folders that no job owns, and those of attempts that did not win."""
    folders = attempts = 0
    for job_id in list(store.job_folders(older_than_seconds)):
        known = jobs.winning_attempts(database, [job_id]).get(job_id)
        if known is None:
            store.drop_job(job_id)
            folders += 1
            continue
        status, winner = known
        if status not in JOB_ENDS:
            continue
        for attempt in store.attempts(job_id):
            if attempt != winner or status != JobState.SUCCEEDED:
                store.drop_attempt(job_id, attempt)
                attempts += 1
    return f"{folders} orphaned folders and {attempts} losing attempts removed"


@shared_task(name="wanworks.tick.retention")
def retention_tick(name: str) -> str | None:
    settings, database, store = _ground()
    keep = timedelta(days=settings.retention_days)
    return once(database, name, clock.now().timestamp(), lambda: apply_retention(database, store, keep))


@shared_task(name="wanworks.tick.sweep")
def sweep_tick(name: str) -> str | None:
    _, database, store = _ground()
    return once(database, name, clock.now().timestamp(), lambda: sweep(database, store))


@cache
def _ground() -> tuple[Settings, Database, Store]:
    settings = load()
    database = Database(settings.database)
    return settings, database, open_store(settings.store_dir, lambda: nodes.agreed(database, "store"), create=False)
