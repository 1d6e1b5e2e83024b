"""The phase `preparing` of a download, a preparation or a repair: write the copies, record them, report progress."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared import clock
from shared.catalogue.models import CatalogueEntry
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import CannotPrepare
from shared.messaging.progress import Progress
from shared.models import prepared, replica_files
from shared.models.prepared import Copy, Form
from shared.models.replica_files import FileState
from shared.settings import Settings
from shared.states import Phase
from workers.attempts.heartbeat import Heartbeat
from workers.models.fetch.layout import RepoCache
from workers.models.preparing import writing
from workers.models.preparing.sources import drop_sources

log = logging.getLogger("wanworks.preparing")

_REPORT_SECONDS = 0.25


@dataclass
class Outcome:
    """What was written, over all forms. Sizes in bytes."""

    copies: list[str] = field(default_factory=list)  # as `component form`
    bytes_written: int = 0
    bytes_shared: int = 0
    source_bytes_removed: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return {
            "copies": self.copies,
            "bytes_written": self.bytes_written,
            "bytes_shared": self.bytes_shared,
            "source_bytes_removed": self.source_bytes_removed,
            "seconds": round(self.seconds, 3),
        }


class Preparing:
    """Writes copies for one job of this node. `before`: the percentage of the job at which it begins."""

    def __init__(
        self, settings: Settings, database: Database, progress: Progress, job: Job, heartbeat: Heartbeat
    ) -> None:
        self._settings = settings
        self._database = database
        self._progress = progress
        self._job = job
        self._heartbeat = heartbeat
        self._before = heartbeat.percent
        self._next = 0.0
        self._done = -1

    def run(self, entry: CatalogueEntry, snapshot: Path, forms: Sequence[Form]) -> Outcome:
        """Write the copies that the snapshot lacks, then remove published weights if the settings say so.

        The coefficients of previews follow, unless the settings make no previews. If they cannot be fitted, there are
        none, and the copies count.

        Raises CannotPrepare, StoreFull, and what the heartbeat's check raises to stop.
        """
        self._heartbeat.moved(Phase.PREPARING, self._heartbeat.percent)
        cache = RepoCache(self._settings.models_dir, entry.repo)
        found = Outcome()
        began = time.monotonic()
        weights = tuple(form for form in forms if form != prepared.PREVIEW)
        for place, form in enumerate(weights):

            def report(progress: writing.Progress, place: int = place) -> None:
                self._report(progress, place, len(weights))

            def complete(copy: Copy) -> None:
                self._record(entry, snapshot)
                if not self._settings.keep_sources and weights == ("bf16",):
                    found.source_bytes_removed += self._drop_sources(entry, cache, snapshot, [copy])

            self._write(cache, snapshot, form, report, complete, found)
        if self._settings.preview_seconds > 0 or prepared.PREVIEW in forms:
            self._fit_previews(entry, cache, snapshot, found)
        if not self._settings.keep_sources:
            found.source_bytes_removed += self._drop_sources(entry, cache, snapshot, prepared.copies(snapshot))
        found.seconds = time.monotonic() - began
        return found

    def _write(
        self,
        cache: RepoCache,
        snapshot: Path,
        form: Form,
        report: Callable[[writing.Progress], None],
        complete: Callable[[Copy], None],
        found: Outcome,
    ) -> None:
        written = writing.prepare(
            cache,
            snapshot,
            form,
            self._settings.min_free_disk_mb * 1_000_000,
            report=report,
            check=self._heartbeat.check,
            complete=complete,
        )
        found.copies += [f"{copy.component} {copy.form}" for copy in written.copies]
        found.bytes_written += written.bytes_written
        found.bytes_shared += written.bytes_shared

    def _fit_previews(self, entry: CatalogueEntry, cache: RepoCache, snapshot: Path, found: Outcome) -> None:
        def report(progress: writing.Progress) -> None:
            if progress.bytes_done != self._done:  # a child that hangs makes no progress
                self._done = progress.bytes_done
                self._heartbeat.moved(Phase.PREPARING, self._heartbeat.percent)

        def complete(_copy: Copy) -> None:
            self._record(entry, snapshot)

        try:
            self._write(cache, snapshot, prepared.PREVIEW, report, complete, found)
        except CannotPrepare as error:
            log.warning("%s: its jobs have no previews: %s", entry.model_id, error)

    def _drop_sources(self, entry: CatalogueEntry, cache: RepoCache, snapshot: Path, copies: Sequence[Copy]) -> int:
        removed, freed = drop_sources(cache, snapshot, copies)
        if removed:
            self._record(entry, snapshot, removed)
        return freed

    def _record(self, entry: CatalogueEntry, snapshot: Path, removed: Sequence[str] = ()) -> None:
        """Record all copies of the snapshot; each was verified when it was written."""
        copies = prepared.copies(snapshot)
        known = replica_files.files(self._database, self._settings.node, entry.model_id, snapshot.name)
        verified = {path: row.verified_at for path, row in known.items() if row.fault is None}
        states = [state for copy in copies for state in _states(snapshot, copy, verified)]
        names = [f"{copy.component} {copy.form}" for copy in copies]
        replica_files.record_prepared(
            self._database, self._settings.node, entry.model_id, snapshot.name, states, names, removed
        )

    def _report(self, progress: writing.Progress, place: int, count: int) -> None:
        share = progress.bytes_done / progress.bytes_total if progress.bytes_total else 1.0
        percent = round(self._before + (100 - self._before) * (place + share) / count, 1)
        percent = max(self._heartbeat.percent, min(100.0, percent))
        if progress.bytes_done != self._done:  # a child that hangs makes no progress
            self._done = progress.bytes_done
            self._heartbeat.moved(Phase.PREPARING, percent)
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _REPORT_SECONDS
        left, rate = progress.bytes_total - progress.bytes_done, progress.bytes_per_second
        event = {
            "kind": "progress",
            "attempt": self._job.attempt,
            "phase": Phase.PREPARING,
            "percent": percent,
            "bytes_done": progress.bytes_done,
            "bytes_total": progress.bytes_total,
            "bytes_per_second": round(rate),
            "eta_seconds": round(left / rate, 1) if rate > 0 else None,
        }
        if self._progress.report(self._job.id, event):
            self._heartbeat.cancel()


def forms_for(settings: Settings, database: Database) -> tuple[Form, ...]:
    """Return the forms that a download to this node is prepared in."""
    chosen = settings.prepare_downloads
    if chosen == "auto":
        here = (seen.device for seen in nodes.devices(database) if seen.device.node == settings.node)
        return ("bf16",) if any(device.kind == "cuda" for device in here) else ()
    return tuple(form for form in prepared.FORMS if form in chosen.split(","))


def _states(snapshot: Path, copy: Copy, verified: dict[str, Any]) -> list[FileState]:
    found = []
    for file in (*copy.files, copy.manifest):
        status = (snapshot / file.path).stat()
        at = verified.get(file.path) or clock.now()
        found.append(FileState(file.path, file.size, file.sha256, status.st_mtime, status.st_ino, at))
    return found
