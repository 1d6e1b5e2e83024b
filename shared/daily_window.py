"""Daily windows such as `22:00-07:00 Europe/Berlin`: when one is open, when it opens next, and when it closes.

A window is open while the clock on the wall of its time zone shows a time in it. So an hour that is skipped when the
clocks go forward is missing from it, and one that is repeated when they go back counts twice. A window whose start is
skipped opens at the change; one that lies within the skipped hour does not open on that day.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

ALWAYS = "always"
LONGEST = 80  # characters

_FORM = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])(?: +(\S+))?")
_HOUR = 3600.0
# Zones change their clocks at most once in so many hours.
_STEP_SECONDS = 6 * _HOUR
_DAYS = 400  # a window that lies within a skipped hour opens on another day


@dataclass(frozen=True)
class DailyWindow:
    """One window. `start` and `end` in minutes after midnight; equal: it is always open."""

    start: int
    end: int
    zone: ZoneInfo

    def __str__(self) -> str:
        if self.start == self.end:
            return ALWAYS
        return f"{_clock(self.start)}-{_clock(self.end)} {self.zone.key}"

    def is_open(self, at: float) -> bool:
        """Return whether it is open at that moment, in seconds since 1970."""
        if self.start == self.end:
            return True
        local = datetime.fromtimestamp(at, self.zone)
        minute = local.hour * 60 + local.minute
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end

    def opens_at(self, at: float) -> float:
        """Return the first moment from `at` on at which it is open."""
        return at if self.is_open(at) else self._first_after(at, self.start, is_open=True)

    def closes_at(self, at: float) -> float | None:
        """Return the first moment from `at` on at which it is not open; None if it is always open."""
        if self.start == self.end:
            return None
        return at if not self.is_open(at) else self._first_after(at, self.end, is_open=False)

    def _first_after(self, at: float, minute: int, *, is_open: bool) -> float:
        """Return the first moment after `at` at which it is (not) open: this time of day, or a change of the clocks."""
        for day in range(_DAYS):
            found = [
                moment
                for moment in (*self._moments(at, day, minute), *self._changes(at, day))
                if moment > at and self.is_open(moment) == is_open
            ]
            if found:
                return min(found)
        return at + _DAYS * 24 * _HOUR

    def _moments(self, at: float, day: int, minute: int) -> Iterator[float]:
        """Yield when the wall clock shows that time on the day that is so many days after `at`, or beside it."""
        today = datetime.fromtimestamp(at, self.zone).date()
        for date in (today + timedelta(days=day), today + timedelta(days=day + 1)):
            for fold in (0, 1):
                local = datetime.combine(date, time(minute // 60, minute % 60, fold=fold), self.zone)
                moment = local.timestamp()
                shown = datetime.fromtimestamp(moment, self.zone)
                if (shown.hour, shown.minute) == (local.hour, local.minute):  # it is not skipped
                    yield moment

    def _changes(self, at: float, day: int) -> Iterator[float]:
        """Yield when the clocks change within 48 hours from that day on."""
        begin = at + (day - 1) * 24 * _HOUR
        for place in range(12):
            low, high = begin + place * _STEP_SECONDS, begin + (place + 1) * _STEP_SECONDS
            before = self._offset(low)
            if before == self._offset(high):
                continue
            low_second, high_second = int(low), int(high) + 1
            while high_second - low_second > 1:
                middle = (low_second + high_second) // 2
                if self._offset(middle) == before:
                    low_second = middle
                else:
                    high_second = middle
            yield float(high_second)

    def _offset(self, at: float) -> timedelta | None:
        return datetime.fromtimestamp(at, UTC).astimezone(self.zone).utcoffset()


@lru_cache(maxsize=1000)
def parse(text: str) -> DailyWindow:
    """Return the window that is written as `HH:MM-HH:MM [TIME ZONE]`, without a zone in UTC, or as `always`.

    Raises ValueError, whose message says what is allowed.
    """
    if text == ALWAYS:
        return DailyWindow(0, 0, ZoneInfo("UTC"))
    match = _FORM.fullmatch(text)
    if match is None or len(text) > LONGEST:
        raise ValueError(
            f"{text!r} is not a daily window; allowed: HH:MM-HH:MM and a time zone, such as 22:00-07:00 Europe/Berlin"
        )
    start, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
    if start == end:
        raise ValueError(f"{text!r} begins and ends at the same time; to be always open, write {ALWAYS}")
    try:
        zone = ZoneInfo(match[5] or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"{match[5]!r} is not a time zone that this host knows; allowed: a name of the IANA database such as "
            "Europe/Berlin, or UTC. If the name is right, install the package tzdata"
        ) from None
    return DailyWindow(start, end, zone)


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"
