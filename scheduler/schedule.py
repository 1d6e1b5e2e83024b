"""The beat table: what happens by the clock, and how often. One row is one schedule."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A tick every so many seconds, carried out by the named task on whichever io worker hears it first."""

    name: str
    task: str
    every_seconds: float


SCHEDULES = (
    Schedule("retention", "wanworks.tick.retention", 600.0),
    Schedule("sweep", "wanworks.tick.sweep", 300.0),
)


def tick_number(schedule: Schedule, now: float) -> int:
    """The number of the period that `now` (seconds since 1970) falls in: beats that double share it."""
    return int(now // schedule.every_seconds)
