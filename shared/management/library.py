"""The model library at one moment: every model with its replicas, downloads, uses and load, read from rows.

Status, health, fallback, the information routes and the alerts use it. It neither reads disks nor asks nodes.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol

from shared import clock
from shared.catalogue import scoring
from shared.catalogue.models import Catalogue, CatalogueEntry
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Device, Job, ModelVersion, Node, Replica
from shared.insight.health import Fault, ModelFacts, ReplicaFacts
from shared.jobs import download_control
from shared.jobs.reading import queues
from shared.jobs.reading.queues import Load
from shared.jobs.usage import by_day, latest_uses
from shared.jobs.usage.by_day import Totals
from shared.jobs.usage.latest_uses import Latest
from shared.models import availability, replicas, versions
from shared.settings import Settings
from shared.states import JOB_ENDS, REPLICA_READY, JobState, ReplicaState

FREQUENCY_DAYS = 30
_KEEP_SECONDS = 2.0


class LiveProgress(Protocol):
    """The current progress of a download."""

    @property
    def percent(self) -> float: ...
    @property
    def bytes_done(self) -> int | None: ...
    @property
    def bytes_total(self) -> int | None: ...
    @property
    def bytes_per_second(self) -> float | None: ...
    @property
    def phase(self) -> str | None: ...


ProgressOf = Callable[[Sequence[Job]], Mapping[str, LiveProgress]]
"""Returns the progress of each of the jobs, by id."""


@dataclass(frozen=True)
class StoredProgress:
    """The progress of a download by its row alone."""

    percent: float
    bytes_done: int | None
    bytes_total: int | None
    phase: str | None
    bytes_per_second: float | None = None


def stored_progress(jobs: Sequence[Job]) -> dict[str, StoredProgress]:
    """Return the progress in the jobs' rows, by id."""
    return {job.id: StoredProgress(job.percent, job.bytes_done, job.bytes_total, job.phase) for job in jobs}


@dataclass(frozen=True)
class ReplicaView:
    """One model on one node."""

    node: str
    online: bool
    row: Replica | None  # None: not scanned yet
    download: Job | None  # the newest of this model to this node
    progress: LiveProgress | None  # of that download
    availability: ReplicaState
    base: "ReplicaView | None" = None  # of a preset: the model whose files it needs too

    @property
    def fetching(self) -> bool:
        return self.download is not None and self.download.status not in JOB_ENDS

    @property
    def faults(self) -> list[dict[str, str]]:
        return self.row.faults if self.row is not None else []


@dataclass(frozen=True)
class ModelView:
    """One entry of the catalogue, with its state in this installation."""

    entry: CatalogueEntry
    replicas: tuple[ReplicaView, ...]  # by node
    loaded: tuple[str, ...]  # keys of live devices that have it loaded
    version: ModelVersion | None
    pinned: bool
    latest: Latest
    month: Totals  # over `FREQUENCY_DAYS`
    load: Load

    @property
    def availability(self) -> ReplicaState:
        return availability.best(replica.availability for replica in self.replicas)

    @property
    def best(self) -> ReplicaView | None:
        """The replica that determines the model's availability."""
        return min(self.replicas, key=lambda one: availability.BEST_FIRST.index(one.availability), default=None)


@dataclass(frozen=True)
class Library:
    now: datetime
    models: Mapping[str, ModelView]  # in the catalogue's order
    nodes: tuple[Node, ...]  # live ones
    devices: tuple[Device, ...]  # live ones
    rates: Mapping[str, float]  # measured download rates in bytes a second, by node
    newest_use: int = 0  # the number of the newest counted row of uses


class UseFigures:
    """Figures from the uses of each model. They are counted again after a use has ended, or after two seconds.

    The time limit is needed because days pass, and PostgreSQL may commit rows in another order than their numbers.
    """

    def __init__(self, catalogue: Catalogue, database: Database) -> None:
        self._catalogue = catalogue
        self._database = database
        self._known: tuple[int, float, dict[str, Latest], dict[str, Totals]] = (-1, 0.0, {}, {})

    @property
    def newest(self) -> int:
        """The number of the newest row that was counted."""
        return max(0, self._known[0])

    def count(self, now: datetime) -> tuple[dict[str, Latest], dict[str, Totals]]:
        """Return (latest uses, totals over `FREQUENCY_DAYS`), each by model. Raises DatabaseUnavailable."""
        newest, moment = latest_uses.newest(self._database), time.monotonic()
        if newest != self._known[0] or moment - self._known[1] > _KEEP_SECONDS:
            month = by_day.totals(by_day.days(self._database, first_day(now, FREQUENCY_DAYS)))
            self._known = (newest, moment, latest_uses.latest(self._database, self._catalogue.model_ids), month)
        return self._known[2], self._known[3]


def read(
    settings: Settings, catalogue: Catalogue, database: Database, progress_of: ProgressOf, figures: UseFigures
) -> Library:
    """Return the library. Raises DatabaseUnavailable."""
    now = clock.now()
    silence = settings.device_silence_seconds
    known = nodes.nodes(database)
    online = {node.name: node for node, silent in known if nodes.is_heard(silent, silence)}
    rows = {(row.node, row.model_id): row for row in replicas.rows(database)}
    newest = download_control.latest(database)
    progress = progress_of(list(newest.values()))
    names = sorted({node.name for node, _ in known} | {node for node, _ in rows})
    devices = tuple(seen.device for seen in nodes.devices(database) if seen.alive(silence))
    latest, month = figures.count(now)
    pinned = replicas.pins(database)
    newest_versions = versions.latest(database)
    load = queues.generations(database)

    def replica(node: str, entry: CatalogueEntry) -> ReplicaView:
        row, download = rows.get((node, entry.model_id)), newest.get((node, entry.model_id))
        state = availability.of_replica(
            ReplicaState(row.state) if row is not None else None,
            JobState(download.status) if download is not None else None,
            online=node in online,
        )
        moving = progress[download.id] if download is not None else None
        base = replica(node, catalogue.get(entry.requires)) if entry.requires is not None else None
        if base is not None:
            state = availability.with_base(state, base.availability)
        return ReplicaView(node, node in online, row, download, moving, state, base)

    def loaded(entry: CatalogueEntry) -> tuple[str, ...]:
        """Return the devices that have its weights; for a preset those of nodes that can serve it."""
        found = [device for device in devices if _has_loaded(device, entry.weights_id)]
        return tuple(
            device.key
            for device in found
            if entry.requires is None or replica(device.node, entry).availability in REPLICA_READY
        )

    return Library(
        now=now,
        models={
            entry.model_id: ModelView(
                entry=entry,
                replicas=tuple(replica(node, entry) for node in names),
                loaded=loaded(entry),
                version=newest_versions.get(entry.model_id),
                pinned=entry.model_id in pinned,
                latest=latest.get(entry.model_id, Latest()),
                month=month.get(entry.model_id, Totals()),
                load=load.get(entry.model_id, Load()),
            )
            for entry in catalogue.entries
        },
        nodes=tuple(online.values()),
        devices=devices,
        rates=_rates(newest.values(), progress),
        newest_use=figures.newest,
    )


def first_day(now: datetime, days: int) -> date:
    """Return the first of the last `days` days in UTC, including today."""
    return (now - timedelta(days=days - 1)).date()


def holders(model: ModelView) -> set[str]:
    """Return the live nodes that can serve the model now."""
    return {replica.node for replica in model.replicas if replica.availability in REPLICA_READY}


def bytes_left(entry: CatalogueEntry, replica: ReplicaView | None) -> int:
    """Return the bytes that remain to be downloaded, by the catalogue's size if nothing better is known.

    For a preset this includes those of its base.
    """
    if replica is not None and replica.availability in REPLICA_READY and not replica.fetching:
        return 0
    progress = replica.progress if replica is not None and replica.fetching else None
    if progress is not None and progress.bytes_total is not None:
        return max(0, progress.bytes_total - (progress.bytes_done or 0))
    base = replica.base if replica is not None else None
    of_the_base = _missing_bytes(entry.download_gb, base) if entry.requires is not None else 0
    return of_the_base + _missing_bytes(entry.own_gb, replica)


def _missing_bytes(gigabytes: float, replica: ReplicaView | None) -> int:
    row = replica.row if replica is not None else None
    present = (row.verified_bytes if row.faults else row.bytes) if row is not None else 0
    expected = row.expected_bytes if row is not None and row.expected_bytes else round(gigabytes * 1e9)
    return 0 if row is not None and row.state in REPLICA_READY else max(0, expected - present)


def update_available(model: ModelView) -> bool:
    """Return whether the hub has another commit than the model's best replica."""
    best = model.best
    current = best.row.revision if best is not None and best.row is not None else None
    newest = model.version.latest if model.version is not None else None
    return current is not None and newest is not None and current != newest


def integrity_of(row: Replica | None) -> float | None:
    """Return the integrity score; None if no checksum was ever verified."""
    if row is None or row.verified_at is None:
        return None
    return scoring.integrity_score(row.verified_bytes, row.expected_bytes)


def last_check(row: Replica | None) -> datetime | None:
    """Return when the files were last scanned or verified."""
    if row is None:
        return None
    return max(row.checked_at, row.verified_at or row.checked_at)


def storage_usage_percent(library: Library) -> float | None:
    """Return the used share of all live nodes' model storage, for nodes that report its size."""
    known = [(node.disk_total_mb, node.disk_free_mb) for node in library.nodes]
    sizes = [(total, free) for total, free in known if total and free is not None]
    total = sum(size for size, _ in sizes)
    return round(100 * (total - sum(free for _, free in sizes)) / total, 1) if total else None


def facts_of(model: ModelView) -> ModelFacts:
    """Return the facts for `shared.insight.health`."""
    rate = model.latest.success_rate
    return ModelFacts(
        model_id=model.entry.model_id,
        replicas=tuple(_replica_facts(model, one) for one in model.replicas),
        uses=model.latest.uses,
        success_rate=rate,
        update_available=update_available(model),
        queued=model.load.queued,
    )


def _replica_facts(model: ModelView, one: ReplicaView) -> ReplicaFacts:
    row, error = one.row, one.download.error if one.download is not None else None
    return ReplicaFacts(
        node=one.node,
        availability=one.availability,
        faults=tuple(Fault(fault["path"], fault["type"]) for fault in one.faults),
        missing_files=tuple(row.missing_files) if row is not None else (),
        refetchable=row is not None and row.revision is not None and row.repo == model.entry.own_repo,
        verified_at=row.verified_at if row is not None else None,
        removed_source_bytes=row.removed_source_bytes if row is not None else 0,
        download_error=str(error["message"]) if error else None,
    )


def _has_loaded(device: Device, model_id: str) -> bool:
    return any(entry.get("model_id") == model_id for entry in device.warm)


def _rates(newest: Iterable[Job], progress: Mapping[str, LiveProgress]) -> dict[str, float]:
    """Return the download rate by node: of the running download, else of the last one that received data."""
    rates: dict[str, float] = {}
    for job in sorted(newest, key=lambda job: (job.status == JobState.RUNNING, job.id)):
        rate = progress[job.id].bytes_per_second if job.status == JobState.RUNNING else _past_rate(job)
        if rate:
            rates[job.target_node or ""] = rate
    return rates


def _past_rate(job: Job) -> float | None:
    result = job.result or {}
    fetched, seconds = result.get("bytes_fetched"), result.get("seconds")
    return fetched / seconds if fetched and seconds else None
