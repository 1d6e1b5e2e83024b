"""A request for several jobs against another writer, at every point where they can meet."""

from dataclasses import replace
from typing import Any

from sqlmodel import col, select

from shared.database.engine import Database
from shared.database.tables import Batch, Job
from shared.errors import InvalidField
from shared.jobs import accepting, batches, bulk, ids
from shared.jobs.accepting import NewJob
from shared.jobs.batches import Accepted, NewBatch
from shared.jobs.bulk import Selection, Tally
from shared.states import JobState
from tests.conftest import both_databases
from tests.integration.shared.jobs.races.racing import is_error
from tests.support.interleaving import interleavings
from tests.support.jobs import new_job

pytestmark = both_databases


def several(key: str | None, count: int = 3) -> list[NewJob]:
    """Return jobs as admitted for a request with `count`: the first carries the idempotency key."""
    first, *rest = (new_job(id=job_id) for job_id in ids.new_ids(count))
    return [replace(first, idempotency_key=key, request_hash="body" if key else None), *rest]


def accept(database: Database, jobs: list[NewJob]) -> Accepted:
    return batches.accept(database, NewBatch(ids.new_id()), jobs)


def jobs_of(database: Database, key: str) -> list[Job]:
    """Return all jobs of the batch whose first job has that key."""
    with database.read() as session:
        first = session.exec(select(Job).where(Job.idempotency_key == key)).one()
        query = select(Job).where(Job.batch_id == first.batch_id).order_by(col(Job.id))
        return list(session.exec(query)) if first.batch_id else [first]


def count_of(database: Database, table: Any) -> int:
    with database.read() as session:
        return len(session.exec(select(table)).all())


def test_two_requests_with_one_key(database: Database) -> None:
    met = 0
    for place, both in interleavings(database, lambda: _pair(database, ids.new_id())):
        met += 1
        assert not is_error(both.first)
        assert not is_error(both.second)
        assert sorted((both.first.replayed, both.second.replayed)) == [False, True], place
        assert both.first.batch.id == both.second.batch.id
        assert both.first.first_id == both.second.first_id
    assert met > 2
    # At the place after the last one the writers have not met, but have run.
    assert count_of(database, Job) == 3 * count_of(database, Batch)


def _pair(database: Database, key: str) -> Any:
    return (lambda: accept(database, several(key)), lambda: accept(database, several(key)))


def test_a_request_for_several_and_one_for_a_single_job_with_one_key(database: Database) -> None:
    for turned in (False, True):

        def make(turned: bool = turned) -> Any:
            name = ids.new_id()
            alone = replace(new_job(), idempotency_key=name, request_hash="other body")
            pair = (lambda: accept(database, several(name)), lambda: accepting.accept(database, [alone])[0])
            return (pair[1], pair[0]) if turned else pair

        for place, both in interleavings(database, make):
            results = [both.first, both.second]
            refused = [one for one in results if isinstance(one, InvalidField)]
            assert len(refused) == 1, (place, results)
            assert "another body" in refused[0].errors[0].msg


def test_a_cancel_of_everything_meets_all_jobs_or_none(database: Database) -> None:
    """An action on many jobs reads ids first. The jobs of one request appear to it together."""
    which = Selection(status=JobState.QUEUED)

    def cancel() -> list[str]:
        if found := _queued(database):
            bulk.act(database, "cancel", which, found, Tally(len(found)))
        return found

    for turned in (False, True):

        def make(turned: bool = turned) -> Any:
            jobs = several(None)
            pair = (lambda: accept(database, jobs), cancel)
            return (pair[1], pair[0]) if turned else pair

        for place, both in interleavings(database, make):
            done, found = (both.second, both.first) if turned else (both.first, both.second)
            assert not is_error(done)
            assert not is_error(found)
            mine = [member.id for member in batches.members(database, done.batch.id)]
            cancelled = set(mine) & set(found)
            assert cancelled in (set(), set(mine)), place
            batch = batches.get(database, done.batch.id)
            assert (batch.cancelled, batch.unended) == ((3, 0) if cancelled else (0, 3))
            assert (batch.finished_at is not None) == bool(cancelled)


def test_a_cancel_of_the_batch_before_the_repetition_of_its_request(database: Database) -> None:
    """A repeated request gets its batch back as it is, and starts nothing anew."""
    for place, both in interleavings(database, lambda: _again(database, ids.new_id())):
        assert not is_error(both.first)
        assert not is_error(both.second)
        batch, stopped = both.first
        assert len(stopped) == 3, place
        assert (both.second.replayed, both.second.batch.id) == (True, batch.id)
        assert {member.status for member in batches.members(database, batch.id)} == {JobState.CANCELLED}


def _again(database: Database, key: str) -> Any:
    done = accept(database, several(key))
    return (lambda: batches.cancel(database, done.batch.id), lambda: accept(database, several(key)))


def _queued(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.exec(select(Job.id).where(Job.status == JobState.QUEUED).order_by(col(Job.id))))
