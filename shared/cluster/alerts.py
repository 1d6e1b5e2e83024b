"""Alerts, their acknowledgements and their messages to the webhook. Sole reader and writer of their tables.

An alert is opened once for a rule and its subject, stays open while its cause lasts, and is kept after it is resolved.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import delete, func, update
from sqlmodel import Session, col, select

from shared import clock
from shared.database.engine import Database, hold, settled
from shared.database.tables import Alert, AlertDelivery, AlertWatch
from shared.errors import NotFound
from shared.jobs.ids import new_id

Severity = Literal["critical", "warning", "info"]
State = Literal["open", "resolved", "all"]
OPENED, RESOLVED = "alert.opened", "alert.resolved"

_KEPT = timedelta(days=90)
_SHOWN = 500


@dataclass(frozen=True)
class Watch:
    """A cause that was observed in the last pass."""

    rule: str
    subject: str
    since: datetime
    gone_since: datetime | None = None


@dataclass(frozen=True)
class Cause:
    """What a rule currently finds for one subject."""

    rule: str
    subject: str
    severity: Severity
    title: str
    message: str
    suggested_action: str
    action_required: bool
    model_id: str | None = None


@dataclass(frozen=True)
class Changes:
    """The changes of one pass."""

    watches: tuple[Watch, ...] = ()  # all current ones, which replace the earlier ones
    opened: tuple[Cause, ...] = ()
    still: tuple[Cause, ...] = ()  # of open alerts
    resolved: tuple[tuple[str, str], ...] = ()  # (rule, subject)


@dataclass(frozen=True)
class Known:
    """The state after the previous pass."""

    watches: tuple[Watch, ...] = ()
    open: frozenset[tuple[str, str]] = field(default_factory=frozenset)  # (rule, subject)


def known(database: Database) -> Known:
    """Return the state after the previous pass."""
    with database.read() as session:
        watches = tuple(Watch(row.rule, row.subject, row.since, row.gone_since) for row in session.exec(_WATCHES))
        return Known(watches, frozenset((alert.rule, alert.subject) for alert in session.exec(_OPEN)))


def apply(database: Database, changes: Changes, now: datetime, *, deliver: bool) -> list[Alert]:
    """Write the changes in one transaction. Return the opened and resolved alerts.

    `deliver`: also add their messages to the webhook.
    """
    with database.write() as session:
        hold(session, "alerts")
        _keep_watches(session, changes.watches)
        by_cause = {(alert.rule, alert.subject): alert for alert in session.exec(_OPEN)}
        for cause in changes.still:
            if (alert := by_cause.get((cause.rule, cause.subject))) is not None:
                _update(alert, cause, now)
                session.add(alert)
        opened = [_open(cause, now) for cause in changes.opened if (cause.rule, cause.subject) not in by_cause]
        resolved = [by_cause[key] for key in changes.resolved if key in by_cause]
        for alert in resolved:
            alert.resolved_at = now
        session.add_all([*opened, *resolved])
        if deliver:
            session.add_all(_delivery(alert, OPENED, now) for alert in opened)
            session.add_all(_delivery(alert, RESOLVED, now) for alert in resolved)
        session.flush()
        return [*opened, *resolved]


def open_alerts(database: Database) -> list[Alert]:
    """Return the open alerts, most severe first, then newest first."""
    with database.read() as session:
        rank = {"critical": 0, "warning": 1, "info": 2}
        alerts = session.exec(_OPEN.order_by(col(Alert.opened_at).desc())).all()
        return sorted(alerts, key=lambda alert: rank.get(alert.severity, 3))


def open_count(database: Database) -> int:
    with database.read() as session:
        return session.exec(select(func.count()).select_from(Alert).where(col(Alert.resolved_at).is_(None))).one()


def several(database: Database, alert_ids: Sequence[str]) -> list[Alert]:
    with database.read() as session:
        return list(session.exec(select(Alert).where(col(Alert.id).in_(alert_ids))))


def history(
    database: Database, *, state: State = "all", severity: str | None = None, acknowledged: bool | None = None
) -> list[Alert]:
    """Return the newest 500 matching alerts, newest first."""
    query = select(Alert).order_by(col(Alert.opened_at).desc()).limit(_SHOWN)
    if state != "all":
        query = query.where(col(Alert.resolved_at).is_(None) == (state == "open"))
    if severity is not None:
        query = query.where(Alert.severity == severity)
    if acknowledged is not None:
        query = query.where(col(Alert.acknowledged_at).is_not(None) == acknowledged)
    with database.read() as session:
        return list(session.exec(query))


@settled
def acknowledge(database: Database, alert_id: str, by: str | None, now: datetime) -> Alert:
    """Record who has acknowledged the alert. Later acknowledgements change nothing.

    Raises NotFound.
    """
    with database.write() as session:
        alert = session.get(Alert, alert_id)
        if alert is None:
            raise NotFound("alert", alert_id)
        if alert.acknowledged_at is None:
            alert.acknowledged_at = now
            alert.acknowledged_by = by
            session.add(alert)
            session.flush()
        return alert


def drop_older(database: Database, now: datetime) -> int:
    """Remove alerts that were resolved more than 90 days ago. Return how many."""
    old = select(Alert.id).where(col(Alert.resolved_at) < now - _KEPT)
    with database.write() as session:
        session.connection().execute(delete(AlertDelivery).where(col(AlertDelivery.alert_id).in_(old)))
        return session.connection().execute(delete(Alert).where(col(Alert.resolved_at) < now - _KEPT)).rowcount


def as_dict(alert: Alert) -> dict[str, Any]:
    """Return the alert as the API and the webhook show it."""
    return {
        "id": alert.id,
        "severity": alert.severity,
        "model_id": alert.model_id,
        "title": alert.title,
        "message": alert.message,
        "timestamp": clock.iso(alert.opened_at),
        "acknowledged": alert.acknowledged_at is not None,
        "action_required": alert.action_required,
        "suggested_action": alert.suggested_action,
        "rule": alert.rule,
        "subject": alert.subject,
        "last_seen": clock.iso(alert.seen_at),
        "acknowledged_at": clock.iso(alert.acknowledged_at),
        "acknowledged_by": alert.acknowledged_by,
        "resolved_at": clock.iso(alert.resolved_at),
    }


def due_deliveries(database: Database, now: datetime, limit: int = 20) -> list[tuple[AlertDelivery, Alert]]:
    """Return the messages to send now, oldest first."""
    query = (
        select(AlertDelivery, Alert)
        .where(col(AlertDelivery.due_at) <= now, AlertDelivery.alert_id == Alert.id)
        .order_by(col(AlertDelivery.due_at))
        .limit(limit)
    )
    with database.read() as session:
        return [(delivery, alert) for delivery, alert in session.exec(query)]


@settled
def delivered(database: Database, delivery: AlertDelivery, now: datetime) -> None:
    """Record that the message was delivered. Do nothing if the outcome of this try is recorded already."""
    _note(database, delivery, due_at=None, delivered_at=now, error=None)


@settled
def not_delivered(database: Database, delivery: AlertDelivery, error: str, again_at: datetime | None) -> None:
    """Record a failed try. `again_at` None: no further try. Do nothing if its outcome is recorded already."""
    _note(database, delivery, due_at=again_at, delivered_at=None, error=error[:200])


_OPEN = select(Alert).where(col(Alert.resolved_at).is_(None))
_WATCHES = select(AlertWatch)


def _keep_watches(session: Session, watches: Sequence[Watch]) -> None:
    wanted = {(watch.rule, watch.subject): watch for watch in watches}
    for row in session.exec(_WATCHES):
        watch = wanted.pop((row.rule, row.subject), None)
        if watch is None:
            session.delete(row)
        elif (row.since, row.gone_since) != (watch.since, watch.gone_since):
            row.since, row.gone_since = watch.since, watch.gone_since
            session.add(row)
    for watch in wanted.values():
        session.add(AlertWatch(rule=watch.rule, subject=watch.subject, since=watch.since, gone_since=watch.gone_since))


def _open(cause: Cause, now: datetime) -> Alert:
    alert = Alert(
        id=new_id(),
        rule=cause.rule,
        subject=cause.subject,
        severity=cause.severity,
        model_id=cause.model_id,
        title="",
        message="",
        action_required=cause.action_required,
        suggested_action="",
        opened_at=now,
        seen_at=now,
    )
    _update(alert, cause, now)
    return alert


def _update(alert: Alert, cause: Cause, now: datetime) -> None:
    alert.severity = cause.severity
    alert.title = cause.title[:200]
    alert.message = cause.message[:1000]
    alert.suggested_action = cause.suggested_action[:500]
    alert.seen_at = now


def _delivery(alert: Alert, event: str, now: datetime) -> AlertDelivery:
    return AlertDelivery(id=f"msg_{new_id()}", alert_id=alert.id, event=event, due_at=now)


def _note(database: Database, delivery: AlertDelivery, **values: Any) -> None:
    with database.write() as session:
        session.connection().execute(
            update(AlertDelivery)
            .where(col(AlertDelivery.id) == delivery.id, col(AlertDelivery.tries) == delivery.tries)
            .values(tries=delivery.tries + 1, **values)
        )
