"""Celery beat: sends each schedule's tick. A tick that comes twice is carried out once.

On one host it remembers in a file. On several each may run one: redbeat keeps the schedule in Redis behind a lock, so
that one sends and the others wait to take over.
"""

import sys
from typing import Any

from celery import Celery, signals

from scheduler.schedule import SCHEDULES
from shared.messaging import celery
from shared.settings import load
from shared.telemetry import logs

_LOOKS_WITHIN_THE_LOCK = 5  # so that one that is late does not lose it

settings = load()
app: Celery = celery.celery_app(settings, "wanworks.scheduler")
app.conf.beat_schedule = {
    schedule.name: {
        "task": schedule.task,
        "schedule": schedule.every_seconds,
        "args": (schedule.name, schedule.every_seconds),
        # A tick that nobody heard within its period is not worth carrying out any more.
        "options": {"queue": celery.TICKS_QUEUE, "expires": schedule.every_seconds},
    }
    for schedule in SCHEDULES
}
app.conf.result_expires = None  # else Celery adds a schedule of its own, for a queue that nobody hears
if settings.several_beats:
    app.conf.update(
        beat_scheduler="redbeat.RedBeatScheduler",
        beat_max_loop_interval=settings.beat_takeover_seconds / _LOOKS_WITHIN_THE_LOCK,
        redbeat_lock_timeout=settings.beat_takeover_seconds,
        redbeat_key_prefix="wanworks:redbeat:",
        redbeat_redis_url=settings.redis,
        # A negative period: beat waits for a Redis that is away instead of dying of it.
        redbeat_redis_options={**celery.SOCKET_OPTIONS, "retry_period": -1},
    )


@signals.setup_logging.connect
def _on_setup_logging(**_: Any) -> None:
    logs.set_up(settings, "beat")


def main() -> None:
    logs.set_up(settings, "beat")  # for what Celery warns of before it sets up its own
    argv = ["--quiet", "beat", "--loglevel", settings.log_level, "--pidfile", ""]
    if not settings.several_beats:
        folder = settings.home / "run"
        folder.mkdir(parents=True, exist_ok=True)
        argv += ["--schedule", str(folder / "beat-schedule")]
    sys.exit(app.start(argv))


if __name__ == "__main__":
    main()
