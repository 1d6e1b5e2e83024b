"""Alerts and their messages."""

from datetime import datetime

from sqlalchemy import Index, text
from sqlmodel import Field, SQLModel

_OPEN = text("resolved_at IS NULL")


class Alert(SQLModel, table=True):
    """One alert, from its opening until it is kept no longer. Written by `shared/cluster/alerts.py` alone."""

    __tablename__ = "alerts"
    __table_args__ = (
        # At most one open alert of a rule and subject.
        Index(
            "ix_alerts_one_open",
            "rule",
            "subject",
            unique=True,
            sqlite_where=_OPEN,
            postgresql_where=_OPEN,
        ),
        Index("ix_alerts_opened", "opened_at"),
    )

    id: str = Field(primary_key=True, max_length=36)  # a UUIDv7
    rule: str = Field(max_length=64)
    subject: str = Field(max_length=200)  # a model, node, device, job or process; empty: the installation
    severity: str = Field(max_length=16)  # critical, warning or info
    model_id: str | None = Field(default=None, max_length=64)
    title: str = Field(max_length=200)
    message: str = Field(max_length=1000)
    action_required: bool
    suggested_action: str = Field(max_length=500)
    opened_at: datetime
    seen_at: datetime  # when the cause was last observed
    resolved_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = Field(default=None, max_length=64)


class AlertWatch(SQLModel, table=True):
    """A cause that a rule observes, or that has just disappeared. Written by `shared/cluster/alerts.py` alone."""

    __tablename__ = "alert_watches"

    rule: str = Field(primary_key=True, max_length=64)
    subject: str = Field(primary_key=True, max_length=200)
    since: datetime  # observed without interruption since then
    gone_since: datetime | None = None  # of an open alert: not observed since then


class AlertDelivery(SQLModel, table=True):
    """One message about an alert to the webhook. Written by `shared/cluster/alerts.py` alone."""

    __tablename__ = "alert_deliveries"

    id: str = Field(primary_key=True, max_length=64)  # the message's id, the same at each try
    alert_id: str = Field(max_length=36, index=True)
    event: str = Field(max_length=32)  # alert.opened or alert.resolved
    tries: int = 0
    due_at: datetime | None  # next try; None: no further try
    delivered_at: datetime | None = None
    error: str | None = Field(default=None, max_length=200)  # of the last try
