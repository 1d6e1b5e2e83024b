"""Figures of the last 30 days: percentiles, latest successes and averages of the devices' samples."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

from shared.database.engine import Database
from shared.insight import samples
from shared.insight.samples import Averages
from shared.jobs.usage import by_day, latest_uses
from shared.jobs.usage.latest_uses import Successes
from shared.management.library import FREQUENCY_DAYS, Library, first_day

# Figures are kept until a generation has ended, or this long. The devices' averages are kept for at least the second
# time, however many generations end.
_KEEP_SECONDS, _KEEP_AT_LEAST_SECONDS = 60.0, 5.0


@dataclass(frozen=True)
class Figures:
    """Figures by model."""

    p95: Mapping[str, float | None] = field(default_factory=dict)
    successes: Mapping[str, Successes] = field(default_factory=dict)
    averages: Mapping[str, Averages] = field(default_factory=dict)


class MonthlyFigures:
    """Reads the figures, and keeps them until a generation ends, the day changes, or 60 seconds have passed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: tuple[tuple[int, date] | None, float, Figures] = (None, 0.0, Figures())
        self._averaged = float("-inf")

    def read(self, library: Library) -> Figures:
        """Return the figures. Raises DatabaseUnavailable."""
        since, moment = first_day(library.now, FREQUENCY_DAYS), time.monotonic()
        newest = library.newest_use
        key, read_at, figures = self._known
        if key != (newest, since) or moment - read_at > _KEEP_SECONDS:
            figures = self._read(library, since, self._averages(library, figures, key != (newest, since)))
            self._known = ((newest, since), moment, figures)
        return figures

    def _averages(self, library: Library, before: Figures, changed: bool) -> Mapping[str, Averages]:
        """Return the devices' averages. Reading them is expensive, and one more job hardly changes them."""
        moment = time.monotonic()
        if moment - self._averaged < (_KEEP_AT_LEAST_SECONDS if changed else _KEEP_SECONDS):
            return before.averages
        self._averaged = moment
        return samples.averages(self._database, library.now - timedelta(days=FREQUENCY_DAYS))

    def _read(self, library: Library, since: date, averages: Mapping[str, Averages]) -> Figures:
        used = {model_id: view.month for model_id, view in library.models.items() if view.month.successes}
        return Figures(
            p95={
                model_id: by_day.p95_seconds(self._database, model_id, since, each) for model_id, each in used.items()
            },
            successes=latest_uses.successes(self._database, list(used), since),
            averages=averages,
        )
