"""API keys, their scopes and their limits. Only the hash of a key is stored.

Sole reader and writer of the `api_keys` table. Rows of revoked keys are kept, because jobs and the audit name them, and
because an installation that once had a key never becomes open again.
"""

import hashlib
import hmac
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from shared import clock
from shared.database.engine import Database, is_repetition, settled
from shared.database.tables import ApiKey
from shared.errors import Conflict, NotFound
from shared.jobs.ids import new_id
from shared.jobs.lines import windows
from shared.states import Priority, Scope

PREFIX = "wan_"  # so that scanners can find leaked keys
_RANDOM_BYTES = 32
_HINT_LENGTH = 10
_USED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True)
class Limits:
    """The limits of one key. None: unlimited."""

    requests_per_minute: int | None = None
    queued_jobs: int | None = None
    gpu_seconds_per_day: float | None = None  # from midnight to midnight in UTC
    priority_ceiling: Priority | None = None
    running_jobs: int | None = None  # that hold devices at once
    gpu_seconds_per_month: float | None = None  # of the calendar month in UTC
    models: tuple[str, ...] | None = None  # that its generations may use
    max_resolution: str | None = None  # WIDTHxHEIGHT: its videos have at most as many pixels, in either orientation
    max_frames: int | None = None
    low_priority_window: str | None = None  # of its jobs of low priority, in place of the installation's

    @property
    def counts_gpu_seconds(self) -> bool:
        return self.gpu_seconds_per_day is not None or self.gpu_seconds_per_month is not None


def make(
    database: Database, name: str, scopes: Collection[Scope], limits: Limits, expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """Create a key. Return its row, and the key itself, which is not stored.

    Raises Conflict if a key that is not revoked has that name.
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
        **_stored(limits),
    )
    try:
        _store(database, row)
    except IntegrityError:
        raise Conflict(f"There is a key named {name!r} already; revoke it first, or choose another name") from None
    return row, secret


@settled
def _store(database: Database, row: ApiKey) -> None:
    with database.write() as session:
        session.merge(row)  # by its id, so that a repetition creates no second key


def find(database: Database, secret: str) -> ApiKey | None:
    """The key's row, whatever its state; None for one that was never made here."""
    hashed = _hash(secret)
    with database.read() as session:
        row = session.exec(select(ApiKey).where(ApiKey.hash == hashed)).first()
    # The look-up by hash already reveals nothing of the key by its time; this comparison is constant-time as well.
    return row if row is not None and hmac.compare_digest(row.hash, hashed) else None


def get(database: Database, key_id: str) -> ApiKey | None:
    with database.read() as session:
        return session.get(ApiKey, key_id)


def every(database: Database) -> list[ApiKey]:
    """Return all keys, including revoked ones, oldest first."""
    with database.read() as session:
        return list(session.exec(select(ApiKey).order_by(col(ApiKey.id))))


def any_made(database: Database) -> bool:
    """Return whether any key was ever created."""
    with database.read() as session:
        return session.exec(select(func.count()).select_from(ApiKey)).one() > 0


def any_good(database: Database) -> bool:
    """Return whether any key is valid now."""
    return any(is_good(row, clock.now()) for row in every(database))


@settled
def revoke(database: Database, named: str) -> ApiKey:
    """Revoke the key of that name or id. Raises NotFound if there is none that is not revoked."""
    with database.write() as session:
        row = _live(session, named, revoked_too=is_repetition())
        row.revoked_at = row.revoked_at or clock.now()
        session.add(row)
    return row


def note_use(database: Database, row: ApiKey) -> None:
    """Record when the key was used, at most once a minute."""
    now = clock.now()
    if row.used_at is not None and now - row.used_at < _USED_EVERY:
        return
    query = update(ApiKey).where(
        col(ApiKey.id) == row.id, or_(col(ApiKey.used_at).is_(None), col(ApiKey.used_at) < now - _USED_EVERY)
    )
    with database.write() as session:
        session.connection().execute(query.values(used_at=now))


def is_good(row: ApiKey, now: datetime) -> bool:
    """Return whether the key is neither revoked nor expired."""
    return row.revoked_at is None and (row.expires_at is None or now < row.expires_at)


def limits(row: ApiKey) -> Limits:
    return Limits(
        row.requests_per_minute,
        row.queued_jobs,
        row.gpu_seconds_per_day,
        Priority(row.priority_ceiling) if row.priority_ceiling is not None else None,
        row.running_jobs,
        row.gpu_seconds_per_month,
        tuple(row.models) if row.models is not None else None,
        row.max_resolution,
        row.max_frames,
        row.low_priority_window,
    )


@settled
def change_limits(database: Database, named: str, changes: Mapping[str, Any]) -> ApiKey:
    """Change these fields of the limits of the key of that name or id; None removes a limit. Return the key's row.

    Raises NotFound if there is none that is not revoked.
    """
    with database.write() as session:
        if "low_priority_window" in changes:
            windows.change(session)
        row = _live(session, named, revoked_too=False)
        for name, value in _stored(replace(limits(row), **changes)).items():
            setattr(row, name, value)
        session.add(row)
    return row


def _stored(limits: Limits) -> dict[str, Any]:
    """Return the limits as columns."""
    values = {one.name: getattr(limits, one.name) for one in fields(limits)}
    ceiling, models = limits.priority_ceiling, limits.models
    return {
        **values,
        "priority_ceiling": ceiling.value if ceiling is not None else None,
        "models": list(models) if models is not None else None,
    }


def _live(session: Session, named: str, *, revoked_too: bool) -> ApiKey:
    query = select(ApiKey).where(or_(col(ApiKey.name) == named, col(ApiKey.id) == named))
    if not revoked_too:
        query = query.where(col(ApiKey.revoked_at).is_(None))
    # The name of a revoked key may be used again, so the newest key is meant.
    found = session.exec(query.order_by(col(ApiKey.id).desc())).first()
    if found is None:
        raise NotFound("key", named)
    return found


def _hash(secret: str) -> str:
    """Return the SHA-256. A key has 256 random bits, so no slower hash is needed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
