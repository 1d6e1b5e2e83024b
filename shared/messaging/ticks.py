"""Ticks: what happens by the clock happens once, however often beat says it, and never twice at a time.

Sole reader and writer of `ticks`.
"""

import secrets
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import delete, func, insert, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from shared import clock
from shared.database.engine import Database, hold, settled
from shared.database.tables import Tick, epoch_now

_KEPT = timedelta(days=7)
_BUDGET_SECONDS = 30.0
# Longer than work takes between two calls of `goes_on`. A run that has died holds up its schedule for so long.
_LEASE_SECONDS = 120.0


class Run:
    """One run of one schedule. Nobody else runs that schedule as long as `goes_on` is asked often enough."""

    def __init__(
        self, database: Database, schedule: str, tick: int, token: str, budget_seconds: float, lease_seconds: float
    ) -> None:
        self._database = database
        self._row = (col(Tick.schedule) == schedule, col(Tick.tick) == tick, col(Tick.outcome) == _started(token))
        self._lease_seconds = lease_seconds
        self._renewed_at = time.monotonic()
        self._until = self._renewed_at + budget_seconds

    def goes_on(self) -> bool:
        """Whether to begin another batch: there is time left, and the schedule is still this run's."""
        now = time.monotonic()
        if now >= self._until:
            return False
        if now - self._renewed_at < self._lease_seconds / 4:
            return True
        with self._database.write() as session:
            renewed = session.connection().execute(
                update(Tick)
                .where(*self._row, col(Tick.running_until) > epoch_now())
                .values(running_until=epoch_now() + self._lease_seconds)
            )
        self._renewed_at = now
        return renewed.rowcount == 1


def once(
    database: Database,
    schedule: str,
    every_seconds: float,
    now: float,
    work: Callable[[Run], str],
    *,
    budget_seconds: float = _BUDGET_SECONDS,
    lease_seconds: float = _LEASE_SECONDS,
) -> str | None:
    """Does the work and returns its outcome; None where this tick was taken, or another of its schedule still runs.

    `now` is in seconds since 1970. Ticks are numbered by the period that they fall in, so beats that double share one.
    """
    number, token = int(now // every_seconds), secrets.token_hex(8)
    if not _take(database, schedule, number, now, token, lease_seconds):
        return None
    outcome = "failed"
    try:
        outcome = work(Run(database, schedule, number, token, budget_seconds, lease_seconds))
        return outcome
    finally:
        _end(database, schedule, number, now, outcome)


def last(database: Database, besides: str) -> datetime | None:
    """When any schedule but that one was last carried out."""
    with database.read() as session:
        return session.exec(select(func.max(Tick.ran_at)).where(Tick.schedule != besides)).one()


@settled
def _take(database: Database, schedule: str, number: int, now: float, token: str, lease_seconds: float) -> bool:
    """Whether the tick is ours. Where the answer was lost, the token tells whose the row is."""
    row = insert(Tick).values(
        schedule=schedule,
        tick=number,
        ran_at=clock.from_epoch(now),
        outcome=_started(token),
        running_until=epoch_now() + lease_seconds,
    )
    try:
        with database.write() as session:
            hold(session, f"tick {schedule}")
            if _runs(session, schedule, number):
                return False
            session.connection().execute(row)
    except IntegrityError:
        with database.read() as session:
            there = session.get(Tick, (schedule, number))
            return there is not None and there.outcome == _started(token)
    return True


def _runs(session: Session, schedule: str, besides: int) -> bool:
    """Whether another tick of this schedule is being worked on."""
    running = select(Tick.tick).where(
        Tick.schedule == schedule, Tick.tick != besides, col(Tick.running_until) > epoch_now()
    )
    return session.exec(running.limit(1)).first() is not None


@settled
def _end(database: Database, schedule: str, number: int, now: float, outcome: str) -> None:
    with database.write() as session:
        session.connection().execute(
            update(Tick)
            .where(col(Tick.schedule) == schedule, col(Tick.tick) == number)
            .values(outcome=outcome[:500], running_until=None)
        )
        session.connection().execute(delete(Tick).where(col(Tick.ran_at) < clock.from_epoch(now) - _KEPT))


def _started(token: str) -> str:
    return f"started {token}"
