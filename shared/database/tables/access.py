"""API keys and the audit."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Index, text
from sqlmodel import Field, SQLModel

_LIVE = text("revoked_at IS NULL")


class ApiKey(SQLModel, table=True):
    """One API key; only its hash is stored. Written by `shared/access/keys.py` alone; never deleted.

    `shared/jobs/claims/running_limits.py` reads how many jobs may run at once, in the transaction that claims one;
    `shared/jobs/lines/windows.py` reads the window.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        # The name of a revoked key may be used again.
        Index("ix_api_keys_name", "name", unique=True, sqlite_where=_LIVE, postgresql_where=_LIVE),
    )

    id: str = Field(primary_key=True, max_length=36)  # a UUIDv7; the owner in other rows
    name: str = Field(max_length=64)
    hash: str = Field(max_length=64, unique=True)  # SHA-256 of the whole key, which has 256 random bits
    hint: str = Field(max_length=16)  # its first characters, to distinguish keys
    scopes: list[str] = Field(sa_column=Column(JSON, nullable=False))  # of submit, read, admin
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    used_at: datetime | None = None  # accurate to the minute
    requests_per_minute: int | None = None
    queued_jobs: int | None = None
    gpu_seconds_per_day: float | None = None
    priority_ceiling: str | None = Field(default=None, max_length=16)  # the highest priority of its jobs
    running_jobs: int | None = None  # on devices at once
    gpu_seconds_per_month: float | None = None
    models: list[str] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=True))
    max_resolution: str | None = Field(default=None, max_length=16)  # as WIDTHxHEIGHT; its videos have no more pixels
    max_frames: int | None = None
    # When its jobs of low priority start, as `shared/daily_window.py` reads it; it replaces the installation's window.
    low_priority_window: str | None = Field(default=None, max_length=80)


class AuditEntry(SQLModel, table=True):
    """One administrative operation, performed or refused. Written by `shared/access/audit.py` alone."""

    __tablename__ = "audit_entries"
    __table_args__ = (Index("ix_audit_entries_actor", "actor", "id"),)

    id: str = Field(primary_key=True, max_length=36)  # a UUIDv7
    at: datetime
    actor: str = Field(max_length=64)  # the key's name; "local" if no key was required; "cli" for commands on the host
    key_id: str | None = Field(default=None, max_length=36)
    act: str = Field(max_length=64)  # operation id of the API, or an event such as key.created
    subject: str = Field(max_length=200)  # the path, or the name of the changed object
    outcome: int  # HTTP status of the response
    detail: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    request_id: str | None = Field(default=None, max_length=64)
    address: str | None = Field(default=None, max_length=64)  # of the client
