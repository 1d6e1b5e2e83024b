"""Queued jobs of any age, and what a dispatcher has sent of them."""

from typing import Any

from sqlalchemy import update
from sqlmodel import col

from scheduler.dispatcher import Dispatcher
from shared.database.engine import Database
from shared.database.tables import Job
from shared.jobs import accepting
from shared.jobs.attempts import Claimant
from shared.jobs.dispatch import Waiting
from shared.settings import Settings
from tests.support.jobs import new_job

HOUR = 3600.0


def aged(database: Database, seconds: float, *job_ids: str, column: str = "queued_at") -> None:
    """Moves a moment of those jobs into the past."""
    with database.write() as session:
        session.connection().execute(
            update(Job).where(col(Job.id).in_(job_ids)).values({column: getattr(Job, column) - seconds})
        )


def many(database: Database, count: int, **values: Any) -> list[str]:
    made = accepting.accept(database, [new_job(**values) for _ in range(count)])
    return [one.job.id for one in made if isinstance(one, accepting.Accepted)]


class Sent:
    """What a dispatcher has sent, in order."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.jobs: list[tuple[str, str]] = []
        self.dispatcher = Dispatcher(settings, database, self._send)

    def _send(self, job: Waiting, device_key: str, reads: int) -> None:
        self.jobs.append((job.job_id, device_key))


def claimant(index: int) -> Claimant:
    return Claimant("n", f"gpu-{index}@n", f"cpu-{index}", f"n/{index}", pid=100 + index)


WATCHED_AT = "unplaceable_watched_at"
