"""The summary of all models, for the information routes, the dashboard and the stored snapshots.

It reads the library, the uses, the devices' samples and the alerts; `shared.insight.assessment` judges them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from shared.catalogue import scoring
from shared.cluster import alerts
from shared.database.engine import Database
from shared.database.tables import Alert, Sample
from shared.insight import assessment, samples
from shared.insight import health as model_health
from shared.insight.assessment import Status
from shared.insight.health import HealthStatus, Recommendation
from shared.jobs.reading import queues
from shared.jobs.reading.queues import Depth
from shared.management.library import Library, storage_usage_percent
from shared.management.model_summary import ModelOverview, summarise
from shared.management.monthly_figures import MonthlyFigures
from shared.management.recent_uses import Period, RecentUses
from shared.settings import Settings

HOUR = timedelta(hours=1)

# A sample describes the present for this long, or until this many more samples are due: nodes' clocks may differ.
_FRESH_SECONDS, _FRESH_SAMPLES = 60.0, 4
_MINUTE_SECONDS = 60.0  # over which the utilisation is averaged, or over two samples where they are rarer


@dataclass(frozen=True)
class Overview:
    """All models of the catalogue."""

    library: Library
    models: Mapping[str, ModelOverview]  # in the catalogue's order
    samples: Mapping[str, Sample]  # the newest of each live device with recent samples, by its key
    utilizations: Mapping[str, float]  # the mean of the last minute of each of them that was measured, by its key
    day: Mapping[str, Period]  # uses of the last 24 hours by model, including models no longer in the catalogue
    recommendations: tuple[Recommendation, ...]


@dataclass(frozen=True)
class Whole:
    """The overview, and what concerns the whole installation."""

    overview: Overview
    status: Status
    health_score: float | None  # `scoring.overall_health_score` of the models
    hour: Period  # uses of the last hour, of all models
    depths: tuple[Depth, ...]
    held: int  # queued jobs that may not start yet; `depths` leaves them out
    alerts: tuple[Alert, ...]  # open ones, most severe first


class Overviews:
    """Reads overviews. It keeps the uses in memory and reads only new rows."""

    def __init__(self, settings: Settings, database: Database, library: Callable[[], Library]) -> None:
        self._settings = settings
        self._database = database
        self._library = library
        self._recent = RecentUses(database)
        self._month = MonthlyFigures(database)

    def models(self) -> Overview:
        """Return the summary of all models. Raises DatabaseUnavailable."""
        library = self._library()
        day = self._recent.periods(library.now, library.newest_use)
        fresh = max(_FRESH_SECONDS, _FRESH_SAMPLES * self._settings.sample_seconds)
        since = library.now - timedelta(seconds=fresh)
        live = {device.key for device in library.devices}
        now = {key: one for key, one in samples.latest(self._database, since).items() if key in live}
        minute = library.now - timedelta(seconds=max(_MINUTE_SECONDS, 2 * self._settings.sample_seconds))
        means = samples.utilizations(self._database, minute)
        month = self._month.read(library)
        models = {
            model_id: summarise(view, day.get(model_id, Period()), now, library, month)
            for model_id, view in library.models.items()
        }
        facts = [model.facts for model in models.values()]
        used = storage_usage_percent(library)
        found = model_health.recommendations(facts, used, library.now)
        busy = {key: means[key] for key in now if key in means}
        return Overview(library, models, now, busy, day, tuple(found))

    def whole(self) -> Whole:
        """Return the summary of the whole installation. Raises DatabaseUnavailable."""
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
            held=queues.held(self._database),
            alerts=opened,
        )


def health_counts(overview: Overview) -> dict[HealthStatus, int]:
    """Return how many models are in each state of `shared.insight.health`."""
    found = [model.health.status for model in overview.models.values()]
    return {status: found.count(status) for status in HealthStatus}


def system_status(overview: Overview, opened: tuple[Alert, ...]) -> Status:
    """Return the status of the whole installation."""
    return assessment.system_status(
        (model.status for model in overview.models.values()),
        devices=len(overview.library.devices),
        critical_alerts=sum(alert.severity == "critical" for alert in opened),
    )
