"""What the information routes, the dashboard and the minute's snapshot stand on: one look at everything that is known.

It gathers from the library, the uses, the devices' samples and the alerts; `insight.assessment` judges what that means.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from shared.catalogue import scoring
from shared.cluster import alerts
from shared.database.engine import Database
from shared.database.tables import Alert, Sample, Snapshot
from shared.insight import assessment, samples
from shared.insight import health as model_health
from shared.insight.assessment import Performance, Status
from shared.insight.health import Health, HealthStatus, ModelFacts, Recommendation
from shared.insight.samples import Averages
from shared.jobs import queues, usage
from shared.jobs.queues import Depth
from shared.jobs.usage import Ended, Successes
from shared.management.library import (
    FREQUENCY_DAYS,
    Library,
    ModelView,
    facts_of,
    first_day,
    integrity_of,
    storage_usage_percent,
)
from shared.settings import Settings
from shared.states import REPLICA_READY, ReplicaState

DAY = timedelta(hours=24)
HOUR = timedelta(hours=1)

# A sample says something of now for so long, or until so many more should have come: nodes' clocks may differ.
_FRESH_SECONDS, _FRESH_SAMPLES = 60.0, 4
# What the month says stands until a generation has ended, or for this long; the devices' averages stand for a little
# however many end.
_STAND_SECONDS, _LEAST_STAND_SECONDS = 60.0, 5.0
# PostgreSQL may commit uses in another order than it numbers them: so many of the newest are looked at again.
_AGAIN = 256


@dataclass(frozen=True)
class Period:
    """Uses of some time until now. Seconds are summed over the successes."""

    uses: int = 0
    successes: int = 0
    seconds: float = 0.0  # from start to end
    response_seconds: float = 0.0  # from request to end

    @property
    def failures(self) -> int:
        return self.uses - self.successes

    @property
    def success_rate(self) -> float | None:
        return scoring.success_rate(self.successes, self.uses)

    @property
    def average_seconds(self) -> float | None:
        return round(self.seconds / self.successes, 3) if self.successes else None

    @property
    def average_response_ms(self) -> float | None:
        return round(1000 * self.response_seconds / self.successes, 1) if self.successes else None


@dataclass(frozen=True)
class Readings:
    """What devices say of themselves now. None: none of them says it."""

    devices: tuple[str, ...] = ()  # their keys
    kinds: tuple[str, ...] = ()  # cuda, cpu
    memory_used_mb: float | None = None  # summed
    load_percent: float | None = None  # the mean
    temperature_celsius: float | None = None  # the highest


@dataclass(frozen=True)
class ModelOverview:
    """One model, and all that is known and judged of it now."""

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


@dataclass(frozen=True)
class Overview:
    """Every model of the catalogue."""

    library: Library
    models: Mapping[str, ModelOverview]  # in the catalogue's order
    samples: Mapping[str, Sample]  # the newest of each live device that was sampled lately, by its key
    day: Mapping[str, Period]  # uses of the last 24 hours by model, those that have left the catalogue included
    recommendations: tuple[Recommendation, ...]


@dataclass(frozen=True)
class Whole:
    """The overview, with what is not about models."""

    overview: Overview
    status: Status
    health_score: float | None  # `scoring.overall_health_score` of the models
    hour: Period  # uses of the last hour, of all models
    depths: tuple[Depth, ...]
    alerts: tuple[Alert, ...]  # open ones, most severe first


class Overviews:
    """Takes overviews. Keeps in memory what the uses have said, and reads of them only what is new."""

    def __init__(self, settings: Settings, database: Database, library: Callable[[], Library]) -> None:
        self._settings = settings
        self._database = database
        self._library = library
        self._recent = RecentUses(database)
        self._month = _Month(database)

    def models(self) -> Overview:
        """Raises DatabaseUnavailable."""
        library = self._library()
        day = self._recent.periods(library.now, library.newest_use)
        fresh = max(_FRESH_SECONDS, _FRESH_SAMPLES * self._settings.sample_seconds)
        since = library.now - timedelta(seconds=fresh)
        live = {device.key for device in library.devices}
        now = {key: one for key, one in samples.latest(self._database, since).items() if key in live}
        month = self._month.count(library)
        models = {
            model_id: _model(view, day.get(model_id, Period()), now, library, month)
            for model_id, view in library.models.items()
        }
        facts = [model.facts for model in models.values()]
        used = storage_usage_percent(library)
        found = model_health.recommendations(facts, used, library.now)
        return Overview(library, models, now, day, tuple(found))

    def whole(self) -> Whole:
        """Raises DatabaseUnavailable."""
        overview = self.models()
        opened = tuple(alerts.open_alerts(self._database))
        count = health_counts(overview)
        return Whole(
            overview=overview,
            status=system_status(overview, opened),
            health_score=scoring.overall_health_score(
                count[HealthStatus.HEALTHY], count[HealthStatus.DEGRADED], count[HealthStatus.CORRUPTED]
            ),
            hour=self._recent.since(overview.library.now - HOUR),
            depths=tuple(queues.depths(self._database)),
            alerts=opened,
        )


def health_counts(overview: Overview) -> dict[HealthStatus, int]:
    """How many models are in each state, in the words of `shared.insight.health`."""
    found = [model.health.status for model in overview.models.values()]
    return {status: found.count(status) for status in HealthStatus}


def system_status(overview: Overview, opened: tuple[Alert, ...]) -> Status:
    return assessment.system_status(
        (model.status for model in overview.models.values()),
        devices=len(overview.library.devices),
        critical_alerts=sum(alert.severity == "critical" for alert in opened),
    )


def snapshot(whole: Whole) -> Snapshot:
    """The whole in figures: what the metrics route tells and what is kept of each minute."""
    overview = whole.overview
    library, models = overview.library, list(overview.models.values())
    free = [node.disk_free_mb for node in library.nodes if node.disk_free_mb is not None]
    waited = [depth.oldest_seconds for depth in whole.depths if depth.oldest_seconds is not None]
    readings = _readings(overview.samples)
    return Snapshot(
        at=library.now,
        total_models=len(models),
        healthy_models=sum(model.health.status == HealthStatus.HEALTHY for model in models),
        active_models=sum(bool(model.view.loaded) or model.view.load.running > 0 for model in models),
        total_generations_24h=sum(period.uses for period in overview.day.values()),
        average_quality_score=scoring.mean_score(model.performance.quality_score for model in models),
        average_performance_score=scoring.mean_score(model.performance.performance_score for model in models),
        system_load_percent=readings.load_percent,
        memory_usage_percent=_memory_percent(overview.samples),
        alerts_count=len(whole.alerts),
        recommendations_count=len(overview.recommendations),
        queued_jobs=sum(depth.queued for depth in whole.depths),
        running_jobs=sum(depth.running for depth in whole.depths),
        oldest_queued_seconds=round(max(0.0, *waited), 3) if waited else None,
        succeeded_1h=whole.hour.successes,
        failed_1h=whole.hour.failures,
        average_generation_seconds=whole.hour.average_seconds,
        disk_used_percent=storage_usage_percent(library),
        disk_free_gb=round(sum(free) / 1e3, 3) if free else None,
    )


@dataclass(frozen=True)
class _Figures:
    """What 30 days say of the models."""

    p95: Mapping[str, float | None] = field(default_factory=dict)
    successes: Mapping[str, Successes] = field(default_factory=dict)
    averages: Mapping[str, Averages] = field(default_factory=dict)


class _Month:
    """Counted again once a generation has ended, the day has changed, or what is known has stood for a while."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: tuple[tuple[int, date] | None, float, _Figures] = (None, 0.0, _Figures())
        self._averaged = float("-inf")

    def count(self, library: Library) -> _Figures:
        since, moment = first_day(library.now, FREQUENCY_DAYS), time.monotonic()
        newest = library.newest_use
        key, counted, figures = self._known
        if key != (newest, since) or moment - counted > _STAND_SECONDS:
            figures = self._count(library, since, self._averages(library, figures, key != (newest, since)))
            self._known = ((newest, since), moment, figures)
        return figures

    def _averages(self, library: Library, before: _Figures, changed: bool) -> Mapping[str, Averages]:
        """The devices' averages over a month are dear, and one more job hardly moves them."""
        moment = time.monotonic()
        if moment - self._averaged < (_LEAST_STAND_SECONDS if changed else _STAND_SECONDS):
            return before.averages
        self._averaged = moment
        return samples.averages(self._database, library.now - timedelta(days=FREQUENCY_DAYS))

    def _count(self, library: Library, since: date, averages: Mapping[str, Averages]) -> _Figures:
        used = {model_id: view.month for model_id, view in library.models.items() if view.month.successes}
        return _Figures(
            p95={model_id: usage.p95_seconds(self._database, model_id, since, each) for model_id, each in used.items()},
            successes=usage.successes(self._database, list(used), since),
            averages=averages,
        )


class RecentUses:
    """The uses of the last 24 hours, summed up by model. Each row is read once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._seen = 0  # the newest row that was looked at
        self._uses: deque[Ended] = deque()  # by their end, oldest first
        self._ids: set[int] = set()
        self._sums: dict[str, Period] = {}

    def periods(self, now: datetime, newest: int) -> dict[str, Period]:
        """By model, of those that have any; `newest` is the number of the newest row."""
        since = now - DAY
        with self._lock:
            if newest < self._seen:  # another database has taken the place of the one that was read
                self._uses.clear()
                self._ids.clear()
                self._sums.clear()
                self._seen = 0
            if newest != self._seen:
                self._take(usage.ended(self._database, since, max(0, self._seen - _AGAIN)))
                self._seen = newest
            while self._uses and self._uses[0].finished_at < since:
                self._add(self._uses[0], -1)
                self._ids.discard(self._uses.popleft().id)
            return {model_id: period for model_id, period in self._sums.items() if period.uses}

    def since(self, start: datetime) -> Period:
        """Of all models, of what ended since then and was looked at."""
        with self._lock:
            found = list(itertools.takewhile(lambda use: use.finished_at >= start, reversed(self._uses)))
        good = [use for use in found if use.succeeded]
        seconds = sum(use.seconds or 0.0 for use in good)
        return Period(len(found), len(good), seconds, sum(use.response_seconds for use in good))

    def _take(self, found: list[Ended]) -> None:
        new = [use for use in found if use.id not in self._ids]
        late = bool(new and self._uses and new[0].finished_at < self._uses[-1].finished_at)
        self._uses.extend(new)
        if late:
            self._uses = deque(sorted(self._uses, key=lambda use: use.finished_at))
        for use in new:
            self._ids.add(use.id)
            self._add(use, 1)

    def _add(self, use: Ended, sign: int) -> None:
        self._sums[use.model_id] = _counted(self._sums.get(use.model_id, Period()), use, sign)


def _counted(period: Period, use: Ended, sign: int) -> Period:
    if not use.succeeded:
        return Period(period.uses + sign, period.successes, period.seconds, period.response_seconds)
    return Period(
        period.uses + sign,
        period.successes + sign,
        period.seconds + sign * (use.seconds or 0.0),
        period.response_seconds + sign * use.response_seconds,
    )


def _model(view: ModelView, day: Period, now: Mapping[str, Sample], library: Library, month: _Figures) -> ModelOverview:
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
        readings=_readings(here),
        performance=_performance(view, month),
        now=library.now,
    )


def _availability(view: ModelView) -> float | None:
    gone = (ReplicaState.MISSING, ReplicaState.UNKNOWN, ReplicaState.REMOVING)
    held = [one for one in view.replicas if one.fetching or (one.row is not None and one.row.state not in gone)]
    serving = sum(one.availability in REPLICA_READY for one in held)
    return scoring.availability_score(serving, len(held), any(one.row is not None for one in view.replicas))


def _performance(view: ModelView, month: _Figures) -> Performance:
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
        performance_score=scoring.performance_score(latest.successes, latest.uses, latest.seconds_per_work),
        quality_score=scoring.mean_score(qualities),
        qualities=len(qualities),
        stability_score=scoring.stability_score(latest.successes, latest.uses, latest.seconds_per_work),
        samples=averages.samples if averages is not None else 0,
        load_percent=assessment.load_percent(averages.utilization_percent) if averages is not None else None,
        memory_used_mb=averages.memory_used_mb if averages is not None else None,
        memory_peak_mb=averages.memory_peak_mb if averages is not None else None,
        memory_total_mb=averages.memory_total_mb if averages is not None else None,
        power_watts=averages.power_watts if averages is not None else None,
        devices=made.devices if made is not None else (),
        profiles=made.profiles if made is not None else (),
    )


def _readings(now: Mapping[str, Sample]) -> Readings:
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


def _memory_percent(now: Mapping[str, Sample]) -> float | None:
    """Used over total of all devices; the CPU devices of one node share its memory, which counts once."""
    used, totals = 0.0, {}
    for key, one in now.items():
        if one.memory_used_mb is not None and one.memory_total_mb:
            used += one.memory_used_mb
            totals[key if one.kind == "cuda" else key.rpartition("/")[0]] = one.memory_total_mb
    return round(min(100.0, 100 * used / sum(totals.values())), 1) if totals else None
