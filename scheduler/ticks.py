"""What the schedules do: drop what was kept long enough, sweep what dead attempts left, count uses and samples, keep
each minute's figures, look at the alerts, ask for checks.

Loaded by the io worker by its dotted name.
"""

import logging
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import islice

from celery import shared_task

from scheduler.alert_facts import Ground
from scheduler.alerting import ground_of, look_once
from shared import broker, catalogue, clock, jobs, library, nodes, queues, samples, snapshots, usage
from shared.database import Database
from shared.job_types import INTEGRITY_CHECK, IntegrityCheckParams
from shared.jobs import NewJob
from shared.library import UseFigures, stored_progress
from shared.overview import Overviews, snapshot
from shared.progress import RestingRedis
from shared.settings import Settings, load
from shared.states import JOB_ENDS, JobState, Priority
from shared.store import Store, open_store
from shared.ticks import once

log = logging.getLogger("wanworks.ticks")

# What nobody has touched for this long, and no row knows, is litter of a request or an attempt that died.
_LITTER_SECONDS = 3600.0
_ASKED_AT_ONCE = 500
# An upload to a bucket that is older than this has nobody any more who could finish it.
_UNFINISHED_SECONDS = 24 * 3600.0
# Over how long the nodes' scheduled checks begin.
_FULL_SPREAD_SECONDS, _QUICK_SPREAD_SECONDS = 4 * 3600.0, 900.0
_SNAPSHOTS_KEPT = timedelta(days=90)


def apply_retention(database: Database, store: Store, retention: timedelta) -> str:
    """Drops ended jobs older than that, and those that their owners deleted, with their artifacts."""
    dropped = 0
    while job_ids := jobs.purgeable(database, clock.now() - retention):
        for job_id in job_ids:
            store.drop_job(job_id)
        dropped += jobs.purge(database, job_ids)
    return f"{dropped} jobs dropped"


def sweep(database: Database, store: Store, older_than_seconds: float = _LITTER_SECONDS) -> str:
    """Removes what no job owns, what attempts that did not win have left, and uploads that nobody will finish."""
    folders = attempts = 0
    there = store.litter(older_than_seconds)
    while some := list(islice(there, _ASKED_AT_ONCE)):
        known = jobs.winning_attempts(database, [one.job_id for one in some])
        for one in some:
            if one.job_id not in known:
                store.drop_job(one.job_id)
                folders += 1
                continue
            status, winner = known[one.job_id]
            if status not in JOB_ENDS:
                continue
            for attempt in one.attempts:
                if attempt != winner or status != JobState.SUCCEEDED:
                    store.drop_attempt(one.job_id, attempt)
                    attempts += 1
    unfinished = store.drop_unfinished(_UNFINISHED_SECONDS)
    return f"{folders} orphaned folders, {attempts} losing attempts and {unfinished} unfinished uploads removed"


def start_checks(database: Database, settings: Settings, *, full: bool) -> str:
    """One integrity check of everything for each live node that has none waiting or running, and is not drained.

    Their starts are spread evenly, in the order of the nodes' names: nodes that share a disk or a network do not all
    read at once.
    """
    alive = [
        node.name
        for node, silent in nodes.nodes(database)
        if nodes.is_heard(silent, settings.device_silence_seconds) and node.drained_at is None
    ]
    apart = (_FULL_SPREAD_SECONDS if full else _QUICK_SPREAD_SECONDS) / max(1, len(alive))
    busy = queues.nodes_with(database, INTEGRITY_CHECK)
    new = [
        NewJob(
            INTEGRITY_CHECK,
            IntegrityCheckParams(node=name, full=full),
            Priority.LOW,
            metadata={"started_by": "schedule"},
            max_failures=settings.max_failures,
            delay_seconds=place * apart,
        )
        for place, name in enumerate(alive)
        if name not in busy
    ]
    if new:
        jobs.accept(database, new)
        broker.nudge(RestingRedis(settings.redis))
    return f"{len(new)} {'full' if full else 'quick'} checks queued"


def take_snapshot(database: Database, overviews: Overviews, now: datetime) -> str:
    """Keeps what the metrics route would tell now, for 90 days."""
    snapshots.record(database, snapshot(overviews.whole()))
    return f"taken; {snapshots.drop_older(database, now - _SNAPSHOTS_KEPT)} dropped"


@shared_task(name="wanworks.tick.retention")
def retention_tick(name: str, every: float) -> str | None:
    settings, database = _ground()
    keep = timedelta(days=settings.retention_days)
    return once(database, name, every, clock.now().timestamp(), lambda: apply_retention(database, _store(), keep))


@shared_task(name="wanworks.tick.sweep")
def sweep_tick(name: str, every: float) -> str | None:
    _, database = _ground()
    return once(database, name, every, clock.now().timestamp(), lambda: sweep(database, _store()))


@shared_task(name="wanworks.tick.roll_up")
def roll_up_tick(name: str, every: float) -> str | None:
    _, database = _ground()
    now = clock.now()
    return once(database, name, every, now.timestamp(), lambda: f"{usage.roll_up(database, now)} days rolled up")


@shared_task(name="wanworks.tick.samples")
def samples_tick(name: str, every: float) -> str | None:
    _, database = _ground()
    now = clock.now()
    return once(database, name, every, now.timestamp(), lambda: f"{samples.roll_up(database, now)} hours rolled up")


@shared_task(name="wanworks.tick.snapshot")
def snapshot_tick(name: str, every: float) -> str | None:
    _, database = _ground()
    now = clock.now()
    return once(database, name, every, now.timestamp(), lambda: take_snapshot(database, _overviews(), now))


@shared_task(name="wanworks.tick.alerts")
def alerts_tick(name: str, every: float) -> str | None:
    return look_once(_alert_ground())


@shared_task(name="wanworks.tick.check")
def check_tick(name: str, every: float) -> str | None:
    settings, database = _ground()
    full = name == "full_check"
    now = clock.now().timestamp()
    return once(database, name, every, now, lambda: start_checks(database, settings, full=full))


@cache
def _overviews() -> Overviews:
    settings, database = _ground()
    models = catalogue.load(settings.catalogue)
    look = partial(library.look, settings, models, database, stored_progress, UseFigures(models, database))
    return Overviews(settings, database, look)


@cache
def _alert_ground() -> Ground:
    return ground_of(_ground()[0])


@cache
def _ground() -> tuple[Settings, Database]:
    settings = load()
    return settings, Database(settings.database)


@cache
def _store() -> Store:
    """Opened by what needs it alone: a store that is away holds up no other tick."""
    settings, database = _ground()
    return open_store(settings, lambda: nodes.agreed(database, "store"), create=False)
