"""Gathers the facts for the alert rules from rows and from Redis. It does not judge them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from scheduler.alerts.fact_types import (
    DeviceFact,
    Facts,
    FailedDownload,
    LateFact,
    LoopFact,
    ModelFact,
    NodeFact,
    ProcessFact,
    ReplicaFact,
    RunningFact,
)
from scheduler.alerts.rules import silence_limit
from shared.catalogue.job_types import DOWNLOAD
from shared.catalogue.models import Catalogue
from shared.cluster import nodes
from shared.cluster.nodes import SeenDevice
from shared.database.engine import Database
from shared.database.tables import Device, Job, Node, Process, Sample, Snapshot
from shared.forecast.forecasts import Forecasts
from shared.insight import samples, snapshots
from shared.jobs import download_control
from shared.jobs.lines import holding
from shared.jobs.reading import queues
from shared.jobs.usage import latest_uses
from shared.management.library import Library
from shared.messaging import flower, ticks
from shared.messaging.progress import Progress, RestingRedis, answers
from shared.settings import Settings
from shared.states import REPLICA_READY, JobState, Phase
from shared.telemetry import loop_reports
from shared.telemetry.loop_reports import SeenLoop

ALERTS = "alerts"  # the alerts' own schedule, which does not show whether beat runs
REDIS_LOST = "redis_lost_at"  # when the dispatcher found Redis empty: seconds since 1970
_DOWNLOAD_FAILED_DAYS = 7
_RATE_HOURS = 6  # over which the growth of the used disk space is measured
_LEAST_RATE_HOURS = 0.5


@dataclass(frozen=True)
class Ground:
    """What facts are gathered from."""

    settings: Settings
    catalogue: Catalogue
    database: Database
    redis: RestingRedis
    library: Callable[[], Library]
    forecasts: Forecasts
    began: datetime  # start of this process, which cannot have missed earlier ticks


def gather(ground: Ground, now: datetime) -> Facts:
    """Return the current facts. Raises DatabaseUnavailable."""
    database, settings = ground.database, ground.settings
    library = ground.library()
    running = queues.running(database)
    redis_up = answers(settings.redis)
    loops = loop_reports.seen(database)
    processes = nodes.processes(database)
    devices, known = nodes.devices(database), nodes.nodes(database)
    hour = [use.succeeded for use in latest_uses.ended(database, now - timedelta(hours=1))]
    waiting = queues.waiting(database)
    lost = nodes.noted(database, REDIS_LOST)
    recent = samples.latest(database, now - timedelta(seconds=settings.reading_seconds))
    last_tick = ticks.last(database, besides=ALERTS)
    return Facts(
        models=tuple(_model(library, model_id) for model_id in library.models),
        devices=tuple(
            _device(seen.device, seen.silent_seconds, seen.deregistered, recent.get(seen.device.key))
            for seen in devices
        ),
        nodes=tuple(
            NodeFact(
                name=node.name,
                silent_seconds=silent,
                stopped=node.seen_at == 0.0,
                disk_used_percent=_used_percent(node.disk_total_mb, node.disk_free_mb),
                disk_free_gb=None if node.disk_free_mb is None else node.disk_free_mb / 1000,
            )
            for node, silent in known
        ),
        loops=living_loops(loops, _living_processes(settings, devices, known)),
        flower_answers=_flower_answers(settings, processes),
        processes=tuple(ProcessFact(one.node, one.name, one.state, one.restarts) for one in processes),
        running=_running(ground, running),
        late=_late(ground),
        failed_downloads=_failed_downloads(database, library, now),
        queued=waiting.queued,
        oldest_queued_seconds=waiting.oldest_seconds,
        succeeded_1h=hour.count(True),
        failed_1h=hour.count(False),
        disk_full_in_hours=hours_to_full(
            snapshots.history(database, now - timedelta(hours=_RATE_HOURS), now, points=_RATE_HOURS * 12)
        ),
        redis_away=settings.redis is not None and redis_up is False,
        redis_lost_seconds=None if lost is None else now.timestamp() - float(lost),
        dispatcher_silent=_dispatcher_silent(loops, redis_up if settings.redis is not None else None),
        beat_silent_seconds=(now - max(last_tick or ground.began, ground.began)).total_seconds(),
    )


def _dispatcher_silent(loops: Sequence[SeenLoop], redis_up: bool | None) -> bool | None:
    """Return whether no dispatcher reports; None if Redis is unavailable, because then none can lead."""
    if loop_reports.dispatcher_heard(loops):
        return False
    return None if redis_up is False else True


def _flower_answers(settings: Settings, processes: Sequence[Process]) -> bool | None:
    """Return whether Flower responds; None if this process does not know Flower's address."""
    here = any(one.name == "flower" and one.node == settings.node and one.state == "running" for one in processes)
    return flower.answers(settings) if here or settings.flower_url is not None else None


def living_loops(loops: Sequence[SeenLoop], living: Collection[str]) -> tuple[LoopFact, ...]:
    """Return the loops of live processes: those in `living`, and those of which another loop has reported recently.

    Dead processes have their own alerts.
    """
    fresh = {loop.process for loop in loops if loop.silent_seconds <= silence_limit(loop.every_seconds)}
    return tuple(
        LoopFact(loop.process, loop.loop, loop.node, loop.every_seconds, loop.silent_seconds)
        for loop in loops
        if loop.process in fresh or loop.process in living
    )


def _living_processes(
    settings: Settings, devices: Sequence[SeenDevice], known: Sequence[tuple[Node, float]]
) -> frozenset[str]:
    silence = settings.device_silence_seconds
    workers = (seen.device.worker for seen in devices if seen.alive(silence))
    io_workers = (f"io@{node.name}" for node, silent in known if nodes.is_heard(silent, silence))
    return frozenset((*workers, *io_workers))


def hours_to_full(points: Sequence[Snapshot]) -> float | None:
    """Return the hours until the disks are full, by the least-squares slope of these points.

    Return None if they are not filling up, or the points span less than half an hour.
    """
    known = [(one.at.timestamp() / 3600, one.disk_free_gb) for one in points if one.disk_free_gb is not None]
    if not known or known[-1][0] - known[0][0] < _LEAST_RATE_HOURS:
        return None
    mean_x = sum(x for x, _ in known) / len(known)
    mean_y = sum(y for _, y in known) / len(known)
    spread = sum((x - mean_x) ** 2 for x, _ in known)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in known) / spread  # GB an hour
    return known[-1][1] / -slope if slope < 0 else None


def _model(library: Library, model_id: str) -> ModelFact:
    model = library.models[model_id]
    return ModelFact(
        model_id=model_id,
        weights_id=model.entry.weights_id if model.entry.weights_id != model_id else None,
        replicas=tuple(
            ReplicaFact(one.node, one.availability, tuple(fault["path"] for fault in one.faults))
            for one in model.replicas
        ),
        waiting=model.load.queued,
        downloading=any(one.fetching for one in model.replicas),
        relative_seconds=model.latest.relative_seconds,
    )


def _device(device: Device, silent: float, stopped: bool, sample: Sample | None) -> DeviceFact:
    used, total = (sample.memory_used_mb, sample.memory_total_mb) if sample is not None else (None, None)
    return DeviceFact(
        key=device.key,
        name=device.name,
        silent_seconds=silent,
        stopped=stopped,
        temperature_celsius=sample.temperature_celsius if sample is not None else None,
        memory_percent=100 * used / total if used is not None and total else None,
        quarantine_reason=device.quarantine_reason if device.quarantined_at is not None else None,
        ecc_uncorrected=sample.ecc_uncorrected if sample is not None else None,
        throttle_reasons=tuple(filter(None, (sample.throttle_reasons or "").split(","))) if sample is not None else (),
    )


def _used_percent(total: float | None, free: float | None) -> float | None:
    return 100 * (total - free) / total if total and free is not None else None


def _running(ground: Ground, jobs: Sequence[Job]) -> tuple[RunningFact, ...]:
    progress = Progress(ground.redis)
    silence = progress.silence([job.id for job in jobs]) if jobs else {}
    events = progress.latest([job.id for job in jobs if job.type == DOWNLOAD])
    return tuple(
        RunningFact(
            job_id=job.id,
            type=job.type,
            model_id=job.model_id,
            node=job.node,
            idle_seconds=silence.get(job.id) if silence is not None else None,
            no_bytes=_no_bytes(events.get(job.id)),
        )
        for job in jobs
    )


def _late(ground: Ground) -> tuple[LateFact, ...]:
    """Return the waiting jobs with a latest start that are expected to miss it. Most passes find no such job."""
    due = holding.with_latest_start(ground.database)
    if not due:
        return ()
    expected = ground.forecasts.of([job_id for job_id, _, _ in due], {}, wait=True)
    return tuple(
        LateFact(job_id, model_id, start_before, start)
        for job_id, model_id, start_before in due
        if (start := expected[job_id].start) is not None and start > start_before
    )


def _no_bytes(event: dict[str, object] | None) -> bool:
    if event is None or event.get("phase") not in (Phase.FETCHING, Phase.LISTING):
        return False
    return not event.get("bytes_per_second")


def _failed_downloads(database: Database, library: Library, now: datetime) -> tuple[FailedDownload, ...]:
    served = {
        (one.node, model_id)
        for model_id, model in library.models.items()
        for one in model.replicas
        if one.availability in REPLICA_READY
    }
    since = now - timedelta(days=_DOWNLOAD_FAILED_DAYS)
    return tuple(
        FailedDownload(job.id, model_id, node, str((job.error or {}).get("message", "")))
        for (node, model_id), job in download_control.latest(database).items()
        if job.status == JobState.FAILED
        and (node, model_id) not in served
        and job.finished_at is not None
        and job.finished_at > since
    )
