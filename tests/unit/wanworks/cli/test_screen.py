"""Times, durations and texts as the commands print them."""

import io
import time
from datetime import datetime
from typing import Any, cast

import pytest
from rich.console import Console

from wanworks.cli import screen
from wanworks.client.shapes import Job


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


def test_times_in_a_table_are_short() -> None:
    now = datetime(2026, 7, 31, 12, 0)
    assert screen.brief(datetime(2026, 7, 31, 9, 5, 59), now) == "09:05"
    assert screen.brief(datetime(2026, 7, 3, 23, 59), now) == "Jul 3 23:59"
    assert screen.brief(datetime(2025, 12, 31, 23, 59), now) == "2025-12-31"


def printed(monkeypatch: pytest.MonkeyPatch, width: int, *, terminal: bool = True, **how: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    monkeypatch.setattr(screen, "out", lambda: console)
    ids = ("01a22cd7-e021-7d37-8dc2-1b3c4d5e6f70", "01a22cd7-e0ff-7d37-8dc2-1b3c4d5e6f70")
    rows = ((ids[0], "succeeded", "", "cpu-0", "a boat " * 20), (ids[1], "failed", "", "cpu-1", "a kite"))
    screen.print_table(("id", "status", "note", "device", "prompt"), rows, **how)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_row_is_one_line_that_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, 80, cut="prompt", least=("device",))
    assert lines[0].split() == ["id", "status", "note", "device", "prompt"]
    assert lines[1].startswith("01a22cd7-e021  succeeded        cpu-0   a boat a boat")
    assert lines[1].endswith("…")
    assert lines[2] == "01a22cd7-e0ff  failed           cpu-1   a kite"
    assert max(map(len, lines)) == 80


def test_a_narrow_terminal_has_the_columns_that_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch, 58, cut="prompt", least=("device",))[0].split() == ["id", "status", "device", "prompt"]
    lines = printed(monkeypatch, 50, cut="prompt", least=("device",))
    assert lines[0].split() == ["id", "status", "prompt"]
    assert lines[2] == "01a22cd7-e0ff  failed     a kite"
    assert len(lines) == 3
    assert max(map(len, lines)) <= 50


def test_sentences_take_several_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, 60, wrapped=("prompt",))
    assert " ".join(lines).count("boat") == 20
    assert "…" not in "".join(lines)


def test_a_pipe_has_whole_ids_and_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, 240, terminal=False, cut="prompt", least=("device",))
    assert lines[0].split() == ["id", "status", "note", "device", "prompt"]
    assert lines[1].startswith("01a22cd7-e021-7d37-8dc2-1b3c4d5e6f70  succeeded ")
    assert lines[1].count("boat") == 20


@pytest.mark.parametrize(
    ("eta", "waited", "text"),
    [
        (None, 10.0, None), (12.0, 0.0, "12 s left"), (12.0, 9.0, "3 s left"), (130.0, 5.0, "2 min 5 s left"),
        (12.0, 12.0, None), (12.0, 14.9, None), (12.0, 15.1, "longer than estimated"),
    ],
)  # fmt: skip
def test_an_estimate_counts_down_until_it_is_overdue(eta: float | None, waited: float, text: str | None) -> None:
    assert screen.remaining(eta, waited) == text


@pytest.mark.parametrize(
    ("phase", "text"), [("decoding", "decoding, part 1 of 5"), ("denoising", "denoising, step 1 of 5")]
)
def test_what_a_job_does(phase: str, text: str) -> None:
    progress = {"phase": phase, "step": 1, "steps": 5, "eta_seconds": 7.0}
    job = cast(Job, {"id": "a", "status": "running", "progress": progress})
    assert screen.doing(job) == f"{text}, 7 s left"
    assert screen.doing(job, 20) == f"{text}, longer than estimated"


def test_a_start_is_short_where_a_bar_needs_the_width() -> None:
    queued = cast(Job, {"id": "a", "status": "queued", "queue_position": 2, "estimated_start": "2025-01-31T12:00:00Z"})
    assert screen.doing(queued, narrow=True) == "queued, 2 ahead, starts about 2025-01-31"
    assert screen.doing(queued).startswith("queued, 2 ahead, starts about 2025-01-31 ")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ({"reason": "device", "detail": "All 2 devices that fit it are busy.", "open_devices": 2}, "queued, 1 ahead"),
        (
            {"reason": "device", "detail": "The devices that fit it accept no jobs.", "open_devices": 0},
            "queued. The devices that fit it accept no jobs.",
        ),
        ({"reason": "pause", "detail": "The queue is paused."}, "queued. The queue is paused."),
    ],
)
def test_a_job_that_no_device_takes_says_why_it_waits(reason: dict[str, Any], said: str) -> None:
    queued = cast(Job, {"id": "a", "status": "queued", "queue_position": 1, "waiting_for": reason})
    assert screen.doing(queued) == said


def test_a_moment_in_a_reason_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    reason = {"reason": "start_time", "detail": "It may start from 2025-01-31T12:00:00.000Z on."}
    queued = cast(Job, {"id": "a", "status": "queued", "queue_position": None, "waiting_for": reason})
    try:
        assert screen.doing(queued) == "queued. It may start from 2025-01-31 21:00:00 JST on."
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_same_estimate_again_is_no_newer() -> None:
    bars = screen.ProgressBars()
    job: dict[str, Any] = {"id": "a", "status": "running", "progress": {"phase": "decoding", "eta_seconds": 3.0}}
    first = bars._estimated_at(cast(Job, job))
    assert bars._estimated_at(cast(Job, {**job, "progress": dict(job["progress"])})) == first
    assert bars._estimated_at(cast(Job, {**job, "progress": {**job["progress"], "eta_seconds": 2.0}})) > first
