"""Ticks: done once, and never two of one schedule at a time."""

import threading

import pytest
from sqlmodel import update

from shared import clock
from shared.database.engine import Database
from shared.database.tables import Tick
from shared.errors import StoreUnavailable
from shared.messaging.ticks import Run, once
from tests.conftest import both_databases
from tests.support.lost_answers import lost_answers


@both_databases
def test_a_tick_whose_taking_was_not_answered_is_done_once_all_the_same(database: Database) -> None:
    done: list[int] = []

    def work(run: Run) -> str:
        done.append(1)
        return "done"

    with lost_answers():
        assert once(database, "sweep", 300.0, 1_000_000.0, work) == "done"
    assert once(database, "sweep", 300.0, 1_000_000.0, work) is None
    assert len(done) == 1


@both_databases
def test_another_ones_tick_is_not_taken_for_ours_where_the_answer_is_lost(database: Database) -> None:
    assert once(database, "sweep", 300.0, 1_000_000.0, lambda _: "theirs") == "theirs"
    assert once(database, "sweep", 300.0, 1_000_000.0, lambda _: "ours") is None


@both_databases
def test_two_runs_of_one_schedule_do_not_overlap(database: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def long(run: Run) -> str:
        begun.set()
        assert go_on.wait(20)
        return "long"

    outcomes: list[str | None] = []
    thread = threading.Thread(target=lambda: outcomes.append(once(database, "sweep", 300.0, 1_000_000.0, long)))
    thread.start()
    assert begun.wait(20)
    assert once(database, "sweep", 300.0, 1_000_300.0, lambda _: "second") is None
    assert once(database, "retention", 300.0, 1_000_300.0, lambda _: "another schedule") == "another schedule"
    go_on.set()
    thread.join(20)
    assert outcomes == ["long"]
    assert once(database, "sweep", 300.0, 1_000_600.0, lambda _: "third") == "third"


@both_databases
def test_two_that_begin_in_the_same_moment_do_not_both_run(database: Database) -> None:
    """Beats that differ by one period send two ticks of one schedule at once."""
    for turn in range(5):
        together, ended = threading.Barrier(2), (threading.Event(), threading.Event())
        outcomes: list[str | None] = []

        def tick(
            place: int,
            turn: int = turn,
            together: threading.Barrier = together,
            ended: tuple[threading.Event, threading.Event] = ended,
            outcomes: list[str | None] = outcomes,
        ) -> None:
            def work(run: Run) -> str:
                assert ended[1 - place].wait(20), "both run"
                return "done"

            together.wait(20)
            outcomes.append(once(database, "sweep", 300.0, 1_000_000.0 + 300.0 * (2 * turn + place), work))
            ended[place].set()

        threads = [threading.Thread(target=tick, args=(place,)) for place in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert outcomes == [None, "done"]


def test_a_run_that_died_holds_its_schedule_up_for_its_lease_alone(database: Database) -> None:
    with database.write() as session:
        session.add(Tick(schedule="sweep", tick=1, ran_at=clock.now(), outcome="started x", running_until=4e9))
    assert once(database, "sweep", 300.0, 1_000_000.0, lambda _: "done") is None
    with database.write() as session:
        session.connection().execute(update(Tick).values(running_until=1.0))
    assert once(database, "sweep", 300.0, 1_000_000.0, lambda _: "done") == "done"


def test_a_run_that_has_failed_does_not_hold_up_the_next(database: Database) -> None:
    def fail(run: Run) -> str:
        raise StoreUnavailable()

    with pytest.raises(StoreUnavailable):
        once(database, "sweep", 300.0, 1_000_000.0, fail)
    assert once(database, "sweep", 300.0, 1_000_300.0, lambda _: "done") == "done"


@both_databases
def test_a_run_goes_on_within_its_time_and_as_long_as_the_schedule_is_its_own(database: Database) -> None:
    def in_time(run: Run) -> str:
        assert run.has_time()
        return "in time"

    def late(run: Run) -> str:
        assert not run.has_time()
        return "late"

    def lapsed(run: Run) -> str:
        with database.write() as session:
            session.connection().execute(update(Tick).values(running_until=1.0))
        assert not run.has_time()
        return "lapsed"

    assert once(database, "sweep", 1.0, 1.0, in_time, lease_seconds=0.5)
    assert once(database, "sweep", 1.0, 2.0, late, budget_seconds=0.0)
    assert once(database, "sweep", 1.0, 3.0, lapsed, lease_seconds=0.0)
