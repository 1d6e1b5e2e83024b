"""The summary of one model: its files, health, scores, performance and the current readings of its devices."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from shared.catalogue import scoring
from shared.database.tables import Sample
from shared.insight import assessment
from shared.insight import health as model_health
from shared.insight.assessment import Performance, Status
from shared.insight.health import Health, ModelFacts
from shared.management.library import Library, ModelView, facts_of, integrity_of
from shared.management.monthly_figures import Figures
from shared.management.recent_uses import Period
from shared.states import REPLICA_READY, ReplicaState


@dataclass(frozen=True)
class Readings:
    """Current readings of some devices. None: no device reports the figure."""

    devices: tuple[str, ...] = ()  # their keys
    kinds: tuple[str, ...] = ()  # cuda, cpu
    memory_used_mb: float | None = None  # summed
    load_percent: float | None = None  # the mean
    temperature_celsius: float | None = None  # the highest


@dataclass(frozen=True)
class ModelOverview:
    """One model with everything that is currently known about it."""

    view: ModelView
    facts: ModelFacts
    health: Health
    status: Status
    integrity_score: float | None
    availability_score: float | None
    day: Period  # of the last 24 hours
    readings: Readings  # of the live devices that have it loaded or run it
    performance: Performance
    now: datetime

    @property
    def health_score(self) -> float | None:
        return scoring.health_score(self.availability_score, self.integrity_score, self.facts.success_rate)

    @property
    def available(self) -> bool:
        return self.view.availability in REPLICA_READY


def summarise(
    view: ModelView, day: Period, now: Mapping[str, Sample], library: Library, month: Figures
) -> ModelOverview:
    """Return the summary of one model.

    `day`: its uses of the last 24 hours. `now`: the newest sample of each live device, by device key.
    """
    model_id = view.entry.model_id
    facts = facts_of(view)
    health = model_health.health(facts)
    here = {key: sample for key, sample in now.items() if key in view.loaded or sample.model_id == model_id}
    return ModelOverview(
        view=view,
        facts=facts,
        health=health,
        status=assessment.status(health.status, facts.success_rate),
        integrity_score=integrity_of(view.best.row if view.best is not None else None),
        availability_score=_availability(view),
        day=day,
        readings=readings_of(here),
        performance=_performance(view, month),
        now=library.now,
    )


def _availability(view: ModelView) -> float | None:
    gone = (ReplicaState.MISSING, ReplicaState.UNKNOWN, ReplicaState.REMOVING)
    held = [one for one in view.replicas if one.fetching or (one.row is not None and one.row.state not in gone)]
    serving = sum(one.availability in REPLICA_READY for one in held)
    return scoring.availability_score(serving, len(held), any(one.row is not None for one in view.replicas))


def _performance(view: ModelView, month: Figures) -> Performance:
    model_id, total, latest = view.entry.model_id, view.month, view.latest
    made, averages = month.successes.get(model_id), month.averages.get(model_id)
    qualities = made.qualities if made is not None else ()
    average, p95 = total.average_seconds, month.p95.get(model_id)
    return Performance(
        model_id=model_id,
        newest=made.newest if made is not None else None,
        successes=total.successes,
        uses=total.uses,
        average_seconds=None if average is None else round(average, 3),
        p95_seconds=None if p95 is None else round(p95, 3),
        videos_per_hour=scoring.videos_per_hour(total.successes, total.busy_seconds),
        work_per_second=scoring.work_per_second(latest.seconds_per_work),
        performance_score=scoring.performance_score(latest.successes, latest.uses, latest.relative_seconds),
        quality_score=scoring.mean_score(qualities),
        qualities=len(qualities),
        stability_score=scoring.stability_score(latest.successes, latest.uses, latest.relative_seconds),
        samples=averages.samples if averages is not None else 0,
        load_percent=assessment.load_percent(averages.utilization_percent) if averages is not None else None,
        memory_used_mb=averages.memory_used_mb if averages is not None else None,
        memory_peak_mb=averages.memory_peak_mb if averages is not None else None,
        memory_total_mb=averages.memory_total_mb if averages is not None else None,
        power_watts=averages.power_watts if averages is not None else None,
        devices=made.devices if made is not None else (),
        profiles=made.profiles if made is not None else (),
    )


def readings_of(now: Mapping[str, Sample]) -> Readings:
    """Return the readings of the devices that these samples are from."""
    memory = [one.memory_used_mb for one in now.values() if one.memory_used_mb is not None]
    loads = [load for one in now.values() if (load := assessment.load_percent(one.utilization_percent)) is not None]
    heat = [one.temperature_celsius for one in now.values() if one.temperature_celsius is not None]
    return Readings(
        devices=tuple(sorted(now)),
        kinds=tuple(sorted({one.kind for one in now.values()})),
        memory_used_mb=round(sum(memory), 1) if memory else None,
        load_percent=round(sum(loads) / len(loads), 1) if loads else None,
        temperature_celsius=max(heat, default=None),
    )
