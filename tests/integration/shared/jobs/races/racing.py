"""Two writers of one job, met in both orders."""

from collections.abc import Callable
from typing import Any

from sqlmodel import select

from shared.database.engine import Database
from shared.database.tables import Job, Use
from shared.jobs.attempts import Claimant, Fetched
from tests.support.interleaving import interleavings

Pair = tuple[Callable[[], Any], Callable[[], Any]]
NONE = Fetched()
IO = Claimant("n", "io@n", None, "n/io", pid=1)


def row(database: Database, job_id: str) -> Job:
    with database.read() as session:
        job = session.get(Job, job_id)
        assert job is not None
        return job


def uses(database: Database, job_id: str) -> int:
    with database.read() as session:
        return len(session.exec(select(Use).where(Use.job_id == job_id)).all())


def is_error(result: object, *allowed: type[Exception]) -> bool:
    """Whether a writer raised; anything but what is allowed fails the test."""
    if isinstance(result, Exception) and not isinstance(result, allowed):
        raise result
    return isinstance(result, Exception)


class Race:
    """One pair of writers, met in both orders; `check` looks at the job of each meeting."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.job_id = ""
        self.met = 0

    def run(self, make: Callable[[], Job], one: Callable[[], Any], other: Callable[[], Any]) -> "list[tuple[Any, Any]]":
        found = []
        for turned in (False, True):

            def pair(turned: bool = turned) -> Pair:
                self.job_id = make().id
                return (other, one) if turned else (one, other)

            for _, met in interleavings(self.database, pair):
                found.append(
                    ((met.second, met.first) if turned else (met.first, met.second), row(self.database, self.job_id))
                )
                self.met += 1
        assert self.met >= 2
        return found
