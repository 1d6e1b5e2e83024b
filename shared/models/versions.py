"""The newest commit of each model, as the hub last said. Sole reader and writer of `model_versions`."""

from datetime import datetime, timedelta

from sqlmodel import select

from shared.database.engine import Database, hold
from shared.database.tables import ModelVersion

_BACKOFF = timedelta(hours=1)
_MOST_BACKOFF = timedelta(days=1)


def latest(database: Database) -> dict[str, ModelVersion]:
    """By model id."""
    with database.read() as session:
        return {row.model_id: row for row in session.exec(select(ModelVersion))}


def is_due(database: Database, model_id: str, now: datetime) -> bool:
    """Whether the hub may be asked again: after n failures in a row not within 2^(n-1) hours, a day at most."""
    with database.read() as session:
        row = session.get(ModelVersion, model_id)
    if row is None or row.failures == 0:
        return True
    wait: timedelta = min(_BACKOFF * (1 << min(row.failures - 1, 10)), _MOST_BACKOFF)
    return now - row.asked_at >= wait


def record(database: Database, model_id: str, sha: str | None, now: datetime) -> None:
    """What the hub answered; None: it did not."""
    with database.write() as session:
        hold(session, f"version of {model_id}")
        row = session.get(ModelVersion, model_id) or ModelVersion(model_id=model_id, asked_at=now)
        row.asked_at = now
        row.failures = 0 if sha is not None else row.failures + 1
        if sha is not None:
            row.latest, row.answered_at = sha, now
        session.add(row)
