"""The uses of the last 24 hours, kept in memory and summed up by model."""

import itertools
import threading
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.catalogue import scoring
from shared.database.engine import Database
from shared.jobs.usage import latest_uses
from shared.jobs.usage.latest_uses import Ended

DAY = timedelta(hours=24)

# PostgreSQL may commit rows in another order than it numbers them: this many of the newest are read again.
_READ_AGAIN = 256


@dataclass(frozen=True)
class Period:
    """The uses of some time until now. Seconds are summed over the successes."""

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


class RecentUses:
    """Sums up the uses of the last 24 hours. It reads each row once. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._seen = 0  # the newest row that was read
        self._uses: deque[Ended] = deque()  # by their end, oldest first
        self._ids: set[int] = set()
        self._sums: dict[str, Period] = {}

    def periods(self, now: datetime, newest: int) -> dict[str, Period]:
        """Return the sums by model, for models with uses. `newest` is the number of the newest row."""
        since = now - DAY
        with self._lock:
            if newest < self._seen:  # the database was replaced by another
                self._uses.clear()
                self._ids.clear()
                self._sums.clear()
                self._seen = 0
            if newest != self._seen:
                self._add_all(latest_uses.ended(self._database, since, max(0, self._seen - _READ_AGAIN)))
                self._seen = newest
            while self._uses and self._uses[0].finished_at < since:
                self._add(self._uses[0], -1)
                self._ids.discard(self._uses.popleft().id)
            return {model_id: period for model_id, period in self._sums.items() if period.uses}

    def since(self, start: datetime) -> Period:
        """Return the sum over all models of the uses that ended since then, as far as they have been read."""
        with self._lock:
            found = list(itertools.takewhile(lambda use: use.finished_at >= start, reversed(self._uses)))
        good = [use for use in found if use.succeeded]
        seconds = sum(use.seconds or 0.0 for use in good)
        return Period(len(found), len(good), seconds, sum(use.response_seconds for use in good))

    def _add_all(self, found: list[Ended]) -> None:
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
