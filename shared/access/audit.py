"""The audit of administrative operations. Sole reader and writer of the `audit_entries` table.

A row is written once, never changed, and removed when it is older than `audit_days`. It contains no body, prompt, key
or secret.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import delete
from sqlmodel import col, select

from shared import clock
from shared.database.engine import Database, settled
from shared.database.tables import AuditEntry
from shared.jobs.ids import new_id

LOCAL = "local"  # the actor where the API is open to its own host and requires no key
ON_THE_HOST = "cli"  # the actor of commands on the host, which need no key


@dataclass(frozen=True)
class Act:
    """One operation. `outcome`: the HTTP status of its response; of a command, the corresponding status."""

    act: str
    subject: str
    outcome: int
    actor: str = ON_THE_HOST
    key_id: str | None = None
    request_id: str | None = None
    address: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    entries: list[AuditEntry]
    has_more: bool


def record(database: Database, act: Act) -> AuditEntry:
    """Store an entry. Raises DatabaseUnavailable."""
    row = AuditEntry(
        id=new_id(),
        at=clock.now(),
        actor=act.actor,
        key_id=act.key_id,
        act=act.act,
        subject=_plain(act.subject, 200),
        outcome=act.outcome,
        detail=act.detail,
        request_id=_plain(act.request_id, 64) if act.request_id else None,
        address=_plain(act.address, 64) if act.address else None,
    )
    _store(database, row)
    return row


@settled
def _store(database: Database, row: AuditEntry) -> None:
    with database.write() as session:
        session.merge(row)  # by its id, so that a repetition writes no second entry


def page(database: Database, *, limit: int, after: str | None = None, actor: str | None = None) -> Page:
    """Return entries, newest first, after the one with id `after`."""
    query = select(AuditEntry).order_by(col(AuditEntry.id).desc()).limit(limit + 1)
    if after is not None:
        query = query.where(col(AuditEntry.id) < after)
    if actor is not None:
        query = query.where(AuditEntry.actor == actor)
    with database.read() as session:
        rows = list(session.exec(query))
    return Page(rows[:limit], has_more=len(rows) > limit)


def drop_older(database: Database, before: datetime, limit: int = 1000) -> int:
    """Remove up to `limit` entries from before that time, oldest first. Return how many."""
    oldest = select(AuditEntry.id).where(col(AuditEntry.id) < _first_id(before)).order_by(col(AuditEntry.id))
    with database.write() as session:
        gone = delete(AuditEntry).where(col(AuditEntry.id).in_(oldest.limit(limit)))
        return int(session.connection().execute(gone).rowcount)


def _first_id(moment: datetime) -> str:
    """Return the lowest UUIDv7 of that millisecond. Ids sort by time, so the primary key finds older entries."""
    digits = f"{int(moment.timestamp() * 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000"


def _plain(text: str, most: int) -> str:
    """Return printable text, so that no input can prevent its entry from being stored or shown."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:most])
