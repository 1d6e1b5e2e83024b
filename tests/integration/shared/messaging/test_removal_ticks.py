"""Ticks that remove: retention, the audit and the sweep do as much as there is time for, and go on from there."""

import errno
import os
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import event
from sqlmodel import col, select, update

from scheduler import ticks
from shared import clock
from shared.access import audit
from shared.access.audit import Act
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import AuditEntry, Job, WebhookMessage
from shared.errors import StoreUnavailable
from shared.jobs import attempts, ids, records
from shared.jobs.ending import webhooks
from shared.messaging.progress import RestingRedis
from shared.messaging.ticks import once
from shared.settings import Settings
from shared.storage.store import Store, open_store
from shared.telemetry.metrics import REMOVAL_ERRORS, Meters
from tests.conftest import both_databases
from tests.support.jobs import accepted, claimed
from tests.support.servers.s3_server import S3Server, in_bucket

HOOK = "https://hooks.example/x"


def batches(count: int) -> Callable[[], bool]:
    """Time for so many batches."""
    left = iter([True] * count)
    return lambda: next(left, False)


@pytest.fixture(params=["directory", "bucket"])
def store(request: pytest.FixtureRequest, settings: Settings, database: Database) -> Store:
    if request.param == "bucket":
        server: S3Server = request.getfixturevalue("s3_server")
        settings = in_bucket(settings, server.url)
    return open_store(settings, lambda: nodes.agreed(database, "store"), create=True)


@pytest.fixture
def directory(settings: Settings, database: Database) -> Store:
    return open_store(settings, lambda: nodes.agreed(database, "store"), create=True)


def ended(database: Database, store: Store, count: int, days: float = 31) -> list[str]:
    """Jobs that ended so long ago, with a file each."""
    made = []
    for _ in range(count):
        job = accepted(database)
        claimed(database, job.id)
        (store.attempt_dir(job.id, 1) / "video.mp4").write_bytes(b"x")
        store.keep(job.id, 1, ["video.mp4"], lambda: None, lambda: None)
        attempts.succeed(database, job.id, 1, {})
        made.append(job.id)
    with database.write() as session:
        query = update(Job).where(col(Job.id).in_(made)).values(finished_at=clock.now() - timedelta(days=days))
        session.connection().execute(query)
    return made


def rows(database: Database) -> set[str]:
    with database.read() as session:
        return set(session.exec(select(Job.id)))


# --- retention


def test_retention_does_as_much_as_there_is_time_for(
    database: Database, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticks, "_DROPPED_AT_ONCE", 2)
    old = ended(database, store, 5)
    assert ticks.apply_retention(database, store, timedelta(days=30), batches(2)) == "4 jobs removed"
    assert len(rows(database)) == 1
    assert ticks.apply_retention(database, store, timedelta(days=30), batches(2)) == "1 jobs removed"
    assert [store.attempts(job_id) for job_id in old] == [[]] * 5


def test_a_job_whose_files_stay_keeps_its_row_and_holds_up_no_other(
    database: Database, directory: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ticks, "_DROPPED_AT_ONCE", 1)
    stuck = ended(database, directory, 3)[0]
    meters = Meters(RestingRedis(None))
    with refusing(stuck):
        said = ticks.apply_retention(database, directory, timedelta(days=30), meters=meters)
        assert said == "2 jobs removed, 1 kept because of files that cannot be removed"
    assert rows(database) == {stuck}
    assert stuck in caplog.text
    assert meters._counts[(REMOVAL_ERRORS.name, "total")] == 1.0
    assert ticks.apply_retention(database, directory, timedelta(days=30)) == "1 jobs removed"
    assert directory.attempts(stuck) == []


def test_nothing_is_purged_where_the_store_is_not_mounted(
    database: Database, directory: Store, settings: Settings
) -> None:
    (old,) = ended(database, directory, 1)
    away = settings.store_dir.rename(settings.home / "away")
    settings.store_dir.mkdir()
    with pytest.raises(StoreUnavailable):
        ticks.apply_retention(database, directory, timedelta(days=30))
    assert rows(database) == {old}
    settings.store_dir.rmdir()
    away.rename(settings.store_dir)
    assert ticks.apply_retention(database, directory, timedelta(days=30)) == "1 jobs removed"


@pytest.fixture
def gone_and_there(database: Database) -> tuple[str, str]:
    """A message of a job that was deleted right after its end, and one of a job that is there."""
    for _ in range(2):
        records.request_cancel(database, accepted(database, webhook_url=HOOK).id)
    there, gone = webhooks.page(database, limit=10, after=None).messages
    records.purge(database, [gone.job_id])
    return gone.id, there.id


def found(database: Database) -> set[str]:
    return {one.id for one in webhooks.page(database, limit=100, after=None).messages}


@both_databases
def test_the_message_of_a_job_that_is_gone_is_sent_and_then_removed(
    database: Database, gone_and_there: tuple[str, str]
) -> None:
    gone, there = gone_and_there
    assert ticks.drop_messages(database) == 0, "it still waits to be sent"
    taken = webhooks.take_due(database, 60.0)
    assert {one.id for one in taken} == {gone, there}
    for message in taken:
        webhooks.delivered(database, message, clock.now())
    assert ticks.drop_messages(database) == 1
    assert found(database) == {there}


@both_databases
def test_a_dead_message_of_a_job_that_is_gone_is_removed(database: Database, gone_and_there: tuple[str, str]) -> None:
    for message in webhooks.take_due(database, 60.0):
        webhooks.failed(database, message, "gone", None)
    assert ticks.drop_messages(database) == 1
    assert found(database) == {gone_and_there[1]}


def test_messages_are_gone_through_in_pages_and_from_tick_to_tick(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.write() as session:
        session.add_all(
            WebhookMessage(
                id=f"msg_{ids.new_id()}", job_id=ids.new_id(), type="job.succeeded", url=HOOK, data={},
                state="delivered", created_at=clock.now(),
            )
            for _ in range(2500)
        )  # fmt: skip
    assert ticks.drop_messages(database, batches(1)) == 1000
    assert ticks.drop_messages(database, batches(1)) == 1000
    assert ticks.drop_messages(database, batches(5)) == 500
    assert found(database) == set()


# --- the audit


def entries(database: Database, count: int, days: float) -> None:
    moment = clock.now() - timedelta(days=days)
    milliseconds = int(moment.timestamp() * 1000)
    with database.write() as session:
        session.add_all(
            AuditEntry(
                id=f"{milliseconds:012x}"[:8] + "-" + f"{milliseconds:012x}"[8:] + f"-7{place:03x}-8000-{place:012x}",
                at=moment, actor="somebody", act="x", subject="y", outcome=200, detail={},
            )
            for place in range(count)
        )  # fmt: skip


@both_databases
def test_old_audit_entries_are_removed_in_batches(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    entries(database, 2500, days=366)
    entries(database, 3, days=364)
    audit.record(database, Act("y", "now", 200))
    assert ticks.drop_audit(database, timedelta(days=365), batches(2)) == 2000
    assert ticks.drop_audit(database, timedelta(days=365)) == 500
    assert ticks.drop_audit(database, timedelta(days=365)) == 0
    assert len(audit.page(database, limit=10).entries) == 4


def test_entries_of_one_actor_are_found_by_the_index(database: Database) -> None:
    entries(database, 100, days=1)
    asked: list[tuple[str, object]] = []
    with database.engine.connect() as connection:
        event.listen(database.engine, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
        audit.page(database, limit=20, actor="somebody")
        audit.page(database, limit=20, actor="somebody", after="x")
        audit.drop_older(database, clock.now())
        plans = [
            [str(row[-1]) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)]
            for statement, given in [one for one in asked if "audit_entries" in one[0]]
        ]
    assert len(plans) == 3
    for plan in plans[:2]:
        assert [line for line in plan if "ix_audit_entries_actor" in line], plan
    for plan in plans:
        assert not [line for line in plan if line.startswith("SCAN") or "TEMP B-TREE" in line], plan


# --- the sweep


def orphans(store: Store, count: int) -> list[str]:
    made = sorted(ids.new_id() for _ in range(count))
    for job_id in made:
        store.put_input(job_id, "image.png", b"x")
    return made


def test_the_sweep_goes_on_where_it_was(database: Database, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticks, "_CHECKED_AT_ONCE", 4)
    made = orphans(store, 10)
    for left in (made[4:], made[8:], []):
        ticks.sweep(database, store, -5.0, batches(1))
        assert [one.job_id for one in store.orphaned_files(-5.0)] == left
    (late,) = orphans(store, 1)
    assert ticks.sweep(database, store, -5.0).startswith("1 orphaned"), "it begins anew once it was at the end"
    assert late not in [one.job_id for one in store.orphaned_files(-5.0)]


def test_what_stays_does_not_hide_what_lies_behind_it_from_the_sweep(
    database: Database, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store holds more of jobs that are there than one tick has time for."""
    monkeypatch.setattr(ticks, "_CHECKED_AT_ONCE", 4)
    for _ in range(8):
        store.put_input(accepted(database).id, "image.png", b"x")
    (orphan,) = orphans(store, 1)
    for _ in range(3):
        assert orphan in [one.job_id for one in store.orphaned_files(-5.0)]
        ticks.sweep(database, store, -5.0, batches(1))
    assert [one.job_id for one in store.orphaned_files(-5.0, orphan[:-1])] == []


def test_a_sweep_of_a_store_that_is_not_mounted_fails_and_forgets_nothing(
    database: Database, directory: Store, settings: Settings
) -> None:
    nodes.note(database, "swept_until", "so far")
    settings.store_dir.rename(settings.home / "away")
    settings.store_dir.mkdir()
    with pytest.raises(StoreUnavailable):
        ticks.sweep(database, directory)
    assert nodes.noted(database, "swept_until") == "so far"


def test_what_the_sweep_cannot_remove_holds_up_nothing(
    database: Database, directory: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticks, "_CHECKED_AT_ONCE", 2)
    made = orphans(directory, 5)
    with refusing(made[0]):
        assert ticks.sweep(database, directory, -5.0).startswith("4 orphaned folders")
    assert [one.job_id for one in directory.orphaned_files(-5.0)] == made[:1]
    assert ticks.sweep(database, directory, -5.0).startswith("1 orphaned folders")


@pytest.mark.slow
def test_sixty_thousand_orphaned_folders(database: Database, directory: Store, settings: Settings) -> None:
    """More than one tick has time for: each goes on where the one before stopped, until nothing is left."""
    inputs = settings.store_dir / "inputs"
    for _ in range(60_000):
        folder = inputs / ids.new_id()
        folder.mkdir()
        (folder / "image.png").write_bytes(b"x")
    for tick in range(100):
        outcome = once(
            database, "sweep", 1.0, float(tick), lambda run: ticks.sweep(database, directory, -5.0, run.has_time),
            budget_seconds=2.0,
        )  # fmt: skip
        assert outcome is not None
        if not any(inputs.iterdir()):
            break
    assert list(inputs.iterdir()) == []
    assert tick > 0, "it did not take more than one tick"


class refusing:
    """Lets nobody remove the files of that job, as an NFS server does whose export is read-only there."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._patched = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        unlink = os.unlink

        def refuse(path: str, *, dir_fd: int | None = None) -> None:
            place = os.readlink(f"/proc/self/fd/{dir_fd}") if dir_fd is not None else str(path)
            if self._job_id in place:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
            unlink(path, dir_fd=dir_fd)

        self._patched.setattr(os, "unlink", refuse)

    def __exit__(self, *_: object) -> None:
        self._patched.undo()
