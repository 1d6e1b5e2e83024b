"""The scheduled tasks: retention, the sweep of orphaned files, roll-ups, snapshots, alerts, and integrity checks.

Long tasks work in batches for as long as the tick has time, and the next tick continues. The io worker loads this
module by its dotted name.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import islice

from celery import shared_task

from scheduler.alerts.facts import Ground
from scheduler.alerts.watch import ground_of, run_once
from shared import clock
from shared.access import audit
from shared.catalogue import models as catalogue
from shared.catalogue.job_types import INTEGRITY_CHECK, IntegrityCheckParams
from shared.cluster import nodes
from shared.database.engine import Database
from shared.errors import StoreUnavailable
from shared.insight import samples, snapshots, tier_measurements
from shared.jobs import accepting, ids, records
from shared.jobs.accepting import NewJob
from shared.jobs.claims import pauses
from shared.jobs.ending import batch_ends, webhooks
from shared.jobs.gallery import filling
from shared.jobs.reading import queues
from shared.jobs.usage import by_day
from shared.management import library
from shared.management.library import UseFigures, stored_progress
from shared.management.snapshot import snapshot
from shared.management.summary import Overviews
from shared.messaging import celery
from shared.messaging.progress import RestingRedis
from shared.messaging.ticks import Run, once
from shared.models.loras import library as library_of_loras
from shared.settings import Settings, load
from shared.states import JOB_ENDS, JobState, Priority
from shared.storage.layout import OrphanedFiles
from shared.storage.store import Store, open_store
from shared.telemetry.metrics import REMOVAL_ERRORS, Meters

log = logging.getLogger("wanworks.ticks")

# Files unchanged for this long and without a row are orphans of a request or an attempt that has died.
_ORPHANED_SECONDS = 3600.0
_CHECKED_AT_ONCE = 500
_DROPPED_AT_ONCE = 250
# Batches of messages and audit entries in one tick: the rest of its time is for jobs and their files.
_BATCHES = 20
# Up to this many jobs whose files cannot be removed are skipped; with more, the store itself has failed.
_MOST_FAILED = 1000
_LOGGED_AT_ONCE = 5
# Where the next tick continues.
_SWEPT_UNTIL, _MESSAGES_UNTIL, _FILLED_UNTIL = "swept_until", "webhook_messages_until", "gallery_filled_until"
# No process can still finish an upload to a bucket that is older than this.
_UNFINISHED_SECONDS = 24 * 3600.0
# The period over which the starts of the nodes' scheduled checks are spread.
_FULL_SPREAD_SECONDS, _QUICK_SPREAD_SECONDS = 4 * 3600.0, 900.0
_SNAPSHOTS_KEPT = timedelta(days=90)


def _always() -> bool:
    return True


def apply_retention(
    database: Database,
    store: Store,
    retention: timedelta,
    has_time: Callable[[], bool] = _always,
    meters: Meters | None = None,
) -> str:
    """Remove ended jobs older than `retention` and deleted jobs, after their artifacts. Return a summary.

    Favourites and videos in collections stay. A job whose files cannot be removed keeps its row and is logged and
    counted; other jobs are not delayed.
    """
    dropped, failed = 0, set[str]()
    before = clock.now() - retention
    while has_time() and len(failed) < _MOST_FAILED:
        job_ids = records.purgeable(database, before, _DROPPED_AT_ONCE, failed)
        if not job_ids:
            break
        store.ask()  # with a missing mount no files would be found, although all still exist
        gone = records.expire(database, job_ids)
        left = store.drop_jobs(gone)
        _report_left(left, meters)
        failed |= left.keys()
        dropped += records.purge(database, [job_id for job_id in gone if job_id not in left])
    return f"{dropped} jobs removed" + (
        f", {len(failed)} kept because of files that cannot be removed" if failed else ""
    )


def drop_messages(database: Database, has_time: Callable[[], bool] = _always) -> int:
    """Remove ended webhook messages whose jobs no longer exist. Return how many were removed."""
    dropped, after = 0, nodes.noted(database, _MESSAGES_UNTIL) or ""
    for _ in range(_BATCHES):
        if not has_time():
            break
        count, until = webhooks.drop_of_gone_jobs(database, after)
        dropped += count
        if (until or "") != after:
            nodes.note(database, _MESSAGES_UNTIL, until or "")
        if until is None:
            break
        after = until
    return dropped


def fill_gallery(database: Database, has_time: Callable[[], bool] = _always) -> int:
    """Add finished videos that the gallery does not have yet. Return how many."""
    noted = nodes.noted(database, _FILLED_UNTIL)
    since = datetime.fromisoformat(noted) if noted else None
    added, more = 0, True
    while more and has_time():
        count, since, more = filling.fill(database, since)
        added += count
    if since is not None and since.isoformat() != noted:
        nodes.note(database, _FILLED_UNTIL, since.isoformat())
    return added


def drop_audit(database: Database, kept: timedelta, has_time: Callable[[], bool] = _always) -> int:
    """Remove audit entries older than `kept`. Return how many were removed."""
    dropped, before = 0, clock.now() - kept
    for _ in range(_BATCHES):
        count = audit.drop_older(database, before) if has_time() else 0
        dropped += count
        if count == 0:
            break
    return dropped


def sweep(
    database: Database,
    store: Store,
    older_than_seconds: float = _ORPHANED_SECONDS,
    has_time: Callable[[], bool] = _always,
    meters: Meters | None = None,
) -> str:
    """Remove files that no job owns, files of attempts that did not win, and abandoned uploads. Return a summary.

    It reads the store in the order of job ids, and stores its position for the next tick.
    """
    store.ask()
    folders = attempts = unfinished = 0
    after = nodes.noted(database, _SWEPT_UNTIL) or ""
    found = store.orphaned_files(older_than_seconds, after)
    while has_time():
        batch = list(islice(found, _CHECKED_AT_ONCE))
        known = records.winning_attempts(database, [one.job_id for one in batch])
        orphans = [one.job_id for one in batch if one.job_id not in known]
        for first in range(0, len(orphans), _DROPPED_AT_ONCE):
            job_ids = orphans[first : first + _DROPPED_AT_ONCE]
            left = store.drop_jobs(job_ids)
            _report_left(left, meters)
            folders += len(job_ids) - len(left)
        for one in batch:
            attempts += _drop_losers(store, one, known.get(one.job_id), meters)
        if len(batch) < _CHECKED_AT_ONCE:
            unfinished = store.drop_unfinished(_UNFINISHED_SECONDS)
            if after:
                nodes.note(database, _SWEPT_UNTIL, "")
            break
        after = batch[-1].job_id
        nodes.note(database, _SWEPT_UNTIL, after)
    return f"{folders} orphaned folders, {attempts} losing attempts and {unfinished} unfinished uploads removed"


def sweep_loras(database: Database, store: Store, older_than_seconds: float = _ORPHANED_SECONDS) -> str:
    """Remove files of LoRAs that were removed and that no job needs any more. Return a summary."""
    library_of_loras.forget_unused(database)
    found = store.loras(older_than_seconds)
    known = library_of_loras.known(database) if found else set()
    left = [sha256 for sha256 in found if sha256 not in known]
    for sha256 in left:
        store.drop_lora(sha256)
    return f"{len(left)} files of LoRAs removed"


def _drop_losers(store: Store, files: OrphanedFiles, job: tuple[str, int] | None, meters: Meters | None) -> int:
    """Remove an ended job's checkpoints and the files of attempts that did not win. Return how many attempts."""
    if job is None or job[0] not in JOB_ENDS:
        return 0
    status, winner = job
    dropped = 0
    if files.checkpoint:
        try:
            store.drop_checkpoints(files.job_id)
        except StoreUnavailable as error:
            _report_left({files.job_id: error}, meters)
    for attempt in files.attempts:
        if attempt != winner or status != JobState.SUCCEEDED:
            try:
                store.drop_attempt(files.job_id, attempt)
                dropped += 1
            except StoreUnavailable as error:
                _report_left({files.job_id: error}, meters)
    return dropped


def _report_left(left: Mapping[str, StoreUnavailable], meters: Meters | None) -> None:
    for job_id, error in list(left.items())[:_LOGGED_AT_ONCE]:
        log.warning("job %s: its files cannot be removed and will be tried again: %s", job_id, error)
    if len(left) > _LOGGED_AT_ONCE:
        log.warning("the files of %d other jobs cannot be removed either", len(left) - _LOGGED_AT_ONCE)
    if meters is not None and left:
        meters.count(REMOVAL_ERRORS, by=len(left))


def start_checks(database: Database, settings: Settings, *, full: bool) -> str:
    """Queue an integrity check of all models on each live, undrained node without an unfinished check.

    The starts are spread evenly, in the order of the nodes' names, so that nodes that share a disk or a network do not
    all read at once.
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
    queued = sum(isinstance(one, accepting.Accepted) for one in accepting.accept(database, new)) if new else 0
    if queued:
        celery.wake(RestingRedis(settings.redis))
    return f"{queued} {'full' if full else 'quick'} checks queued"


def take_snapshot(database: Database, overviews: Overviews, now: datetime) -> str:
    """Store the present figures of the metrics route. They are kept for 90 days."""
    snapshots.record(database, snapshot(overviews.whole()))
    return f"taken; {snapshots.drop_older(database, now - _SNAPSHOTS_KEPT)} removed"


@shared_task(name="wanworks.tick.retention")
def retention_tick(name: str, every: float) -> str | None:
    settings, database = _ground()

    def run_tick(run: Run) -> str:
        entries = drop_audit(database, timedelta(days=settings.audit_days), run.has_time)
        messages = drop_messages(database, run.has_time)
        measured = tier_measurements.drop_surplus(database)
        ended = pauses.purge(database)
        forgotten = batch_ends.end_forgotten(database, lambda: f"msg_{ids.new_id()}")
        kept = timedelta(days=settings.retention_days)
        dropped = apply_retention(database, _store(), kept, run.has_time, _meters())
        others = (
            f"{messages} webhook messages, {entries} audit entries, {measured} measurements of tiers, {ended} pauses"
        )
        others += f"; {forgotten} batches ended" if forgotten else ""
        return f"{dropped}, {others}"

    return once(database, name, every, clock.now().timestamp(), run_tick)


@shared_task(name="wanworks.tick.sweep")
def sweep_tick(name: str, every: float) -> str | None:
    _, database = _ground()

    def run_tick(run: Run) -> str:
        loras = sweep_loras(database, _store())
        return f"{sweep(database, _store(), has_time=run.has_time, meters=_meters())}; {loras}"

    return once(database, name, every, clock.now().timestamp(), run_tick)


@shared_task(name="wanworks.tick.roll_up")
def roll_up_tick(name: str, every: float) -> str | None:
    _, database = _ground()
    now = clock.now()
    return once(database, name, every, now.timestamp(), lambda _: f"{by_day.roll_up(database, now)} days rolled up")


@shared_task(name="wanworks.tick.gallery")
def gallery_tick(name: str, every: float) -> str | None:
    _, database = _ground()

    def run_tick(run: Run) -> str:
        return f"{fill_gallery(database, run.has_time)} videos added"

    return once(database, name, every, clock.now().timestamp(), run_tick)


@shared_task(name="wanworks.tick.samples")
def samples_tick(name: str, every: float) -> str | None:
    _, database = _ground()
    now = clock.now()
    return once(database, name, every, now.timestamp(), lambda _: f"{samples.roll_up(database, now)} hours rolled up")


@shared_task(name="wanworks.tick.snapshot")
def snapshot_tick(name: str, every: float) -> str | None:
    _, database = _ground()
    now = clock.now()
    return once(database, name, every, now.timestamp(), lambda _: take_snapshot(database, _overviews(), now))


@shared_task(name="wanworks.tick.alerts")
def alerts_tick(name: str, every: float) -> str | None:
    return run_once(_alert_ground())


@shared_task(name="wanworks.tick.check")
def check_tick(name: str, every: float) -> str | None:
    settings, database = _ground()
    full = name == "full_check"
    now = clock.now().timestamp()
    return once(database, name, every, now, lambda _: start_checks(database, settings, full=full))


@cache
def _overviews() -> Overviews:
    settings, database = _ground()
    models = catalogue.load(settings.catalogue)
    read_library = partial(library.read, settings, models, database, stored_progress, UseFigures(models, database))
    return Overviews(settings, database, read_library)


@cache
def _alert_ground() -> Ground:
    return ground_of(_ground()[0])


@cache
def _ground() -> tuple[Settings, Database]:
    settings = load()
    return settings, Database(settings.database)


@cache
def _meters() -> Meters:
    return Meters(RestingRedis(_ground()[0].redis))


@cache
def _store() -> Store:
    """Open the store only for the ticks that need it, so that an unavailable store does not stop the others."""
    settings, database = _ground()
    return open_store(settings, lambda: nodes.agreed(database, "store"), create=False)
