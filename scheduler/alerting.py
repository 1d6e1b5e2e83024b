"""Asks the alert rules, writes what changes, and tells the webhook.

The dispatcher's process does it in a thread and beat's ticks do it too: whichever of them is silent, the other says so.
Each period is one tick, so it happens once.
"""

import json
import logging
import threading
import time
from datetime import datetime, timedelta
from functools import partial

from scheduler.alert_facts import ALERTS, Ground, gather
from scheduler.alert_rules import evaluate
from shared import alerts, catalogue, clock, library, standard_webhooks
from shared.database import Database
from shared.errors import StoreFull, Unavailable
from shared.library import UseFigures, stored_progress
from shared.outbound import ANYWHERE
from shared.progress import RestingRedis, tell_watchers
from shared.settings import Settings
from shared.standard_webhooks import NotTaken
from shared.ticks import once

log = logging.getLogger("wanworks.alerts")

_DELIVERING_SECONDS = 10.0  # of one look: what is left is sent at the next


class AlertWatch(threading.Thread):
    """One look after the other until `stopping` is set. Survives a missing database and a missing Redis."""

    def __init__(self, settings: Settings, stopping: threading.Event) -> None:
        super().__init__(name="alerts", daemon=True)
        self._settings = settings
        self._stopping = stopping

    def run(self) -> None:
        ground = ground_of(self._settings)
        while not self._stopping.wait(self._settings.alert_seconds):
            try:
                look_once(ground)
            except (Unavailable, StoreFull) as error:
                log.warning("database: %s", error)
            except Exception:
                log.exception("the alert rules could not be asked")
        ground.database.close()


def ground_of(settings: Settings) -> Ground:
    database = Database(settings.database)
    redis = RestingRedis(settings.redis)
    models = catalogue.load(settings.catalogue)
    figures = UseFigures(models, database)
    look = partial(library.look, settings, models, database, stored_progress, figures)
    return Ground(settings, models, database, redis, look, clock.now())


def look_once(ground: Ground) -> str | None:
    """None where the present tick was taken. Raises DatabaseUnavailable and StoreFull."""
    now = clock.now()
    return once(ground.database, ALERTS, ground.settings.alert_seconds, now.timestamp(), lambda: look(ground, now))


def look(ground: Ground, now: datetime) -> str:
    """One look: what it changed, in words."""
    settings, database = ground.settings, ground.database
    changes = evaluate(gather(ground, now), settings, alerts.known(database), now)
    touched = alerts.apply(database, changes, now, deliver=settings.alert_webhook_url is not None)
    for alert in touched:
        word = "resolved" if alert.resolved_at is not None else "opened"
        log.warning("alert %s (%s): %s", word, alert.rule, alert.title)
    if touched:
        tell_watchers(ground.redis, "alert")
    alerts.drop_older(database, now)
    sent = _deliver(settings, database)
    return f"{len(changes.opened)} opened, {len(changes.resolved)} resolved, {sent} messages sent"


def _deliver(settings: Settings, database: Database) -> int:
    url, secret = settings.alert_webhook_url, settings.alert_webhook_secret
    if url is None or secret is None:
        return 0
    sent = 0
    until = time.monotonic() + _DELIVERING_SECONDS
    for delivery, alert in alerts.due_deliveries(database, clock.now()):
        now = clock.now()
        content = {"type": delivery.event, "timestamp": clock.iso(now), "data": alerts.as_dict(alert)}
        try:
            body = json.dumps(content, separators=(",", ":")).encode()
            standard_webhooks.send(url, secret.get_secret_value(), delivery.id, body, now, ANYWHERE)
        except NotTaken as error:
            wait = standard_webhooks.wait_after(delivery.tries + 1)
            again = now + timedelta(seconds=wait) if wait is not None and error.again else None
            log.warning("the alert webhook %s%s", error.message, "" if again else "; the message is given up")
            alerts.not_delivered(database, delivery.id, error.message, again)
        else:
            alerts.delivered(database, delivery.id, now)
            sent += 1
        if time.monotonic() > until:
            break
    return sent
