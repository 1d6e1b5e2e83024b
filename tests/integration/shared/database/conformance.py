"""What the code relies on in every database, as a class of tests.

A new kind of database passes it by a subclass that names it; `database_url` in `tests/conftest.py` knows how to make an
empty one. Most other tests run on every kind that `both_databases` lists.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel, col, select, update

from shared import clock
from shared.database.engine import Database, hold
from shared.database.tables import Job, epoch_now
from shared.jobs import attempts, dispatch, records
from tests.support.jobs import CLAIMANT, accepted
from tests.support.jobs import hold as hold_model

_SECONDS = 20.0


def at_once(count: int, action: Callable[[int], Any]) -> list[Any]:
    """Run the action in that many threads, all released at the same moment; its results."""
    barrier = threading.Barrier(count)

    def run(place: int) -> Any:
        barrier.wait(_SECONDS)
        return action(place)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


class DatabaseConformance:
    """The subclass names its kind: ``@pytest.mark.parametrize("database_url", [KIND], indirect=True)``."""

    def test_the_migrations_make_the_tables(self, database: Database) -> None:
        with database.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, SQLModel.metadata) == []

    def test_a_transaction_that_raises_changes_nothing(self, database: Database) -> None:
        job = accepted(database)

        def fail() -> None:
            with database.write() as session:
                session.execute(update(Job).where(col(Job.id) == job.id).values(percent=50.0))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert records.get(database, job.id).percent == 0.0

    def test_concurrent_writers_lose_no_update(self, database: Database) -> None:
        job = accepted(database)

        def add(place: int) -> None:
            for _ in range(10):
                with database.write() as session:
                    row = session.get(Job, job.id, with_for_update=True)
                    assert row is not None
                    row.failures += 1
                    session.add(row)

        at_once(4, add)
        assert records.get(database, job.id).failures == 40

    def test_a_named_lock_is_held_until_the_transaction_ends(self, database: Database) -> None:
        inside, most = 0, 0
        guard = threading.Lock()

        def enter(place: int) -> None:
            nonlocal inside, most
            for _ in range(5):
                with database.write() as session:
                    hold(session, "conformance")
                    with guard:
                        inside += 1
                        most = max(most, inside)
                    session.execute(select(epoch_now()))
                    with guard:
                        inside -= 1

        at_once(4, enter)
        assert most == 1

    def test_a_snapshot_does_not_see_later_commits(self, database: Database) -> None:
        job = accepted(database)
        count = select(sqlalchemy.func.count()).select_from(Job)
        with database.read(snapshot=True) as session:
            assert session.execute(count).scalar_one() == 1
            accepted(database)
            assert session.execute(count).scalar_one() == 1
        assert records.get(database, job.id).id == job.id
        with database.read() as session:
            assert session.execute(count).scalar_one() == 2

    def test_a_key_that_exists_is_refused(self, database: Database) -> None:
        job = accepted(database)
        again = Job(**records.get(database, job.id).model_dump())
        with pytest.raises(IntegrityError), database.write() as session:
            session.add(again)

    def test_moments_keep_their_microseconds_and_are_utc(self, database: Database) -> None:
        job = accepted(database)
        moment = datetime(2026, 2, 28, 23, 59, 59, 123456, tzinfo=UTC)
        with database.write() as session:
            session.execute(update(Job).where(col(Job.id) == job.id).values(finished_at=moment))
        assert records.get(database, job.id).finished_at == moment

    def test_documents_come_back_as_they_were_written(self, database: Database) -> None:
        job = accepted(database)
        document = {"text": 'ä\u2028"\\', "list": [1, 2.5, None, True], "nested": {"": {}}}
        with database.write() as session:
            session.execute(update(Job).where(col(Job.id) == job.id).values(result=document))
        assert records.get(database, job.id).result == document

    def test_the_databases_clock_is_in_seconds_and_does_not_stand_still(self, database: Database) -> None:
        with database.write() as session:
            first = session.execute(select(epoch_now())).scalar_one()
            assert abs(datetime.fromtimestamp(first, UTC) - clock.now()) < timedelta(seconds=60)
            deadline = clock.now() + timedelta(seconds=_SECONDS)
            while session.execute(select(epoch_now())).scalar_one() <= first:
                assert clock.now() < deadline

    def test_one_of_many_claims_wins(self, database: Database) -> None:
        hold_model(database, "T2V-A14B")
        job = accepted(database)
        dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
        won = at_once(8, lambda place: attempts.claim(database, job.id, CLAIMANT, 60))
        assert [one.attempt for one in won if one is not None] == [1]
