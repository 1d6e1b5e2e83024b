"""A database of which commits get no answer, and what its rows say afterwards."""

import sqlite3
from typing import Any, Literal

from sqlmodel import select

from shared.database.engine import Database
from shared.database.tables import Job
from tests.support.servers.commit_cutter import CommitCutter

When = Literal["before", "after"]


class Losing:
    """A database of which the next commits get no answer."""

    def __init__(self, database: Database, cutter: CommitCutter | None) -> None:
        self.database = database
        self._cutter = cutter
        self._commit = database.engine.dialect.do_commit
        self._left: list[When] = []
        self.lost = 0
        if cutter is None:
            database.engine.dialect.do_commit = self._do_commit  # type: ignore[method-assign]

    def lose(self, count: int, when: When) -> None:
        if self._cutter is not None:
            self._cutter.cut_next(count, when)
        self._left += [when] * count

    def count(self) -> int:
        return self._cutter.cuts if self._cutter is not None else self.lost

    def _do_commit(self, connection: Any) -> None:
        when = self._left.pop(0) if self._left else None
        if when is None:
            return self._commit(connection)
        self.lost += 1
        if when == "after":
            self._commit(connection)
        raise sqlite3.OperationalError("disk I/O error")


def rows(database: Database, table: Any) -> list[Any]:
    with database.read() as session:
        return list(session.exec(select(table)))


def row(database: Database, job_id: str) -> Job:
    with database.read() as session:
        job = session.get(Job, job_id)
        assert job is not None
        return job
