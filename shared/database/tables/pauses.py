"""Pauses of the queue or of parts of it."""

from datetime import datetime

from sqlalchemy import Index, text
from sqlmodel import Field, SQLModel

_OPEN = text("ended_at IS NULL")


class Pause(SQLModel, table=True):
    """One pause, running or ended. Written by `shared/jobs/claims/pauses.py` alone."""

    __tablename__ = "pauses"
    __table_args__ = (
        # At most one running pause of the same scope.
        Index("ix_pauses_open", "kind", "value", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_pauses_ended", "ended_at"),
    )

    id: str = Field(primary_key=True, max_length=36)  # a UUIDv7
    kind: str = Field(max_length=16)  # everything, model_id, device, node, key or job_type
    value: str = Field(max_length=96)  # the model's id, the device's key, ...; empty: everything
    reason: str = Field(default="", max_length=500)
    running: str = Field(max_length=8)  # what running jobs do: finish or yield
    created_at: datetime
    created_by: str = Field(max_length=64)  # as in the audit
    until: float | None = None  # ends by itself then; None: until it is resumed
    ended_at: float | None = None
