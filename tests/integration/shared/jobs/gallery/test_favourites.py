"""Favourites and collections keep videos from retention, and leave with their jobs, whatever happens meanwhile."""

import threading
from datetime import timedelta

import pytest
from sqlmodel import SQLModel, select

from scheduler import ticks
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import CollectedVideo, Favourite, Job, Video, VideoLora
from shared.errors import Conflict, NotFound
from shared.jobs import bulk, ids, records
from shared.jobs.bulk import Selection, Tally
from shared.jobs.gallery import collections, favourites
from shared.settings import Settings
from shared.storage.store import Store, open_store
from tests.conftest import both_databases
from tests.support.jobs import accepted
from tests.support.videos import aged, finished, listed

pytestmark = both_databases
MONTH = timedelta(days=30)


@pytest.fixture
def store(settings: Settings, database: Database) -> Store:
    return open_store(settings, lambda: nodes.agreed(database, "store"), create=True)


def rows(database: Database, table: type[SQLModel]) -> int:
    with database.read() as session:
        return len(session.exec(select(table)).all())


def test_what_anybody_has_marked_outlives_retention(database: Database, store: Store) -> None:
    marked, collected, other = (finished(database, owner="me") for _ in range(3))
    favourites.mark(database, "somebody", marked.id)
    boats = collections.create(database, "me", "boats")
    collections.change(database, "me", boats.id, add=[collected.id], only="me")
    for job in (marked, collected, other):
        aged(database, job, 2 * MONTH)
    assert ticks.apply_retention(database, store, MONTH) == "1 jobs removed"
    assert listed(database) == {marked.id, collected.id}
    favourites.unmark(database, "somebody", marked.id)
    collections.remove(database, "me", boats.id)
    assert ticks.apply_retention(database, store, MONTH) == "2 jobs removed"
    assert listed(database) == set()


def test_its_owner_deletes_a_favourite_and_nothing_of_it_stays(database: Database, store: Store) -> None:
    job = finished(database, owner="me")
    favourites.mark(database, "me", job.id, only="me")
    boats = collections.create(database, "me", "boats")
    collections.change(database, "me", boats.id, add=[job.id])
    records.remove(database, job.id, only="me")
    assert [rows(database, table) for table in (Video, VideoLora, Favourite, CollectedVideo)] == [0, 0, 0, 0]
    assert collections.get(database, "me", boats.id).videos == 0
    assert ticks.apply_retention(database, store, MONTH) == "1 jobs removed"


def test_an_action_on_many_jobs_takes_them_from_the_gallery(database: Database) -> None:
    jobs = [finished(database) for _ in range(2)]
    favourites.mark(database, "me", jobs[0].id)
    which = Selection(ids=tuple(job.id for job in jobs), upto=ids.new_id())
    bulk.act(database, "delete", which, [job.id for job in jobs], Tally(2))
    assert rows(database, Favourite) == 0
    assert listed(database) == set()


def test_a_favourite_made_while_retention_looks_is_kept_with_its_files(
    database: Database, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = finished(database)
    aged(database, job, 2 * MONTH)
    find = records.purgeable

    def marked_meanwhile(*args: object) -> list[str]:
        found: list[str] = find(*args)  # type: ignore[arg-type]
        if found:
            favourites.mark(database, "me", job.id)
        return found

    monkeypatch.setattr(records, "purgeable", marked_meanwhile)
    dropped: list[str] = []
    monkeypatch.setattr(type(store), "drop_jobs", lambda _, job_ids: dropped.extend(job_ids) or {})
    assert ticks.apply_retention(database, store, MONTH) == "0 jobs removed"
    assert dropped == []
    assert records.get(database, job.id).id == job.id


def test_a_favourite_waits_for_an_expiry_and_then_finds_no_job(database: Database) -> None:
    job = finished(database)
    refused: list[type[Exception]] = []

    def mark() -> None:
        try:
            favourites.mark(database, "me", job.id)
        except NotFound as error:
            refused.append(type(error))

    marking = threading.Thread(target=mark)
    with database.write() as session:
        row = session.get(Job, job.id, with_for_update=True)
        assert row is not None
        marking.start()
        row.deleted = True
        session.add(row)
    marking.join(20)
    assert refused == [NotFound]
    assert rows(database, Favourite) == 0


def test_an_expiry_waits_for_a_favourite_and_then_keeps_the_job(database: Database) -> None:
    job = finished(database)
    outcome: list[list[str]] = []
    expiring = threading.Thread(target=lambda: outcome.append(records.expire(database, [job.id])))
    with database.write() as session:
        session.get(Job, job.id, with_for_update=True)
        expiring.start()
        session.add(Favourite(holder="me", job_id=job.id, place=1))
    expiring.join(20)
    assert outcome == [[]]
    assert records.get(database, job.id).deleted is False


def test_only_a_finished_video_that_the_holder_sees_can_be_marked(database: Database) -> None:
    queued, other = accepted(database, owner="me"), finished(database, owner="other")
    with pytest.raises(Conflict, match="is queued"):
        favourites.mark(database, "me", queued.id, only="me")
    with pytest.raises(NotFound):
        favourites.mark(database, "me", other.id, only="me")
    boats = collections.create(database, "me", "boats")
    for wrong in (queued, other):
        with pytest.raises((Conflict, NotFound)):
            collections.change(database, "me", boats.id, name="ships", add=[wrong.id], only="me")
    assert collections.get(database, "me", boats.id).collection.name == "boats", "all of a change or nothing"


def test_marks_may_be_repeated(database: Database) -> None:
    job = finished(database)
    boats = collections.create(database, "me", "boats")
    for _ in range(2):
        favourites.mark(database, "me", job.id)
        assert collections.change(database, "me", boats.id, add=[job.id, job.id]).videos == 1
    for _ in range(2):
        favourites.unmark(database, "me", job.id)
        assert collections.change(database, "me", boats.id, remove=[job.id, ids.new_id()]).videos == 0


def test_limits_and_names_of_collections(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    first = collections.create(database, "me", "boats")
    with pytest.raises(Conflict, match="'boats' already"):
        collections.create(database, "me", "boats")
    collections.create(database, "other", "boats")
    second = collections.create(database, "me", "ships")
    with pytest.raises(Conflict, match="'boats' already"):
        collections.change(database, "me", second.id, name="boats")
    assert collections.change(database, "me", first.id, name="boats").collection.name == "boats", "its own name"
    with pytest.raises(NotFound):
        collections.get(database, "other", first.id)
    monkeypatch.setattr(collections, "MOST", 2)
    monkeypatch.setattr(collections, "MOST_VIDEOS", 1)
    with pytest.raises(Conflict, match="the limit"):
        collections.create(database, "me", "rafts")
    collections.change(database, "me", first.id, add=[finished(database).id])
    with pytest.raises(Conflict, match="at most 1 videos"):
        collections.change(database, "me", first.id, add=[finished(database).id])
    assert [(one.collection.name, one.videos) for one in collections.every(database, "me")] == [
        ("boats", 1),
        ("ships", 0),
    ]
    monkeypatch.setattr(favourites, "MOST", 1)
    favourites.mark(database, "me", finished(database).id)
    with pytest.raises(Conflict, match="the limit"):
        favourites.mark(database, "me", finished(database).id)
