"""Ticks: what happens by the clock happens once, however often beat says it. Sole reader and writer of `ticks`."""

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import delete, func
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from shared import clock
from shared.database import Database
from shared.tables import Tick

_KEPT = timedelta(days=7)


def once(database: Database, schedule: str, every_seconds: float, now: float, work: Callable[[], str]) -> str | None:
    """Does the work unless this schedule's present tick was taken; then None, else its outcome.

    `now` is in seconds since 1970. Ticks are numbered by the period that they fall in, so beats that double share one.
    """
    number = int(now // every_seconds)
    tick = Tick(schedule=schedule, tick=number, ran_at=clock.from_epoch(now), outcome="started")
    try:
        with database.write() as session:
            session.add(tick)
    except IntegrityError:
        return None
    outcome = work()
    with database.write() as session:
        row = session.get(Tick, (schedule, number))
        if row is not None:
            row.outcome = outcome[:500]
            session.add(row)
        session.connection().execute(delete(Tick).where(col(Tick.ran_at) < clock.from_epoch(now) - _KEPT))
    return outcome


def last(database: Database, besides: str) -> datetime | None:
    """When any schedule but that one was last carried out."""
    with database.read() as session:
        return session.exec(select(func.max(Tick.ran_at)).where(Tick.schedule != besides)).one()
