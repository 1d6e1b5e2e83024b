"""Evaluates the alert rules, writes the changes, and sends them to the alert webhook.

Both a thread of the dispatcher and beat's ticks do it, so that each can report that the other is silent. Each period is
one tick, so it happens once.
"""

import json
import logging
import time
from datetime import datetime, timedelta
from functools import partial

from scheduler.alerts.evaluation import evaluate
from scheduler.alerts.facts import ALERTS, Ground, gather
from shared import clock
from shared.catalogue import models as catalogue
from shared.cluster import alerts
from shared.database.engine import Database
from shared.database.tables import AlertDelivery
from shared.forecast.forecasts import Forecasts
from shared.management import library
from shared.management.library import UseFigures, stored_progress
from shared.messaging.progress import Progress, RestingRedis, publish_change
from shared.messaging.ticks import Run, once
from shared.net import standard_webhooks
from shared.net.outbound import ANYWHERE
from shared.net.standard_webhooks import NotTaken
from shared.settings import Settings
from shared.telemetry.loops import Loop, LoopReporter
from shared.telemetry.metrics import Meters

log = logging.getLogger("wanworks.alerts")

_DELIVERING_SECONDS = 5.0  # in one pass: remaining messages are sent in the next
# How long a pass that has crashed prevents others.
_LEASE_SECONDS = 30.0


class AlertWatch(Loop):
    """Evaluates the rules once in each period."""

    def __init__(self, settings: Settings, meters: Meters, reporter: LoopReporter | None = None) -> None:
        self._ground: Ground | None = None
        self._settings = settings
        super().__init__(
            "alerts",
            settings.alert_seconds,
            self._evaluate,
            meters=meters,
            reporter=reporter,
            first_after_seconds=settings.alert_seconds,
        )

    def _evaluate(self) -> None:
        self._ground = self._ground or ground_of(self._settings)
        run_once(self._ground)


def ground_of(settings: Settings) -> Ground:
    """Return what the rules are evaluated on, opened by these settings."""
    database = Database(settings.database)
    redis = RestingRedis(settings.redis)
    models = catalogue.load(settings.catalogue)
    figures = UseFigures(models, database)
    read_library = partial(library.read, settings, models, database, stored_progress, figures)
    forecasts = Forecasts(database, settings.device_silence_seconds, Progress(redis))
    return Ground(settings, models, database, redis, read_library, forecasts, clock.now())


def run_once(ground: Ground) -> str | None:
    """Run a pass unless this tick has run. Return what it changed; None if it has run.

    Raises DatabaseUnavailable and StoreFull.
    """
    now, every = clock.now(), ground.settings.alert_seconds
    return once(
        ground.database,
        ALERTS,
        every,
        now.timestamp(),
        lambda run: run_pass(ground, now, run),
        lease_seconds=_LEASE_SECONDS,
    )


def run_pass(ground: Ground, now: datetime, run: Run | None = None) -> str:
    """Make one pass. Return a summary of what it changed."""
    settings, database = ground.settings, ground.database
    changes = evaluate(gather(ground, now), settings, alerts.known(database), now)
    touched = alerts.apply(database, changes, now, deliver=settings.alert_webhook_url is not None)
    for alert in touched:
        change = "resolved" if alert.resolved_at is not None else "opened"
        log.warning("alert %s (%s): %s", change, alert.rule, alert.title)
    if touched:
        publish_change(ground.redis, "alert")
    alerts.drop_older(database, now)
    sent = _deliver(settings, database, run)
    return f"{len(changes.opened)} opened, {len(changes.resolved)} resolved, {sent} messages sent"


def _deliver(settings: Settings, database: Database, run: Run | None) -> int:
    url, secret = settings.alert_webhook_url, settings.alert_webhook_secret
    if url is None or secret is None:
        return 0
    sent = 0
    until = time.monotonic() + _DELIVERING_SECONDS
    for delivery, alert in alerts.due_deliveries(database, clock.now()):
        if time.monotonic() > until or not (run is None or run.has_time()):
            break
        now = clock.now()
        content = {"type": delivery.event, "timestamp": clock.iso(now), "data": alerts.as_dict(alert)}
        try:
            body = json.dumps(content, separators=(",", ":")).encode()
            standard_webhooks.send(url, secret.get_secret_value(), delivery.id, body, now, ANYWHERE)
        except NotTaken as error:
            _not_delivered(database, delivery, error.message, now, again=error.again)
        except Exception as error:  # one message that cannot be sent must not prevent the next pass
            log.exception("alert message %s could not be sent", delivery.id)
            _not_delivered(database, delivery, f"could not be sent ({type(error).__name__})", now, again=True)
        else:
            alerts.delivered(database, delivery, now)
            sent += 1
    return sent


def _not_delivered(database: Database, delivery: AlertDelivery, reason: str, now: datetime, *, again: bool) -> None:
    wait = standard_webhooks.wait_after(delivery.tries + 1) if again else None
    log.warning("the alert webhook %s%s", reason, "; the message is dropped" if wait is None else "")
    alerts.not_delivered(database, delivery, reason, now + timedelta(seconds=wait) if wait is not None else None)
