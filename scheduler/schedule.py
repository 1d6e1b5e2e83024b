"""The schedules of beat. One row is one schedule."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A tick every `every_seconds`, for which the first free io worker runs the named task."""

    name: str
    task: str
    every_seconds: float


_HOUR = 3600.0

SCHEDULES = (
    # A tick runs for 30 s at most, so even a large removal leaves the worker free half of the time.
    Schedule("retention", "wanworks.tick.retention", 60.0),
    Schedule("sweep", "wanworks.tick.sweep", 300.0),
    Schedule("gallery", "wanworks.tick.gallery", 60.0),
    Schedule("roll_up", "wanworks.tick.roll_up", 600.0),
    Schedule("snapshot", "wanworks.tick.snapshot", 60.0),
    Schedule("alerts", "wanworks.tick.alerts", 15.0),
    Schedule("samples", "wanworks.tick.samples", 600.0),
    Schedule("versions", "wanworks.tick.versions", _HOUR),
    Schedule("quick_check", "wanworks.tick.check", 6 * _HOUR),
    Schedule("full_check", "wanworks.tick.check", 7 * 24 * _HOUR),
)
