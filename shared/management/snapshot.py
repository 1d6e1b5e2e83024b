"""The figures of the installation at one moment, as the metrics route returns them and each minute stores them."""

from collections.abc import Mapping

from shared.catalogue import scoring
from shared.database.tables import Sample, Snapshot
from shared.insight.health import HealthStatus
from shared.management.library import storage_usage_percent
from shared.management.summary import Whole


def snapshot(whole: Whole) -> Snapshot:
    """Return the figures of the whole installation."""
    overview = whole.overview
    library, models = overview.library, list(overview.models.values())
    free = [node.disk_free_mb for node in library.nodes if node.disk_free_mb is not None]
    waited = [depth.oldest_seconds for depth in whole.depths if depth.oldest_seconds is not None]
    return Snapshot(
        at=library.now,
        total_models=len(models),
        healthy_models=sum(model.health.status == HealthStatus.HEALTHY for model in models),
        active_models=sum(bool(model.view.loaded) or model.view.load.running > 0 for model in models),
        total_generations_24h=sum(period.uses for period in overview.day.values()),
        average_quality_score=scoring.mean_score(model.performance.quality_score for model in models),
        average_performance_score=scoring.mean_score(model.performance.performance_score for model in models),
        system_load_percent=_load_percent(overview.utilizations),
        memory_usage_percent=_memory_percent(overview.samples),
        alerts_count=len(whole.alerts),
        recommendations_count=len(overview.recommendations),
        queued_jobs=sum(depth.queued for depth in whole.depths) + whole.held,
        running_jobs=sum(depth.running for depth in whole.depths),
        oldest_queued_seconds=round(max(0.0, *waited), 3) if waited else None,
        succeeded_1h=whole.hour.successes,
        failed_1h=whole.hour.failures,
        average_generation_seconds=whole.hour.average_seconds,
        disk_used_percent=storage_usage_percent(library),
        disk_free_gb=round(sum(free) / 1e3, 3) if free else None,
    )


def _load_percent(utilizations: Mapping[str, float]) -> float | None:
    """Return the mean of the devices' utilisation over the last minute."""
    return round(sum(utilizations.values()) / len(utilizations), 1) if utilizations else None


def _memory_percent(now: Mapping[str, Sample]) -> float | None:
    """Return used over total memory of all devices. CPU devices of one node share its memory, which counts once."""
    used, totals = 0.0, {}
    for key, one in now.items():
        if one.memory_used_mb is not None and one.memory_total_mb:
            used += one.memory_used_mb
            totals[key if one.kind == "cuda" else key.rpartition("/")[0]] = one.memory_total_mb
    return round(min(100.0, 100 * used / sum(totals.values())), 1) if totals else None
