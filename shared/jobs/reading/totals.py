"""How many jobs there are by state, from a table of any size: counted in the index of kinds, without reading rows."""

from typing import Any

from sqlalchemy import func
from sqlmodel import col, select

from shared.database.engine import Database
from shared.database.tables import Job
from shared.states import JobState


def by_state(
    database: Database, *, only: str | None = None, type: str | None = None, model_id: str | None = None
) -> dict[JobState, int]:
    """Return the number of jobs in each state. `only` as in `records.get`."""
    where: list[Any] = [] if only is None else [col(Job.owner) == only]
    where += [] if type is None else [col(Job.type) == type]
    where += [] if model_id is None else [col(Job.model_id) == model_id]
    # Which jobs are deleted stands in no index of kinds, but the few that are have an index of their own.
    every: Any = select(Job.status, func.count()).where(*where).group_by(col(Job.status))
    deleted: Any = select(Job.status, func.count()).where(*where, col(Job.deleted).is_(True)).group_by(col(Job.status))
    with database.read(snapshot=True) as session:
        counts = {row[0]: row[1] for row in session.connection().execute(every)}
        for status, count in session.connection().execute(deleted):
            counts[status] -= count
    return {state: counts.get(state, 0) for state in JobState}
