"""When a daily window is open, across changes of the clocks."""

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from shared import daily_window
from shared.daily_window import DailyWindow, parse
from shared.errors import ConfigurationError
from shared.settings import load

ZONES = (
    "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Casablanca", "America/Havana",
    "Pacific/Chatham", "UTC",
)  # fmt: skip
MINUTE = 60.0


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def by_minute(window: DailyWindow, start: float, is_open: bool) -> float:
    """The first whole minute from `start` on at which the window is (not) open, by looking at each."""
    moment = start
    while window.is_open(moment) != is_open:
        moment = (moment // MINUTE + 1) * MINUTE
    return moment


@pytest.mark.parametrize("zone", ZONES)
def test_the_next_opening_and_closing_are_the_first_minutes_of_the_wall_clock(zone: str) -> None:
    chosen = random.Random(zone)
    changes = [
        at("2026-03-29T01:00:00"),
        at("2026-10-25T01:00:00"),
        at("2026-03-08T07:00:00"),
        at("2026-11-01T06:00:00"),
    ]
    changes += [
        at("2026-04-04T15:00:00"),
        at("2026-10-03T15:30:00"),
        at("2026-02-15T02:00:00"),
        at("2026-03-22T02:00:00"),
    ]
    for place in range(60):
        base = chosen.choice(changes) if place % 2 else at("2026-06-01T00:00:00") + chosen.random() * 1e7
        start, end = chosen.sample(range(1440), 2)
        if place % 3 == 0:  # near the hours that are skipped and repeated
            start, end = sorted(chosen.sample(range(0, 240), 2), reverse=bool(place % 2))
        window = DailyWindow(start, end, ZoneInfo(zone))
        moment = base + chosen.uniform(-1.5, 1.5) * 86_400
        assert window.opens_at(moment) == by_minute(window, moment, True), (window, moment)
        closes = window.closes_at(moment)
        assert closes == by_minute(window, moment, False), (window, moment)


def test_a_window_over_midnight_is_open_on_both_sides_of_it() -> None:
    window = parse("22:00-07:00 Europe/Berlin")
    assert not window.is_open(at("2026-01-10T21:59:59", "Europe/Berlin"))
    assert window.opens_at(at("2026-01-10T12:00", "Europe/Berlin")) == at("2026-01-10T22:00", "Europe/Berlin")
    assert window.closes_at(at("2026-01-10T23:00", "Europe/Berlin")) == at("2026-01-11T07:00", "Europe/Berlin")


def test_a_repeated_hour_counts_twice_and_a_skipped_one_is_missing() -> None:
    night = parse("22:00-07:00 Europe/Berlin")
    lengths = {}
    for day in ("2026-03-28", "2026-10-24", "2026-06-10"):
        opens = night.opens_at(at(f"{day}T12:00", "Europe/Berlin"))
        closes = night.closes_at(opens)
        assert closes is not None
        lengths[day] = (closes - opens) / 3600
    assert lengths == {"2026-03-28": 8, "2026-10-24": 10, "2026-06-10": 9}
    # The start is skipped on 29 March: the window opens when the clocks change, at 03:00.
    early = parse("02:30-05:00 Europe/Berlin")
    assert early.opens_at(at("2026-03-29T00:30", "Europe/Berlin")) == at("2026-03-29T03:00", "Europe/Berlin")
    # All of it is skipped: it does not open on that day.
    within = parse("02:10-02:50 Europe/Berlin")
    assert within.opens_at(at("2026-03-29T00:30", "Europe/Berlin")) == at("2026-03-30T02:10", "Europe/Berlin")
    # It is repeated: open in both.
    for fold in (0, 1):
        assert within.is_open(at("2026-10-25T02:20", "Europe/Berlin", fold))


def test_a_window_is_open_as_long_as_the_wall_clock_says() -> None:
    window = parse("09:00-17:00 America/New_York")
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for _ in range(5000):
        moment += timedelta(minutes=103)
        local = moment.astimezone(ZoneInfo("America/New_York"))
        assert window.is_open(moment.timestamp()) == (9 <= local.hour < 17)


def test_the_text_of_a_window_is_read_and_written() -> None:
    for text in ("22:00-07:00 Europe/Berlin", "always", "00:00-00:01 UTC"):
        assert str(parse(text)) == text
    assert str(parse("01:00-02:00")) == "01:00-02:00 UTC"
    assert parse("always").closes_at(5.0) is None
    assert parse("always").opens_at(5.0) == 5.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("night", "not a daily window"),
        ("24:00-07:00 UTC", "not a daily window"),
        ("22:00-22:00 UTC", "write always"),
        ("22:00-07:00 Europe/Nowhere", "no time zone|not a time zone"),
        ("22:00-07:00 ../../etc/passwd", "not a time zone"),
        ("", "not a daily window"),
    ],
)
def test_what_is_no_window_is_refused_with_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)
    if text:
        with pytest.raises(ConfigurationError, match="WANWORKS_LOW_PRIORITY_WINDOW"):
            load(low_priority_window=text)


def test_the_longest_window_fits_its_column() -> None:
    assert daily_window.LONGEST == 80
