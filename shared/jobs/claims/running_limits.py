"""How many jobs of one key may hold devices at once. The dispatcher plans by it, and the claim's transaction decides.

A job that is only being finished has left its device and does not count. Jobs of nodes do not count either.
"""

from collections.abc import Collection

from sqlalchemy import exists, func
from sqlmodel import Session, col, select

from shared.database.engine import Database, hold
from shared.database.tables import ApiKey, Job
from shared.jobs.finishing import ON_DEVICE
from shared.states import JobState

HAS_LIMIT = exists().where(col(ApiKey.id) == col(Job.owner), col(ApiKey.running_jobs).is_not(None))
"""Whether the owner of the job in the query around it has a limit."""
_LIMITS = select(ApiKey.id, ApiKey.running_jobs).where(col(ApiKey.running_jobs).is_not(None))


def of_owners(database: Database) -> dict[str, int]:
    """Return the limit of each owner that has one."""
    with database.read() as session:
        return {owner: limit for owner, limit in session.exec(_LIMITS) if limit is not None}


def at_limit(database: Database, owners: Collection[str | None]) -> dict[str, int]:
    """Return the limits of those of the owners that run as many jobs as they may now."""
    named = [owner for owner in set(owners) if owner is not None]
    if not named:
        return {}
    with database.read() as session:
        limits = session.exec(_LIMITS.where(col(ApiKey.id).in_(named))).all()
        return {owner: limit for owner, limit in limits if limit is not None and _running(session, owner) >= limit}


def has_room(session: Session, owner: str) -> bool:
    """Return whether the owner may run one more job. No other job of the owner is claimed meanwhile."""
    hold(session, f"runs of {owner}")  # otherwise two claims could count at the same time
    limit = session.exec(select(ApiKey.running_jobs).where(ApiKey.id == owner)).one_or_none()
    return limit is None or _running(session, owner) < limit


def _running(session: Session, owner: str) -> int:
    of_devices = (Job.owner == owner, Job.status == JobState.RUNNING, col(Job.target_node).is_(None), ON_DEVICE)
    return session.exec(select(func.count()).select_from(Job).where(*of_devices)).one()
