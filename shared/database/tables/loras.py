"""The library of LoRAs."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Index, text
from sqlmodel import Field, SQLModel

_THERE = text("removed_at IS NULL")


class StoredLora(SQLModel, table=True):
    """One LoRA: a file for all experts, or one each for high and low noise. `models/loras/library.py` writes it.

    A file's bytes are in the store under its SHA-256. Rows of removed LoRAs stay until no job needs their files.
    """

    __tablename__ = "loras"
    __table_args__ = (
        Index("ux_loras_name", "name", unique=True, sqlite_where=_THERE, postgresql_where=_THERE),
        Index("ix_loras_removed", "removed_at"),
    )

    id: str = Field(primary_key=True, max_length=36)
    name: str = Field(max_length=128)
    owner: str | None = Field(default=None, max_length=64)  # id of the API key that added it
    description: str = Field(default="", max_length=1000)
    files: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    shared: bool = False  # with every key
    shared_with: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))  # ids of keys
    created_at: datetime
    removed_at: datetime | None = None
