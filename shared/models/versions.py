"""The newest commit of each model, as last reported by the hub. Sole reader and writer of `model_versions`."""

from datetime import datetime, timedelta

from sqlmodel import select

from shared.database.engine import Database, hold
from shared.database.tables import ModelVersion

_BACKOFF = timedelta(hours=1)
_MOST_BACKOFF = timedelta(days=1)


def latest(database: Database) -> dict[str, ModelVersion]:
    """Return the versions by model id."""
    with database.read() as session:
        return {row.model_id: row for row in session.exec(select(ModelVersion))}


def is_due(database: Database, model_id: str, now: datetime) -> bool:
    """Return whether to ask the hub again: after n failures in a row not within 2^(n-1) hours, at most a day."""
    with database.read() as session:
        row = session.get(ModelVersion, model_id)
    if row is None or row.failures == 0:
        return True
    wait: timedelta = min(_BACKOFF * (1 << min(row.failures - 1, 10)), _MOST_BACKOFF)
    return now - row.asked_at >= wait


def record(database: Database, model_id: str, sha: str | None, now: datetime) -> None:
    """Store the commit that the hub reported. `sha` None: it did not respond."""
    with database.write() as session:
        hold(session, f"version of {model_id}")
        row = session.get(ModelVersion, model_id) or ModelVersion(model_id=model_id, asked_at=now)
        row.asked_at = now
        row.failures = 0 if sha is not None else row.failures + 1
        if sha is not None:
            row.latest, row.answered_at = sha, now
        session.add(row)
