"""Every commit in a job's life, carried out and not answered, or answered with an error and not carried out.

Either way the writer settles it by looking at the row: what was asked for happens once, and the caller learns of it.
"""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlmodel import SQLModel

from shared.catalogue.job_types import DOWNLOAD, DownloadParams
from shared.database.engine import Database, is_repetition
from shared.database.tables import Job
from shared.errors import Conflict, DatabaseUnavailable, Fenced, OutcomeUnknown, StoreFull
from shared.jobs import accepting, attempts, records
from shared.jobs.attempts import Failure
from shared.states import JobState, Priority
from tests.conftest import both_databases
from tests.integration.shared.database.losing_commits import Losing, When, row, rows
from tests.integration.shared.database.writes import WRITES, _accept, _ending
from tests.support.jobs import accepted, claimed, new_job
from tests.support.models import library

pytestmark = both_databases


@pytest.mark.parametrize("when", ["after", pytest.param("before", marks=pytest.mark.slow)])
def test_a_commit_without_an_answer_is_settled(losing: Losing, when: When, subtests: pytest.Subtests) -> None:
    for place, (name, make) in enumerate(WRITES.items(), 1):
        with subtests.test(name):
            _empty(losing.database)
            written = make(losing.database)
            losing.lose(1, when)
            outcome = written.write()
            assert losing.count() == place
            written.check(outcome)


def _empty(database: Database) -> None:
    with database.write() as session:
        for table in reversed(SQLModel.metadata.sorted_tables):
            session.connection().execute(table.delete())


def test_a_repetition_that_gets_no_answer_either_is_repeated_too(losing: Losing) -> None:
    written = _ending(JobState.SUCCEEDED)(losing.database)
    losing.lose(2, "before")
    losing.lose(1, "after")
    written.check(written.write())
    assert losing.count() == 3


def test_a_database_that_stays_away_is_said_not_to_be_known(losing: Losing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.database.engine._REPEAT_AFTER_SECONDS", (0.0, 0.0))
    written = _accept(losing.database)
    losing.lose(3, "after")
    with pytest.raises(OutcomeUnknown, match="may have been made or not"):
        written.write()


def test_a_disk_that_is_full_at_the_commit_is_reported_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that nothing was done, so there is nothing to find out."""
    new, dialect = new_job(), database.engine.dialect

    def full(connection: Any) -> None:
        raise dialect.dbapi.OperationalError("database or disk is full")  # type: ignore[union-attr]

    with monkeypatch.context() as patched:
        patched.setattr(dialect, "do_commit", full)
        with pytest.raises(StoreFull):
            accepting.accept(database, [new])
    other = Database(database.url)
    assert [one.job.id for one in accepting.accept(other, [new])] == [new.id], "the lock has been given back"
    assert [job.id for job in rows(database, Job)] == [new.id]
    other.close()


@pytest.mark.parametrize("other", ["given up", "put back", "made by another", "cancelled in the queue"])
def test_an_attempt_does_not_take_anothers_end_for_its_own(database: Database, other: str) -> None:
    """The row names this attempt still, and says what it would not have said."""
    job = claimed(database, accepted(database, max_failures=1 if other == "given up" else 5).id)
    if other == "made by another":
        attempts.succeed(database, job.id, 1, {"seed": 1})
    else:
        attempts.crashed(database, job.id, 1, "went silent", 0.0)
    if other == "cancelled in the queue":
        records.request_cancel(database, job.id)
    ends: list[Callable[[], Any]] = [
        lambda: attempts.succeed(database, job.id, 1, {"seed": 2}),
        lambda: attempts.fail(database, job.id, 1, Failure("x", "why", True)),
        lambda: attempts.cancelled(database, job.id, 1),
    ]
    before = row(database, job.id)
    for end in ends:
        with pytest.raises(Fenced):
            end()
    assert row(database, job.id) == before


def test_a_request_that_was_accepted_is_answered_so(losing: Losing) -> None:
    """Through the thread that commits for the API: no caller gets an error, and nothing is stored twice."""
    import asyncio

    from api.services.group_commit import Commits

    told = threading.Event()
    commits = Commits(losing.database, lambda: None, told.set)
    losing.lose(1, "after")

    async def ask() -> Any:
        return await asyncio.gather(*(commits.add(new_job(priority=Priority.HIGH)) for _ in range(3)))

    done = asyncio.run(ask())
    commits.close()
    assert {one.job.id for one in done} == {job.id for job in rows(losing.database, Job)}
    assert [one.replayed for one in done] == [False] * 3
    assert told.is_set()


def test_a_disk_that_is_full_at_the_repetition_says_nothing_of_the_first_commit(
    losing: Losing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is on disk: an answer that it is not would have its image removed."""
    monkeypatch.setattr("shared.database.engine._REPEAT_AFTER_SECONDS", (0.0, 0.0))
    written = _accept(losing.database)
    losing.lose(1, "after")

    def full(*_: Any) -> Any:
        raise StoreFull()

    known = accepting.room_of
    monkeypatch.setattr(accepting, "room_of", lambda *args: full() if is_repetition() else known(*args))
    with pytest.raises(OutcomeUnknown):
        written.write()
    assert len(rows(losing.database, Job)) == 2


class Together:
    """Commits of which the first batch holds all that is asked."""

    def __init__(self, database: Database) -> None:
        from api.services.group_commit import Commits

        self._commits = Commits(database, lambda: None, lambda: None)

    def add(self, *new: accepting.NewJob) -> list[Any]:
        try:
            return self._commits._commit(new)
        finally:
            self._commits.close()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_that_conflicts_leaves_the_others_of_its_batch_accepted(losing: Losing, place: int) -> None:
    """The retry of a download that is under way, beside generations: each is told what has become of it."""
    database = losing.database
    library.node(database)
    library.download(database)
    again = accepting.NewJob(DOWNLOAD, DownloadParams(model_id="T2V-A14B", node="here"), Priority.NORMAL)
    new = [new_job(), new_job()]
    new.insert(place, again)
    outcome = Together(database).add(*new)
    assert isinstance(outcome.pop(place), Conflict)
    new.pop(place)
    assert [one.job.id for one in outcome] == [job.id for job in new]
    assert {job.id for job in new} < {job.id for job in rows(database, Job)}


def test_one_that_cannot_be_stored_leaves_those_before_it_accepted(
    losing: Losing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch holds a key that somebody else takes, so they are stored one by one; then the disk is full."""
    database = losing.database
    library.node(database)
    library.download(database)
    again = accepting.NewJob(DOWNLOAD, DownloadParams(model_id="T2V-A14B", node="here"), Priority.NORMAL)
    new = [new_job(), again, new_job()]
    accept, calls = accepting._accept, list[int]()

    def until_full(database: Database, some: Any) -> Any:
        calls.append(len(some))
        if len(calls) == 4:
            raise StoreFull()
        return accept(database, some)

    monkeypatch.setattr(accepting, "_accept", until_full)
    first, second, third = Together(database).add(*new)
    assert first.job.id == new[0].id
    assert isinstance(second, Conflict)
    assert isinstance(third, StoreFull)
    assert calls == [3, 1, 1, 1]


@pytest.mark.parametrize("failing", ["the dispatcher cannot be woken", "the queue cannot be counted", "it is away"])
def test_what_fails_after_the_commit_costs_nobody_the_answer(
    database: Database, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    import asyncio

    from api.services.group_commit import Commits
    from shared.jobs.reading import queues

    def fail(*_: Any) -> None:
        raise DatabaseUnavailable() if failing == "it is away" else RuntimeError("can't start new thread")

    woken = failing == "the dispatcher cannot be woken"
    if not woken:
        monkeypatch.setattr(queues, "queued_by_priority", fail)
    commits = Commits(database, lambda: None, fail if woken else lambda: None)

    async def ask() -> list[Any]:
        async with asyncio.timeout(10):
            return [(await commits.add(new_job())).job.id for _ in range(2)]

    try:
        assert asyncio.run(ask()) == sorted(job.id for job in rows(database, Job))
    finally:
        commits.close()
