"""Every commit in a job's life, carried out and not answered, or answered with an error and not carried out.

Either way the writer settles it by looking at the row: what was asked for happens once, and the caller learns of it.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlmodel import SQLModel, select

from shared.access import audit, keys
from shared.access.audit import Act
from shared.access.keys import Limits
from shared.catalogue.job_types import DOWNLOAD, DownloadParams
from shared.cluster import nodes
from shared.database.engine import Database, is_repetition
from shared.database.tables import ApiKey, AuditEntry, Job, Use, WebhookMessage
from shared.errors import Conflict, DatabaseUnavailable, Draining, Fenced, OutcomeUnknown, StoreFull
from shared.jobs import attempts, dispatch, download_control, records
from shared.jobs.attempts import Claimant, Failure, Fetched
from shared.models import replica_files
from shared.models.verification import Verdict
from shared.settings import Settings
from shared.states import JobState, Priority, Scope
from tests.conftest import both_databases
from tests.support import library
from tests.support.jobs import CLAIMANT, UNCOUNTED, accepted, claimed, new_job
from tests.support.servers.commit_cutter import CommitCutter
from workers.attempts.heartbeat import Heartbeat
from workers.attempts.runner import Runner

pytestmark = both_databases

When = Literal["before", "after"]
IO = Claimant("here", "io@here", None, "here/io", pid=7)
WEBHOOK = "http://198.51.100.7/told"


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


@pytest.fixture
def losing(database: Database) -> Iterator[Losing]:
    """The test's database; on PostgreSQL behind a proxy that cuts the line."""
    if database.is_sqlite:
        yield Losing(database, None)
        return
    url = urlsplit(database.url)
    folder = parse_qs(url.query)["host"][0]
    cutter = CommitCutter(str(next(Path(folder).glob(".s.PGSQL.*[0-9]")))).start()
    behind = Database(cutter.url(url.path.lstrip("/")))
    yield Losing(behind, cutter)
    behind.close()
    cutter.stop()


def rows(database: Database, table: Any) -> list[Any]:
    with database.read() as session:
        return list(session.exec(select(table)))


def row(database: Database, job_id: str) -> Job:
    with database.read() as session:
        job = session.get(Job, job_id)
        assert job is not None
        return job


@dataclass(frozen=True)
class Written:
    """One write, ready to be made, and what must be true after it."""

    write: Callable[[], Any]
    check: Callable[[Any], None]


def _accept(database: Database) -> Written:
    new = [new_job(idempotency_key="k", request_hash="h"), new_job()]

    def check(outcome: Any) -> None:
        assert [(one.job.id, one.replayed) for one in outcome] == [(job.id, False) for job in new]
        assert {job.id for job in rows(database, Job)} == {job.id for job in new}

    return Written(lambda: records.accept(database, new), check)


def _claim(database: Database) -> Written:
    job = accepted(database)
    claimed(database, accepted(database).id)  # the node holds the model
    dispatch.mark_dispatched(database, [(job.id, "n/1")])
    me = Claimant("n", "gpu-1@n", "cpu-1", "n/1", pid=42)

    def check(claim: Job | None) -> None:
        assert claim is not None
        assert (claim.status, claim.attempt, claim.pid) == (JobState.RUNNING, 1, 42)
        assert row(database, job.id).attempt == 1

    return Written(lambda: attempts.claim(database, job.id, me, 60), check)


def _ending(state: JobState) -> Callable[[Database], Written]:
    def make(database: Database) -> Written:
        job = claimed(database, accepted(database, webhook_url=WEBHOOK).id)
        ends: dict[JobState, Callable[[], Job]] = {
            JobState.SUCCEEDED: lambda: attempts.succeed(database, job.id, 1, {"timings": {"denoising": 0.1}}),
            JobState.FAILED: lambda: attempts.fail(database, job.id, 1, Failure("x", "why", True), 12.5),
            JobState.CANCELLED: lambda: attempts.cancelled(database, job.id, 1, 3.0),
        }

        def check(ended: Job) -> None:
            assert (ended.status, row(database, job.id).status) == (state, state)
            assert [use.outcome for use in rows(database, Use)] == [state]
            assert [message.type for message in rows(database, WebhookMessage)] == [f"job.{state}"]

        return Written(ends[state], check)

    return make


def _given_back(database: Database) -> Written:
    job = claimed(database, accepted(database).id)

    def check(back: Job | None) -> None:
        assert back is not None
        assert (row(database, job.id).status, row(database, job.id).failures) == (JobState.QUEUED, 0)

    return Written(lambda: attempts.give_back(database, job.id, 1), check)


def _crashed(database: Database) -> Written:
    job = claimed(database, accepted(database).id)

    def check(after: Job | None) -> None:
        assert after is not None
        assert (row(database, job.id).status, row(database, job.id).failures) == (JobState.QUEUED, 1)

    return Written(lambda: attempts.crashed(database, job.id, 1, "died", 0.0), check)


def _cancel_waiting(database: Database) -> Written:
    job = accepted(database, webhook_url=WEBHOOK)

    def check(stopped: records.Stopped) -> None:
        assert (stopped.job.status, stopped.ended) == (JobState.CANCELLED, True)
        assert [use.outcome for use in rows(database, Use)] == ["cancelled"]
        assert len(rows(database, WebhookMessage)) == 1

    return Written(lambda: records.request_cancel(database, job.id), check)


def _cancel_running(database: Database) -> Written:
    job = claimed(database, accepted(database).id)

    def check(stopped: records.Stopped) -> None:
        assert stopped.job.status == JobState.RUNNING
        assert attempts.renew(database, job.id, 1, 60).cancel

    return Written(lambda: records.request_cancel(database, job.id), check)


def _delete(database: Database) -> Written:
    job = accepted(database, idempotency_key="k", request_hash="h")

    def check(stopped: records.Stopped) -> None:
        assert stopped.job.id == job.id
        after = row(database, job.id)
        assert (after.deleted, after.status, after.idempotency_key) == (True, JobState.CANCELLED, None)
        assert len(rows(database, Use)) == 1

    return Written(lambda: records.remove(database, job.id), check)


def _pause_running(database: Database) -> Written:
    job = library.start(database, library.download(database))

    def check(after: Job) -> None:
        assert (after.status, row(database, job.id).requested_action) == (JobState.RUNNING, "pause")

    return Written(lambda: download_control.pause(database, job.id), check)


def _pause_waiting(database: Database) -> Written:
    job = library.download(database)
    return Written(
        lambda: download_control.pause(database, job.id), lambda after: _is(database, job, after, JobState.PAUSED)
    )


def _resume(database: Database) -> Written:
    job = library.download(database)
    download_control.pause(database, job.id)
    return Written(
        lambda: download_control.resume(database, job.id), lambda after: _is(database, job, after, JobState.QUEUED)
    )


def _take_pause_back(database: Database) -> Written:
    job = library.start(database, library.download(database))
    download_control.pause(database, job.id)

    def check(after: Job) -> None:
        assert (after.status, row(database, job.id).requested_action) == (JobState.RUNNING, None)

    return Written(lambda: download_control.resume(database, job.id), check)


def _paused(database: Database) -> Written:
    job = library.start(database, library.download(database))
    download_control.pause(database, job.id)
    return Written(
        lambda: attempts.paused(database, job.id, 1, download_control.BY_OWNER, Fetched(1, 2, 50.0)),
        lambda after: _is(database, job, after, JobState.PAUSED),
    )


def _is(database: Database, job: Job, after: Job | None, state: JobState) -> None:
    assert after is not None
    assert (after.status, row(database, job.id).status) == (state, state)


def _commit_of_a_download(database: Database) -> Written:
    job = library.start(database, library.download(database))
    return Written(
        lambda: download_control.keep_commit(database, job.id, 1, "c" * 40),
        lambda _: None if row(database, job.id).params["sha"] == "c" * 40 else pytest.fail("not kept"),
    )


def _drain(database: Database) -> Written:
    library.node(database)

    def check(node: Any) -> None:
        assert node.drained_at is not None
        assert nodes.drained(database) == {"here"}

    return Written(lambda: nodes.drain(database, "here"), check)


def _undrain(database: Database) -> Written:
    library.node(database)
    nodes.drain(database, "here")

    def check(node: Any) -> None:
        assert nodes.drained(database) == frozenset()

    return Written(lambda: nodes.undrain(database, "here"), check)


def _remove_node(database: Database) -> Written:
    library.node(database)
    job = library.download(database)
    nodes.deregister_node(database, "here")

    def check(ended: list[Job]) -> None:
        assert [one.id for one in ended] == [job.id]
        assert nodes.nodes(database) == []
        assert row(database, job.id).status == JobState.FAILED

    return Written(lambda: nodes.remove(database, "here", 30.0), check)


def _dispatch(database: Database) -> Written:
    job = accepted(database)

    def check(dispatched: list[tuple[str, str]]) -> None:
        assert dispatched == [(job.id, "n/0")]
        assert row(database, job.id).dispatched_to == "n/0"

    return Written(lambda: dispatch.mark_dispatched(database, [(job.id, "n/0")]), check)


def _give_up(database: Database) -> Written:
    job = accepted(database, webhook_url=WEBHOOK)

    def check(ended: Job | None) -> None:
        assert ended is not None
        assert row(database, job.id).status == JobState.FAILED
        assert (len(rows(database, Use)), len(rows(database, WebhookMessage))) == (1, 1)

    return Written(lambda: dispatch.give_up(database, job.id, Failure("no_device", "none", True)), check)


def _key(database: Database) -> Written:
    def check(made: Any) -> None:
        key, secret = made
        assert [found.id for found in rows(database, ApiKey)] == [key.id]
        assert keys.find(database, secret) is not None

    return Written(lambda: keys.make(database, "one", [Scope.READ], Limits()), check)


def _revoke(database: Database) -> Written:
    keys.make(database, "one", [Scope.READ], Limits())

    def check(key: ApiKey) -> None:
        assert key.revoked_at is not None
        assert [found.revoked_at is not None for found in rows(database, ApiKey)] == [True]

    return Written(lambda: keys.revoke(database, "one"), check)


def _audited(database: Database) -> Written:
    act = Act(actor="local", key_id=None, act="node.drained", subject="/x", outcome=200, detail={})

    def check(_: Any) -> None:
        assert len(rows(database, AuditEntry)) == 1

    return Written(lambda: audit.record(database, act), check)


def _repaired(database: Database) -> Written:
    library.replica(database, state="corrupted", faults=[{"path": "a", "type": "checksum_mismatch"}])
    whole = Verdict(faults=(), verified_bytes=1, expected_bytes=1)

    def check(changed: bool) -> None:
        (replica,) = [one for one in rows(database, library.Replica) if one.model_id == "T2V-A14B"]
        assert (replica.state, replica.generation) == ("available", 1), "loaded once from before, stale once"

    return Written(
        lambda: replica_files.record_verification(
            database, "here", "T2V-A14B", library.COMMIT, whole, [], full=True, at=library.clock.now()
        ),
        check,
    )


WRITES: dict[str, Callable[[Database], Written]] = {
    "accept": _accept,
    "claim": _claim,
    "succeed": _ending(JobState.SUCCEEDED),
    "fail": _ending(JobState.FAILED),
    "end as cancelled": _ending(JobState.CANCELLED),
    "give back": _given_back,
    "crash": _crashed,
    "cancel a waiting job": _cancel_waiting,
    "cancel a running job": _cancel_running,
    "delete": _delete,
    "pause a running download": _pause_running,
    "pause a waiting download": _pause_waiting,
    "resume": _resume,
    "take a pause back": _take_pause_back,
    "end paused": _paused,
    "keep a download's commit": _commit_of_a_download,
    "drain": _drain,
    "undrain": _undrain,
    "remove a node": _remove_node,
    "dispatch": _dispatch,
    "give up": _give_up,
    "make a key": _key,
    "revoke a key": _revoke,
    "audit": _audited,
    "record a repair": _repaired,
}


@pytest.mark.parametrize("when", ["after", "before"])
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
            records.accept(database, [new])
    other = Database(database.url)
    assert [one.job.id for one in records.accept(other, [new])] == [new.id], "the lock has been given back"
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


class Making:
    """A job type whose attempt leaves one file, which `undo` removes."""

    at_most: int | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ended: list[str] = []

    def file(self, job: Job) -> Path:
        return self.folder / f"{job.id}-{job.attempt}"

    def run(self, job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
        self.file(job).write_text("video")
        return {"artifacts": [self.file(job).name]}

    def undo(self, job: Job) -> None:
        self.file(job).unlink(missing_ok=True)

    def after(self, job: Job) -> None:
        self.ended.append(job.id)


def runner(settings: Settings, database: Database, work: Making) -> Runner:
    return Runner(settings, database, CLAIMANT, {"generation": work}, UNCOUNTED)


@pytest.mark.parametrize("when", ["after", "before"])
@pytest.mark.parametrize("commit", [1, 2], ids=["claim", "end"])
def test_a_winner_keeps_its_files_whichever_commit_is_not_answered(
    losing: Losing, settings: Settings, tmp_path: Path, commit: int, when: When
) -> None:
    database = losing.database
    claimed(database, accepted(database).id)  # the node holds the model
    job = accepted(database)
    dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
    work = Making(tmp_path)
    if commit == 1:
        losing.lose(1, when)
    else:
        run = work.run

        def then_lose(job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
            made = run(job, heartbeat)
            losing.lose(1, when)
            return made

        work.run = then_lose  # type: ignore[method-assign]
    assert runner(settings, database, work).run("generation", job.id)
    after = row(database, job.id)
    assert (after.status, after.attempt) == (JobState.SUCCEEDED, 1)
    assert work.file(after).read_text() == "video"
    assert work.ended == [job.id]
    assert losing.count() == 1


def test_files_stay_where_nobody_can_say_whether_their_attempt_has_won(
    losing: Losing, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database commits the end, is then away for longer than the worker's patience, and comes back."""
    database = losing.database
    claimed(database, accepted(database).id)
    job = accepted(database)
    dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
    monkeypatch.setattr("shared.database.engine._REPEAT_AFTER_SECONDS", (0.0,))
    impatient = settings.model_copy(update={"lease_seconds": 1e-6})
    work = Making(tmp_path)
    run = work.run

    def then_lose(job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
        made = run(job, heartbeat)
        losing.lose(1, "after")  # the end
        losing.lose(3, "before")  # its repetition, and the giving back
        return made

    work.run = then_lose  # type: ignore[method-assign]
    monkeypatch.setattr(attempts, "claim", _claim_for(60.0))
    with pytest.raises((DatabaseUnavailable, Draining)):
        runner(impatient, database, work).run("generation", job.id)
    after = row(database, job.id)
    assert after.status == JobState.SUCCEEDED
    assert work.file(after).read_text() == "video"


def _claim_for(seconds: float) -> Callable[..., Job | None]:
    claim = attempts.claim

    def claiming(database: Database, job_id: str, claimant: Claimant, lease: float, at_most: int | None) -> Job | None:
        return claim(database, job_id, claimant, seconds, at_most)

    return claiming


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

    known = records._room
    monkeypatch.setattr(records, "_room", lambda *args: full() if is_repetition() else known(*args))
    with pytest.raises(OutcomeUnknown):
        written.write()
    assert len(rows(losing.database, Job)) == 2


class Together:
    """Commits of which the first batch holds all that is asked."""

    def __init__(self, database: Database) -> None:
        from api.services.group_commit import Commits

        self._commits = Commits(database, lambda: None, lambda: None)

    def add(self, *new: records.NewJob) -> list[Any]:
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
    again = records.NewJob(DOWNLOAD, DownloadParams(model_id="T2V-A14B", node="here"), Priority.NORMAL)
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
    again = records.NewJob(DOWNLOAD, DownloadParams(model_id="T2V-A14B", node="here"), Priority.NORMAL)
    new = [new_job(), again, new_job()]
    accept, calls = records._accept, list[int]()

    def until_full(database: Database, some: Any) -> Any:
        calls.append(len(some))
        if len(calls) == 4:
            raise StoreFull()
        return accept(database, some)

    monkeypatch.setattr(records, "_accept", until_full)
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
    from shared.jobs import queues

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
