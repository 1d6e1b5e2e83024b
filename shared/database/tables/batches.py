"""Batches: jobs that were submitted together and end together."""

from datetime import datetime

from sqlalchemy import Index, text
from sqlmodel import Field, SQLModel

_OWNED = text("owner IS NOT NULL")
_OPEN = text("finished_at IS NULL")


class Batch(SQLModel, table=True):
    """One batch. Written by `shared/jobs/batches.py` and, when its jobs end, by `shared/jobs/ending/batch_ends.py`."""

    __tablename__ = "batches"
    __table_args__ = (
        Index("ix_batches_owner", "owner", "id", sqlite_where=_OWNED, postgresql_where=_OWNED),
        # The batches that have not ended.
        Index("ix_batches_open", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
    )

    id: str = Field(primary_key=True, max_length=36)  # a UUIDv7: sorts by creation
    owner: str | None = Field(default=None, max_length=64)  # id of the API key that submitted it
    name: str = Field(default="", max_length=200)
    webhook_url: str | None = Field(default=None, max_length=2000)  # receives one message at the end
    idempotency_key: str | None = Field(default=None, max_length=255, unique=True)
    request_hash: str | None = Field(default=None, max_length=64)
    created_at: datetime
    cancel_at: datetime | None = None  # when cancelling was first requested
    finished_at: datetime | None = None  # when its last job ended
    total: int
    # Changed in the transaction that ends a job, so they are right whatever has been deleted since.
    unended: int
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
