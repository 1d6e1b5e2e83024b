"""The handler of cleanup jobs: plan on current facts, do the first action, and repeat until no action is left.

Planning again before each removal keeps the plan valid while other jobs start and end; the lock in
`shared/models/removals.py` keeps it valid until the removal itself. Freed space is measured on the disk.
"""

import logging
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared import clock
from shared.catalogue.job_types import CleanupParams
from shared.catalogue.models import Catalogue
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import StoreUnavailable
from shared.jobs import records
from shared.management import cleanup_facts
from shared.management.cleanup_plan import Action, ActionKind, CleanupFacts, plan, revisions_of
from shared.messaging import celery
from shared.messaging.progress import Progress, RestingRedis
from shared.models import prepared, removals, replica_files
from shared.settings import Settings
from shared.states import Phase
from shared.storage.directory import BLOCK_BYTES, allocated_bytes
from shared.storage.disk import sync_folder
from shared.storage.store import Store
from workers.attempts.heartbeat import Heartbeat
from workers.models import inventory, presence
from workers.models.fetch.layout import RepoCache

log = logging.getLogger("wanworks.cleanup")


class CleanupHandler:
    """Runs the cleanups of one node."""

    at_most: int | None = 1

    def __init__(
        self, settings: Settings, database: Database, catalogue: Catalogue, store: Store, redis: RestingRedis
    ) -> None:
        self._settings = settings
        self._database = database
        self._catalogue = catalogue
        self._store = store
        self._redis = redis
        self._progress = Progress(redis)

    def run(self, job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
        params = CleanupParams.model_validate(job.params)
        removals.abandon_removals(self._database, self._settings.node)  # of an attempt that died
        self._scan()
        before = self._free_bytes()
        executed: list[dict[str, Any]] = []
        skipped: list[dict[str, Any]] = []
        if not params.dry_run:
            self._execute(job, params, heartbeat, executed, skipped)
        proposed = plan(self._facts(params, self._free_bytes()))
        after = self._free_bytes()
        return {
            "dry_run": params.dry_run,
            "executed_actions": executed,
            "skipped": skipped,
            "proposed_actions": [_described(action) for action in proposed.actions],
            "kept": [{"model_id": kept.model_id, "reason": kept.reason} for kept in proposed.kept],
            "freed_bytes": sum(action["freed_bytes"] for action in executed),
            "free_gb_before": before / 1e9,
            "free_gb_after": after / 1e9,
            "target_space_gb": params.target_space_gb,
            "reaches_target": params.target_space_gb is None or after >= params.target_space_gb * 1e9,
        }

    def undo(self, job: Job) -> None:
        """Do nothing: removals are final, and the next scan clears a remaining mark."""

    def after(self, job: Job) -> None:
        self._scan()

    def _execute(
        self,
        job: Job,
        params: CleanupParams,
        heartbeat: Heartbeat,
        executed: list[dict[str, Any]],
        skipped: list[dict[str, Any]],
    ) -> None:
        tried: set[tuple[str, str | None, str | None]] = set()
        begun_with, freed = self._free_bytes(), 0
        while True:
            heartbeat.check()
            # Count freed space even if the file system releases it later, so that no more is removed than planned.
            facts = self._facts(params, max(self._free_bytes(), begun_with + freed))
            actions = [action for action in plan(facts).actions if _key(action) not in tried]
            if not actions:
                return
            self._report(job, heartbeat, len(executed), len(actions))
            action = actions[0]
            tried.add(_key(action))
            size = self._carry_out(action, facts)
            if size is None:
                skipped.append({**_described(action), "reason": "A job needs it now"})
                continue
            executed.append({**_described(action), "freed_bytes": size})
            freed += size if action.kind != ActionKind.REMOVE_ARTIFACTS or facts.artifacts_on_this_disk else 0
            log.info("%s %s: %d bytes freed", action.kind, action.model_id or "", size)
            inventory.record(self._database, self._settings.node, self._settings.models_dir, self._catalogue)

    def _facts(self, params: CleanupParams, free_bytes: int) -> CleanupFacts:
        settings = self._settings
        facts = cleanup_facts.gather(
            self._database,
            self._catalogue,
            settings.node,
            clock.now(),
            params.target_space_gb,
            params.keep_recent_days,
            settings.retention_days,
        )
        one_disk = self._store.is_beside(settings.models_dir)
        return replace(facts, disk_free_bytes=free_bytes, artifacts_on_this_disk=one_disk)

    def _carry_out(self, action: Action, facts: CleanupFacts) -> int | None:
        """Carry out the action. Return the freed bytes as measured on disk; None if the files are needed meanwhile."""
        if action.kind == ActionKind.REMOVE_ARTIFACTS:
            return self._drop_artifacts(action.job_ids)
        assert action.repo is not None, "every action on models names its repo"
        cache = RepoCache(self._settings.models_dir, action.repo)
        if action.kind == ActionKind.REMOVE_PARTIAL:
            return _drop_blob(cache, str(action.name))
        if action.kind == ActionKind.REMOVE_REVISION:
            return _drop_revisions(cache, [str(action.name)])
        if action.kind == ActionKind.REMOVE_PREPARED:
            return self._drop_copies(action, cache)
        return self._drop_model(action, facts, cache)

    def _drop_model(self, action: Action, facts: CleanupFacts, cache: RepoCache) -> int | None:
        node = self._settings.node
        names = [name for name in (action.model_id, *action.also) if name is not None]
        begun: list[str] = []
        for name in names:
            if not removals.begin_removal(self._database, node, name):
                if begun:
                    removals.abandon_removals(self._database, node)
                    self._scan()
                return None
            begun.append(name)
        celery.wake(self._redis)
        model = next(model for model in facts.models if model.model_id == action.model_id)
        try:
            return _drop_revisions(cache, sorted(revisions_of(facts, model)))
        finally:
            for name in begun:
                removals.finish_removal(self._database, node, name)

    def _drop_copies(self, action: Action, cache: RepoCache) -> int | None:
        """Remove the prepared copies of a model. Loading continues with the published weights."""
        revision = str(action.name)
        lock = cache.try_lock(prepared.lock_name(revision), 0.0)
        if lock is None:
            return None  # a job writes copies
        try:
            freed = _drop_copies(cache, revision)
        finally:
            lock.release()
        for name in filter(None, (action.model_id, *action.also)):
            replica_files.record_prepared(self._database, self._settings.node, name, revision, [], [])
        return freed

    def _drop_artifacts(self, job_ids: Iterable[str]) -> int:
        freed = 0
        for job_id in records.expire(self._database, list(job_ids)):
            size = self._store.allocated_bytes(job_id)
            try:
                self._store.drop_job(job_id)
            except StoreUnavailable as error:
                log.warning("job %s: its files cannot be removed: %s", job_id, error)
                continue
            freed += size - self._store.allocated_bytes(job_id)
            records.purge(self._database, [job_id])
        return freed

    def _scan(self) -> None:
        presence.scan(self._settings, self._database, self._catalogue, self._redis)

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._settings.models_dir).free

    def _report(self, job: Job, heartbeat: Heartbeat, done: int, left: int) -> None:
        percent = max(heartbeat.percent, round(100 * done / (done + left), 1))
        heartbeat.moved(Phase.REMOVING, percent)
        event = {"kind": "progress", "attempt": job.attempt, "phase": Phase.REMOVING, "percent": percent}
        if self._progress.report(job.id, event):
            heartbeat.cancel()


def _drop_blob(cache: RepoCache, name: str) -> int | None:
    """Remove one blob that no revision needs. Return the freed bytes; None if the blob is being written."""
    lock = cache.try_lock(name.split(".")[0], 0.0)
    if lock is None:
        return None
    try:
        return _unlink(cache.folder / "blobs" / name)
    finally:
        lock.release()


def _drop_revisions(cache: RepoCache, revisions: Iterable[str]) -> int:
    """Remove snapshots and the blobs that no other snapshot needs. Return the freed bytes.

    References are removed first, so that none names a partially removed snapshot; a kill in between leaves blobs for
    the next cleanup. The library's own `delete_revisions` refuses a cache with a broken link.
    """
    gone = set(revisions)
    freed = 0
    references = cache.folder / "refs"
    for reference in sorted(references.rglob("*")) if references.is_dir() else ():
        if reference.is_file() and reference.read_text(encoding="ascii", errors="replace").strip() in gone:
            freed += _unlink(reference)
    before = inventory.blobs_on_disk(cache.models_dir, cache.repo)
    for revision in sorted(gone):
        freed += _remove_tree(cache.snapshot(revision))
    for blob in before:
        if blob.revisions and gone.issuperset(blob.revisions):
            freed += _unlink(cache.folder / "blobs" / blob.name)
    sync_folder(cache.folder)
    return freed


def _drop_copies(cache: RepoCache, revision: str) -> int:
    """Remove a snapshot's prepared copies and the blobs that nothing else needs. Return the freed bytes."""
    before = inventory.blobs_on_disk(cache.models_dir, cache.repo)
    freed = _remove_tree(cache.snapshot(revision) / prepared.FOLDER)
    for blob in before:
        if blob.prepared and blob.revisions == (revision,):
            freed += _unlink(cache.folder / "blobs" / blob.name)
    sync_folder(cache.folder)
    return freed


def _remove_tree(folder: Path) -> int:
    """Remove a folder. Return the freed bytes. It is renamed first, so that no process finds a partial one."""
    if not folder.is_dir():
        return 0
    aside = folder.with_name(f".removed-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    size = allocated_bytes(aside)
    shutil.rmtree(aside)
    return size - allocated_bytes(aside)


def _unlink(file: Path) -> int:
    """Remove a file. Return the freed bytes: 0 if it does not exist or has another hard link."""
    try:
        status = file.lstat()
        file.unlink()
    except FileNotFoundError:
        return 0
    return status.st_blocks * BLOCK_BYTES if status.st_nlink == 1 else 0


def _key(action: Action) -> tuple[str, str | None, str | None]:
    return action.kind, action.repo, action.name


def _described(action: Action) -> dict[str, Any]:
    """Return the action as the cleanup route describes it."""
    return {
        "action_type": str(action.kind),
        "model_id": action.model_id,
        "name": action.name,
        "space_freed_gb": action.bytes / 1e9,
        "reason": action.reason,
        "last_used": clock.iso(action.last_used),
    }
