"""Run two writers in every interleaving: one is stopped between two of its statements while the other runs."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event, text

from shared.database.engine import Database

_PATIENCE_SECONDS = 20.0
_BLOCKED_AFTER_SECONDS = 0.03  # a second writer that has said nothing for this long waits for a lock


@dataclass(frozen=True)
class Met:
    """The outcome of one interleaving. An exception that a writer raised replaces its result."""

    first: Any
    second: Any
    second_was_through: bool  # it had ended while the first stood still


def interleavings(
    database: Database, make: Callable[[], tuple[Callable[[], Any], Callable[[], Any]]]
) -> Iterator[tuple[int, Met]]:
    """Create a new pair of writers for each point where the first can be stopped, and run the other there.

    Ends once the first is through before it comes to the place.
    """
    place = 0
    while True:
        place += 1
        first, second = make()
        met = _meet(database, first, second, place)
        if met is None:
            return
        yield place, met


def _meet(database: Database, first: Callable[[], Any], second: Callable[[], Any], place: int) -> Met | None:
    """Stop the first writer after its n-th statement. Return None if it has fewer."""
    stopped, go_on = threading.Event(), threading.Event()
    results: dict[str, Any] = {}

    def run(name: str, work: Callable[[], Any]) -> None:
        try:
            results[name] = work()
        except Exception as error:
            results[name] = error

    one = threading.Thread(target=run, args=("first", first), daemon=True)
    other = threading.Thread(target=run, args=("second", second), daemon=True)
    with _gate(database, one, place, stopped, go_on):
        one.start()
        while not stopped.wait(0.002):
            if not one.is_alive():
                return None
        other.start()
        _until_through_or_blocked(database, other)
        through = not other.is_alive()
        go_on.set()
        for thread in (one, other):
            thread.join(_PATIENCE_SECONDS)
            assert not thread.is_alive(), f"{thread} hangs"
    return Met(results["first"], results["second"], through)


@contextmanager
def _gate(
    database: Database, thread: threading.Thread, place: int, stopped: threading.Event, go_on: threading.Event
) -> Iterator[None]:
    count = 0

    def after(*_: Any) -> None:
        nonlocal count
        if threading.current_thread() is thread and not stopped.is_set():
            count += 1
            if count == place:
                stopped.set()
                assert go_on.wait(_PATIENCE_SECONDS)

    event.listen(database.engine, "after_cursor_execute", after)
    try:
        yield
    finally:
        go_on.set()
        event.remove(database.engine, "after_cursor_execute", after)


def _until_through_or_blocked(database: Database, thread: threading.Thread) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    quiet_until = time.monotonic() + _BLOCKED_AFTER_SECONDS
    while thread.is_alive() and time.monotonic() < deadline:
        if database.is_sqlite:
            if time.monotonic() > quiet_until:
                return
        elif _waits_for_a_lock(database):
            return
        thread.join(0.002)


def _waits_for_a_lock(database: Database) -> bool:
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with database.read() as session:
        return bool(session.connection().execute(query).scalar_one())
