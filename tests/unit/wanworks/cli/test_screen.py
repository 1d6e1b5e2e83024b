"""Times, durations and texts as the commands print them."""

import time

import pytest

from wanworks.cli import screen


def test_times_are_in_the_zone_of_this_machine_and_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert screen.local("2026-07-31T22:30:00.123Z") == "2026-08-01 00:30:00 CEST"
        assert screen.local(None) is None
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, None), (0.04, "0.0 s"), (59.9, "59.9 s"), (245, "4 min 5 s"), (7380, "2 h 3 min")]
)
def test_durations(seconds: float | None, text: str | None) -> None:
    assert screen.duration(seconds) == text


def test_a_prompt_is_one_short_line() -> None:
    assert screen.shortened("a\n  boat") == "a boat"
    assert screen.shortened("x" * 100, 10) == "xxxxxxxxx…"
    assert screen.shortened(None) is None
