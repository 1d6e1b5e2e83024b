"""The one class of background threads: it logs, counts and goes on, whatever its passes raise."""

import logging
import threading
from collections.abc import Callable

import pytest

from shared.database.engine import Database
from shared.errors import DatabaseUnavailable
from shared.messaging.progress import RestingRedis
from shared.telemetry import loop_reports
from shared.telemetry.loops import Loop, LoopReporter
from shared.telemetry.metrics import LOOP_ERRORS, Meters


class Counted(Meters):
    """Counts in memory alone."""

    def __init__(self) -> None:
        super().__init__(RestingRedis(None))
        self.errors: list[tuple[str, ...]] = []

    def count(self, meter: object, *labels: str, by: float = 1.0) -> None:
        assert meter is LOOP_ERRORS
        self.errors.append(labels)


class Passes:
    """Work that raises what it is given, pass by pass, and says when so many have been made."""

    def __init__(self, *raised: BaseException | None) -> None:
        self._raised = list(raised)
        self.made = 0
        self.done = threading.Event()

    def __call__(self) -> bool:
        self.made += 1
        error = self._raised.pop(0) if self._raised else None
        if not self._raised:
            self.done.set()
        if error is not None:
            raise error
        return False


def run(work: Callable[[], bool], done: threading.Event, meters: Meters) -> None:
    loop = Loop("tested", 0.001, work, meters=meters)
    loop.start()
    assert done.wait(10)
    assert loop.stop(10)


@pytest.mark.parametrize(
    "error", [DatabaseUnavailable(), KeyError("halt"), UnicodeError("label too long"), OSError("disk"), MemoryError()]
)
def test_a_pass_that_raises_is_counted_and_the_next_one_follows(error: Exception) -> None:
    meters, work = Counted(), Passes(error, error, None, None)
    run(work, work.done, meters)
    assert work.made >= 4
    assert meters.errors == [("tested",)] * 2


def test_the_same_error_is_logged_once_a_minute_with_its_trace_where_nobody_foresaw_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    meters, work = Counted(), Passes(*[ValueError("odd")] * 20, DatabaseUnavailable(), None)
    with caplog.at_level(logging.WARNING):
        run(work, work.done, meters)
    said = [(record.levelname, record.exc_info is not None) for record in caplog.records]
    assert said == [("ERROR", True), ("WARNING", False)]
    assert len(meters.errors) == 21


def test_there_is_no_wait_while_there_is_more_to_do_and_a_wake_ends_one() -> None:
    made, enough, woken = 0, threading.Event(), threading.Event()

    def work() -> bool:
        nonlocal made
        made += 1
        if made == 100:
            enough.set()
        if made > 100:
            woken.set()
        return made < 100

    loop = Loop("tested", 3600.0, work, meters=Counted())
    loop.start()
    assert enough.wait(10)
    loop.wake()
    assert woken.wait(10)
    assert loop.stop(10)


def test_a_stop_waits_for_the_pass_that_is_being_made() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return not go_on.wait(10)

    loop = Loop("tested", 3600.0, work, meters=Counted())
    loop.start()
    assert begun.wait(10)
    assert not loop.stop(0.05), "it has not ended"
    threading.Timer(0.1, go_on.set).start()
    assert loop.stop(10)


def test_a_loop_that_is_stopped_before_its_first_pass_makes_none() -> None:
    work = Passes(None)
    loop = Loop("tested", 1.0, work, meters=Counted(), first_after_seconds=3600.0)
    loop.start()
    assert loop.stop(10)
    assert work.made == 0


@pytest.mark.parametrize("error", [KeyError("odd"), DatabaseUnavailable(), RuntimeError("odd")])
def test_a_report_that_cannot_be_written_ends_no_loop(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what is foreseen nor, while two versions run side by side, a table that is not as it is expected."""

    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(loop_reports, "record", failing)
    monkeypatch.setattr(loop_reports, "forget_process", failing)
    monkeypatch.setattr("shared.telemetry.loops._REPORT_SECONDS", 0.0)
    reporter = LoopReporter(Database("sqlite://"), "gpu-0@n", "n")
    work = Passes(None, None, None)
    loop = Loop("tested", 0.001, work, meters=Counted(), reporter=reporter)
    loop.start()
    assert work.done.wait(10)
    assert loop.stop(10)
    reporter.close()
