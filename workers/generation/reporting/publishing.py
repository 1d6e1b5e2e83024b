"""Publishes the progress of a generation: to its stream in Redis, and now and then to the job's webhook."""

import logging
import time
from collections.abc import Callable
from typing import Any

from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import StoreFull, Unavailable
from shared.jobs.ending import webhooks
from shared.jobs.ids import new_id
from shared.messaging.progress import Progress
from shared.settings import Settings

log = logging.getLogger("wanworks.generation")


def sender(settings: Settings, database: Database, progress: Progress, job: Job) -> Callable[[dict[str, Any]], bool]:
    """Return a function that publishes an event and returns whether a cancel was requested.

    It periodically adds a progress message for the job's webhook.
    """
    sent_at = time.monotonic()

    def send(event: dict[str, Any]) -> bool:
        nonlocal sent_at
        event = {**event, "attempt": job.attempt}
        if job.webhook_progress and time.monotonic() - sent_at > settings.webhook_progress_seconds:
            sent_at = time.monotonic()
            shown = {name: event[name] for name in ("percent", "phase", "step", "steps", "eta_seconds")}
            try:
                webhooks.add_progress(database, job, f"msg_{new_id()}", shown)
            except (Unavailable, StoreFull) as error:
                log.warning("job %s: the progress message for its webhook cannot be stored: %s", job.id, error)
        return progress.report(job.id, event)

    return send
