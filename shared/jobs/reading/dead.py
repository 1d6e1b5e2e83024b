"""Dead jobs: those that have failed, may succeed if they are repeated, and have not been retried."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists
from sqlalchemy.orm import aliased
from sqlmodel import col, func, select

from shared.database.engine import Database
from shared.database.tables import Job
from shared.jobs.reading.lists import Page
from shared.states import JobState


@dataclass(frozen=True)
class Filter:
    """Which dead jobs. None and empty: any."""

    type: str | None = None
    model_id: str | None = None
    error_code: str | None = None
    failed_after: datetime | None = None
    failed_before: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def conditions(self, only: str | None) -> list[ColumnElement[bool]]:
        retry = aliased(Job)
        error: Any = col(Job.error)
        found: list[ColumnElement[bool]] = [
            col(Job.status) == JobState.FAILED,
            col(Job.deleted).is_(False),
            error["retryable"].as_boolean().is_(True),
            ~exists().where(col(retry.retry_of) == col(Job.id)),
        ]
        if only is not None:
            found.append(col(Job.owner) == only)
        if self.type is not None:
            found.append(col(Job.type) == self.type)
        if self.model_id is not None:
            found.append(col(Job.model_id) == self.model_id)
        if self.error_code is not None:
            found.append(error["code"].as_string() == self.error_code)
        if self.failed_after is not None:
            found.append(col(Job.finished_at) > self.failed_after)
        if self.failed_before is not None:
            found.append(col(Job.finished_at) < self.failed_before)
        labels: Any = col(Job.labels)
        found += [labels[name].as_string() == value for name, value in self.metadata.items()]
        return found


def page(
    database: Database,
    which: Filter,
    *,
    only: str | None,
    limit: int,
    after: str | None = None,
    oldest_first: bool = False,
) -> Page:
    """Return a page of dead jobs by their creation, newest first by default. `only` as in `records.get`."""
    query = select(Job).where(*which.conditions(only))
    if after is not None:
        query = query.where(col(Job.id) > after if oldest_first else col(Job.id) < after)
    query = query.order_by(col(Job.id).asc() if oldest_first else col(Job.id).desc())
    with database.read() as session:
        found = list(session.exec(query.limit(limit + 1)))
    return Page(found[:limit], has_more=len(found) > limit)


def retries_of(database: Database, job_ids: Collection[str]) -> dict[str, list[str]]:
    """Return the ids of the retries of each of these jobs that has some."""
    query = select(Job.retry_of, Job.id).where(col(Job.retry_of).in_(job_ids), col(Job.deleted).is_(False))
    found: dict[str, list[str]] = {}
    with database.read() as session:
        for job_id, retry in session.exec(query):
            found.setdefault(job_id or "", []).append(retry)
    return found


def count(database: Database, which: Filter, *, only: str | None) -> int:
    """Return the number of dead jobs."""
    with database.read() as session:
        return session.exec(select(func.count()).select_from(Job).where(*which.conditions(only))).one()
