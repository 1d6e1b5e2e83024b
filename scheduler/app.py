"""Celery beat: sends each schedule's tick. Exactly one runs; a tick that comes twice is carried out once."""

import sys
from typing import Any

from celery import Celery, signals

from scheduler.schedule import SCHEDULES
from shared import broker, logs
from shared.settings import load

settings = load()
app: Celery = broker.celery_app(settings, "wanworks.scheduler")
app.conf.beat_schedule = {
    schedule.name: {
        "task": schedule.task,
        "schedule": schedule.every_seconds,
        "args": (schedule.name, schedule.every_seconds),
        # A tick that nobody heard within its period is not worth carrying out any more.
        "options": {"queue": broker.TICKS_QUEUE, "expires": schedule.every_seconds},
    }
    for schedule in SCHEDULES
}


@signals.setup_logging.connect
def _on_setup_logging(**_: Any) -> None:
    logs.set_up(settings, "beat")


def main() -> None:
    logs.set_up(settings, "beat")  # for what Celery warns of before it sets up its own
    folder = settings.home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    argv = ["--quiet", "beat", "--loglevel", settings.log_level, "--schedule", str(folder / "beat-schedule")]
    sys.exit(app.start([*argv, "--pidfile", ""]))


if __name__ == "__main__":
    main()
