"""The handler of integrity checks: read the files, take a broken model out of service at once, repair it.

The result of each file is written at once, so a later attempt does not read that file again.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared import clock
from shared.catalogue.job_types import IntegrityCheckParams
from shared.catalogue.models import Catalogue, CatalogueEntry
from shared.database.engine import Database
from shared.database.tables import Job, ReplicaFile
from shared.errors import CannotPrepare, CannotRepair, ModelUnavailable
from shared.messaging import celery
from shared.messaging.progress import Progress, RestingRedis
from shared.models import prepared, replica_files, replicas
from shared.models.prepared import Form
from shared.models.replica_files import FileState
from shared.models.verification import Expected, Fault, Verdict, fault_of, judge
from shared.settings import Settings
from shared.states import Phase
from workers.attempts.heartbeat import Heartbeat
from workers.models import checksums, presence, repair
from workers.models.check_progress import CheckProgress
from workers.models.checksums import Known, Read
from workers.models.fetch.layout import RepoCache
from workers.models.preparing.phase import Preparing
from workers.models.preparing.repairing import drop_copies, needs_of

log = logging.getLogger("wanworks.integrity")

_RECORD_SECONDS = 1.0


@dataclass
class _Subject:
    """One model's snapshot that is being checked."""

    entry: CatalogueEntry
    snapshot: Path
    expected: dict[str, Expected]
    rows: Mapping[str, ReplicaFile]
    reads: dict[str, Read] = field(default_factory=dict)

    @property
    def model_id(self) -> str:
        return self.entry.model_id

    @property
    def revision(self) -> str:
        return self.snapshot.name

    def verdict(self) -> Verdict:
        found = {path: read.found for path, read in self.reads.items() if read.found is not None}
        return judge(list(self.expected.values()), found)

    def bytes_on_disk(self) -> int:
        places = (self.snapshot / path for path in self.expected)
        return sum(place.stat().st_size for place in places if place.is_file())


class IntegrityHandler:
    """Runs the integrity checks of one node."""

    at_most: int | None = 1

    def __init__(self, settings: Settings, database: Database, catalogue: Catalogue, redis: RestingRedis) -> None:
        self._settings = settings
        self._database = database
        self._catalogue = catalogue
        self._redis = redis
        self._progress = Progress(redis)

    def run(self, job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
        """Run the check. Raises ModelUnavailable if the model is not here; CannotRepair after recording everything."""
        params = IntegrityCheckParams.model_validate(job.params)
        began = time.monotonic()
        presence.scan(self._settings, self._database, self._catalogue, self._redis)
        subjects = self._subjects(params)
        report = CheckProgress(job, heartbeat, self._progress, sum(subject.bytes_on_disk() for subject in subjects))
        models: dict[str, Any] = {}
        failures: list[CannotRepair] = []
        for subject in subjects:
            self._verify(subject, job, params.full, heartbeat, report)
            found = verdict = subject.verdict()
            self._record(subject, verdict, params.full)
            if found.faults and params.repair:
                try:
                    self._repair(subject, found.faults, job, heartbeat, report)
                    verdict = subject.verdict()
                    self._record(subject, verdict, params.full)
                    if verdict.faults:
                        raise CannotRepair(f"{subject.model_id} is still wrong after its files were fetched again")
                except CannotRepair as error:
                    failures.append(error)
            models[subject.model_id] = _result(verdict, found)
        if failures:
            raise failures[0]
        return {"models": models, "seconds": round(time.monotonic() - began, 3)}

    def undo(self, job: Job) -> None:
        """Do nothing: results are recorded, and the next attempt continues from there."""

    def after(self, job: Job) -> None:
        """Do nothing: results were recorded at once."""

    def _subjects(self, params: IntegrityCheckParams) -> list[_Subject]:
        ids = self._catalogue.model_ids
        if params.model_id is not None:  # a preset needs its base's files too
            ids = tuple(filter(None, (self._catalogue.get(params.model_id).requires, params.model_id)))
        subjects = []
        for entry in map(self._catalogue.get, ids):
            snapshot = replicas.own_dir(self._settings.models_dir, entry)
            if snapshot is None:
                continue
            rows = replica_files.files(self._database, self._settings.node, entry.model_id, snapshot.name)
            recorded = {path: _expected(row) for path, row in rows.items()}
            alone = entry.lora.paths if entry.lora is not None else None
            expected = {file.path: file for file in checksums.expected_files(snapshot, recorded, alone)}
            subjects.append(_Subject(entry, snapshot, expected, rows))
        if params.model_id is not None and len(subjects) < len(ids):
            raise ModelUnavailable(f"{params.model_id} is not on node {self._settings.node}")
        return subjects

    def _verify(self, subject: _Subject, job: Job, full: bool, heartbeat: Heartbeat, report: CheckProgress) -> None:
        """Read the files that must be read. A fault takes the model out of service before any other file is read."""
        trusted = {path: _trusted(row, job, full) for path, row in subject.rows.items()}
        known = {path: file for path, file in trusted.items() if file is not None}
        unwritten: list[FileState] = []
        written_at = time.monotonic()

        def came(read: Read) -> None:
            subject.reads[read.path] = read
            fault = fault_of(subject.expected[read.path], read.found)
            if fault is not None:
                self._take_out(subject, Fault(read.path, fault))
            elif read.found is not None and read.found.trusted:
                report.skip(read.found.size)
                return
            state = _state(subject, read)
            if state is not None:
                unwritten.append(state)

        try:
            for size in checksums.read_files(
                subject.snapshot, list(subject.expected.values()), known, check=heartbeat.check, came=came
            ):
                report.verified(size)
                if time.monotonic() - written_at >= _RECORD_SECONDS:
                    self._note(subject, unwritten)
                    written_at = time.monotonic()
        finally:
            self._note(subject, unwritten)
        report.close()

    def _note(self, subject: _Subject, states: list[FileState]) -> None:
        node, model_id = self._settings.node, subject.model_id
        replica_files.record_files(self._database, node, model_id, subject.revision, states)
        states.clear()

    def _take_out(self, subject: _Subject, fault: Fault) -> None:
        log.error("%s: %s is broken: %s", subject.model_id, fault.path, fault.type)
        node, model_id = self._settings.node, subject.model_id
        if replica_files.take_out(self._database, node, model_id, subject.revision, [fault]):
            celery.wake(self._redis)  # jobs that wait for the model are updated

    def _record(self, subject: _Subject, verdict: Verdict, full: bool) -> None:
        reads = subject.reads.values()
        states = [state for read in reads if (state := _state(subject, read)) is not None]
        every_byte = full or not any(read.found is not None and read.found.trusted for read in reads)
        changed = replica_files.record_verification(
            self._database,
            self._settings.node,
            subject.model_id,
            subject.revision,
            verdict,
            states,
            full=every_byte,
            at=clock.now(),
        )
        if changed:
            celery.wake(self._redis)

    def _repair(
        self, subject: _Subject, faults: Sequence[Fault], job: Job, heartbeat: Heartbeat, report: CheckProgress
    ) -> None:
        """Fetch the broken published files again, prepare broken copies again, and verify both. Raises CannotRepair."""

        def check() -> None:
            heartbeat.moved(Phase.FETCHING, heartbeat.percent)
            heartbeat.check()

        def came(read: Read) -> None:
            subject.reads[read.path] = read

        need = needs_of(subject.snapshot, [fault.path for fault in faults])
        again: list[Expected] = []
        if need.published:
            if need.removed:
                log.warning("%s: downloading removed weights again: %s", subject.model_id, ", ".join(need.removed))
            again += repair.fetch_again(
                self._settings, subject.entry, subject.revision, need.published, report=report.fetched, check=check
            )
        for path in need.copies:
            subject.expected.pop(path, None)
            subject.reads.pop(path, None)
        if need.forms:
            drop_copies(RepoCache(self._settings.models_dir, subject.entry.own_repo), subject.snapshot, need.copies)
            again += self._prepare_again(subject, need.forms, job, heartbeat)
            gone = [path for path in need.published if not (subject.snapshot / path).exists()]
            for path in gone:  # removed once more, because the copies stand in for them
                subject.expected.pop(path, None)
                subject.reads.pop(path, None)
            again = [file for file in again if file.path not in gone]
        subject.expected.update({file.path: file for file in again})
        for _ in checksums.read_files(subject.snapshot, again, {}, check=heartbeat.check, came=came):
            heartbeat.moved(Phase.VERIFYING, heartbeat.percent)

    def _prepare_again(
        self, subject: _Subject, forms: Sequence[Form], job: Job, heartbeat: Heartbeat
    ) -> list[Expected]:
        try:
            preparing = Preparing(self._settings, self._database, self._progress, job, heartbeat)
            preparing.run(subject.entry, subject.snapshot, forms)
        except CannotPrepare as error:
            raise CannotRepair(f"{subject.model_id} could not be prepared again: {error.message}") from error
        files = (file for copy in prepared.copies(subject.snapshot) for file in (*copy.files, copy.manifest))
        return [Expected(file.path, file.size, file.sha256) for file in files]


def _expected(row: ReplicaFile) -> Expected:
    """Return the expected file. A broken file of unknown size was recorded with size 0."""
    return Expected(row.path, None if row.fault is not None and row.size == 0 else row.size, row.oid)


def _trusted(row: ReplicaFile, job: Job, full: bool) -> Known | None:
    """Return the state in which a file need not be read again. A full check accepts only its own earlier attempts."""
    if row.fault is not None or row.verified_at is None or row.mtime is None or row.inode is None:
        return None
    if full and row.verified_at < job.created_at:
        return None
    return Known(row.size, row.oid, row.mtime, row.inode)


def _state(subject: _Subject, read: Read) -> FileState | None:
    """Return the file's state to record; None if its expected state is unknown."""
    expected, found = subject.expected[read.path], read.found
    fault = fault_of(expected, found)
    oid = expected.oid or (found.oid if found is not None else None)
    if oid is None:
        return None
    size = found.size if fault is None and found is not None else expected.size or 0
    verified_at = None
    if fault is None and found is not None:
        verified_at = subject.rows[read.path].verified_at if found.trusted else clock.now()
    return FileState(read.path, size, oid, read.mtime, read.inode, verified_at, fault)


def _result(verdict: Verdict, found: Verdict) -> dict[str, Any]:
    """Return the result. `faults` are those found; the figures describe the state after the repair."""
    left = {fault.path for fault in verdict.faults}
    return {
        "integrity_score": verdict.integrity_score,
        "verified_bytes": verdict.verified_bytes,
        "expected_bytes": verdict.expected_bytes,
        "faults": [fault.as_dict() for fault in found.faults],
        "repaired": [fault.path for fault in found.faults if fault.path not in left],
    }
