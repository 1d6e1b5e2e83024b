"""What was done by those who may do everything. Sole reader and writer of the `audit_entries` table.

A row is written once, never changed, and removed when it is older than `audit_days`. It names acts and subjects; no
body, prompt, key or secret is in it.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import delete
from sqlmodel import col, select

from shared import clock
from shared.database.engine import Database, settled
from shared.database.tables import AuditEntry
from shared.jobs.records import new_id

LOCAL = "local"  # who asked, where the API is open to its own host and asks nobody for a key
ON_THE_HOST = "cli"  # who has the database in their hands needs no key


@dataclass(frozen=True)
class Act:
    """One act. `outcome`: the HTTP status that answered it, or that its like would have answered."""

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
        session.merge(row)  # under its id: a repetition writes no second one


def page(database: Database, *, limit: int, after: str | None = None, actor: str | None = None) -> Page:
    """Newest first, behind the entry of the id `after`."""
    query = select(AuditEntry).order_by(col(AuditEntry.id).desc()).limit(limit + 1)
    if after is not None:
        query = query.where(col(AuditEntry.id) < after)
    if actor is not None:
        query = query.where(AuditEntry.actor == actor)
    with database.read() as session:
        rows = list(session.exec(query))
    return Page(rows[:limit], has_more=len(rows) > limit)


def drop_older(database: Database, before: datetime, limit: int = 1000) -> int:
    """Removes up to `limit` entries from before that moment, oldest first. Returns how many went."""
    oldest = select(AuditEntry.id).where(col(AuditEntry.id) < _first_id(before)).order_by(col(AuditEntry.id))
    with database.write() as session:
        gone = delete(AuditEntry).where(col(AuditEntry.id).in_(oldest.limit(limit)))
        return int(session.connection().execute(gone).rowcount)


def _first_id(moment: datetime) -> str:
    """The lowest UUIDv7 of that millisecond: ids sort by time, so the primary key finds what is older."""
    digits = f"{int(moment.timestamp() * 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000"


def _plain(text: str, most: int) -> str:
    """As it can be stored anywhere and shown on a terminal: whoever acts must not choose to stay unwritten."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:most])
