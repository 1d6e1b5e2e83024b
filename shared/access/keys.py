"""API keys: who they are, what they may do, and how much of it. Of a key itself only a hash is kept.

Sole reader and writer of the `api_keys` table. Rows stay when a key is revoked, since jobs and the audit name them, and
because an installation that once had a key is never open again.
"""

import hashlib
import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, or_, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from shared import clock
from shared.database.engine import Database, is_repetition, settled
from shared.database.tables import ApiKey
from shared.errors import Conflict, NotFound
from shared.jobs.records import new_id
from shared.states import Priority, Scope

PREFIX = "wan_"  # so that a key that has leaked is found by whoever scans for them
_RANDOM_BYTES = 32
_HINT_LENGTH = 10
_USED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True)
class Limits:
    """What one key may ask for; None: as much as it likes."""

    requests_per_minute: int | None = None
    queued_jobs: int | None = None
    gpu_seconds_per_day: float | None = None  # from midnight to midnight in UTC
    priority_ceiling: Priority | None = None


def make(
    database: Database, name: str, scopes: Collection[Scope], limits: Limits, expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """A new key's row, and the key itself: the only time that anybody sees it.

    Raises Conflict where a key that is not revoked has that name.
    """
    secret = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    row = ApiKey(
        id=new_id(),
        name=name,
        hash=_hash(secret),
        hint=secret[:_HINT_LENGTH],
        scopes=sorted({scope.value for scope in scopes}),
        created_at=clock.now(),
        expires_at=expires_at,
        requests_per_minute=limits.requests_per_minute,
        queued_jobs=limits.queued_jobs,
        gpu_seconds_per_day=limits.gpu_seconds_per_day,
        priority_ceiling=limits.priority_ceiling.value if limits.priority_ceiling is not None else None,
    )
    try:
        _store(database, row)
    except IntegrityError:
        raise Conflict(f"There is a key named {name!r} already; revoke it first, or choose another name") from None
    return row, secret


@settled
def _store(database: Database, row: ApiKey) -> None:
    with database.write() as session:
        session.merge(row)  # under its id: a repetition makes no second key


def find(database: Database, secret: str) -> ApiKey | None:
    """The key's row, whatever its state; None for one that was never made here."""
    hashed = _hash(secret)
    with database.read() as session:
        row = session.exec(select(ApiKey).where(ApiKey.hash == hashed)).first()
    # The look-up is by a hash, so its time tells nothing of the key; this holds it in constant time all the same.
    return row if row is not None and hmac.compare_digest(row.hash, hashed) else None


def get(database: Database, key_id: str) -> ApiKey | None:
    with database.read() as session:
        return session.get(ApiKey, key_id)


def every(database: Database) -> list[ApiKey]:
    """All keys that were ever made, oldest first."""
    with database.read() as session:
        return list(session.exec(select(ApiKey).order_by(col(ApiKey.id))))


def any_made(database: Database) -> bool:
    """Whether there ever was a key."""
    with database.read() as session:
        return session.exec(select(func.count()).select_from(ApiKey)).one() > 0


def any_good(database: Database) -> bool:
    """Whether there is a key that lets somebody in now."""
    return any(is_good(row, clock.now()) for row in every(database))


@settled
def revoke(database: Database, named: str) -> ApiKey:
    """Takes back the key of that name or id. Raises NotFound where there is none that is still good for anything."""
    with database.write() as session:
        row = _live(session, named, revoked_too=is_repetition())
        row.revoked_at = row.revoked_at or clock.now()
        session.add(row)
    return row


def note_use(database: Database, row: ApiKey) -> None:
    """Writes down that the key was used, to the minute."""
    now = clock.now()
    if row.used_at is not None and now - row.used_at < _USED_EVERY:
        return
    query = update(ApiKey).where(
        col(ApiKey.id) == row.id, or_(col(ApiKey.used_at).is_(None), col(ApiKey.used_at) < now - _USED_EVERY)
    )
    with database.write() as session:
        session.connection().execute(query.values(used_at=now))


def is_good(row: ApiKey, now: datetime) -> bool:
    """Neither revoked nor past its time."""
    return row.revoked_at is None and (row.expires_at is None or now < row.expires_at)


def limits(row: ApiKey) -> Limits:
    return Limits(
        row.requests_per_minute,
        row.queued_jobs,
        row.gpu_seconds_per_day,
        Priority(row.priority_ceiling) if row.priority_ceiling is not None else None,
    )


def _live(session: Session, named: str, *, revoked_too: bool) -> ApiKey:
    query = select(ApiKey).where(or_(col(ApiKey.name) == named, col(ApiKey.id) == named))
    if not revoked_too:
        query = query.where(col(ApiKey.revoked_at).is_(None))
    # A name may be given again once its key is revoked: the newest is meant.
    found = session.exec(query.order_by(col(ApiKey.id).desc())).first()
    if found is None:
        raise NotFound("key", named)
    return found


def _hash(secret: str) -> str:
    """SHA-256: a key has 256 random bits, so nothing slower is needed against guessing."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
