"""Ticks: scheduled work runs once for each period, however often beat sends it, and never twice at the same time.

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
# Longer than a batch between two calls of `has_time`. A crashed run blocks its schedule for this long.
_LEASE_SECONDS = 120.0


class Run:
    """One run of one schedule. No other run of it starts while `has_time` is called often enough."""

    def __init__(
        self, database: Database, schedule: str, tick: int, token: str, budget_seconds: float, lease_seconds: float
    ) -> None:
        self._database = database
        self._row = (col(Tick.schedule) == schedule, col(Tick.tick) == tick, col(Tick.outcome) == _started(token))
        self._lease_seconds = lease_seconds
        self._renewed_at = time.monotonic()
        self._until = self._renewed_at + budget_seconds

    def has_time(self) -> bool:
        """Return whether to begin another batch: time is left, and this run still holds the schedule."""
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
    """Call `work` and return its outcome; None if this tick was taken, or another of its schedule still runs.

    `now`: seconds since 1970. Ticks are numbered by period, so duplicate ticks of several beats share a number.
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
    """Return when any schedule except `besides` last ran."""
    with database.read() as session:
        return session.exec(select(func.max(Tick.ran_at)).where(Tick.schedule != besides)).one()


@settled
def _take(database: Database, schedule: str, number: int, now: float, token: str, lease_seconds: float) -> bool:
    """Insert the tick's row. Return whether this run has it. After a lost reply the token identifies the row."""
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
            existing = session.get(Tick, (schedule, number))
            return existing is not None and existing.outcome == _started(token)
    return True


def _runs(session: Session, schedule: str, besides: int) -> bool:
    """Return whether another tick of this schedule is running."""
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
