"""Celery beat: sends the ticks of each schedule. A tick that is received twice runs once.

On one host beat keeps its schedule in a file. With several beats, redbeat keeps it in Redis behind a lock: one beat
sends, and the others stand by.
"""

import sys
from typing import Any

from celery import Celery, signals

from scheduler.schedule import SCHEDULES
from shared.messaging import celery
from shared.settings import load
from shared.telemetry import logs

_PASSES_PER_LOCK = 5  # so that a late pass does not lose the lock

settings = load()
app: Celery = celery.celery_app(settings, "wanworks.scheduler")
app.conf.beat_schedule = {
    schedule.name: {
        "task": schedule.task,
        "schedule": schedule.every_seconds,
        "args": (schedule.name, schedule.every_seconds),
        # A tick that no worker has received within its period is obsolete.
        "options": {"queue": celery.TICKS_QUEUE, "expires": schedule.every_seconds},
    }
    for schedule in SCHEDULES
}
app.conf.result_expires = None  # otherwise Celery adds its own schedule, for a queue without a consumer
if settings.several_beats:
    app.conf.update(
        beat_scheduler="redbeat.RedBeatScheduler",
        beat_max_loop_interval=settings.beat_takeover_seconds / _PASSES_PER_LOCK,
        redbeat_lock_timeout=settings.beat_takeover_seconds,
        redbeat_key_prefix="wanworks:redbeat:",
        redbeat_redis_url=settings.redis,
        # A negative period makes beat wait for an unavailable Redis instead of exiting.
        redbeat_redis_options={**celery.SOCKET_OPTIONS, "retry_period": -1},
    )


@signals.setup_logging.connect
def _on_setup_logging(**_: Any) -> None:
    logs.set_up(settings, "beat")


def main() -> None:
    logs.set_up(settings, "beat")  # for warnings that Celery logs before it sets up logging
    argv = ["--quiet", "beat", "--loglevel", settings.log_level, "--pidfile", ""]
    if not settings.several_beats:
        folder = settings.home / "run"
        folder.mkdir(parents=True, exist_ok=True)
        argv += ["--schedule", str(folder / "beat-schedule")]
    sys.exit(app.start(argv))


if __name__ == "__main__":
    main()
