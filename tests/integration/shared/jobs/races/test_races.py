"""Two writers of one job, on both databases, at every point where one can meet the other."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import Conflict, Fenced
from shared.jobs import attempts, dispatch, download_control, records
from shared.jobs.attempts import Failure
from shared.jobs.reading import running_attempts
from shared.jobs.records import Stopped
from shared.states import JobState
from tests.conftest import both_databases
from tests.integration.shared.jobs.races.racing import NONE, Race, is_error, uses
from tests.support import interleaving
from tests.support.interleaving import Met, interleavings
from tests.support.jobs import accepted, claimed
from tests.support.models import library

pytestmark = both_databases


def running(database: Database) -> Callable[[], Job]:
    return lambda: claimed(database, accepted(database).id)


def downloading(database: Database) -> Callable[[], Job]:
    """A running download, each of a node of its own: a model is on its way to a node once."""
    library.node(database)
    numbers = count()

    def make() -> Job:
        return library.start(database, library.download(database, on=f"node-{next(numbers)}"))

    return make


def test_a_cancel_that_was_acknowledged_outlives_a_giving_back(database: Database, race: Race) -> None:
    for (cancel, back), after in race.run(
        running(database),
        lambda: records.request_cancel(database, race.job_id),
        lambda: attempts.give_back(database, race.job_id, 1),
    ):
        assert isinstance(cancel, Stopped), cancel
        assert not is_error(back)
        assert after.status == JobState.CANCELLED
        assert uses(database, after.id) == 1


def test_a_cancel_that_was_acknowledged_outlives_a_crash(database: Database, race: Race) -> None:
    for (cancel, crash), after in race.run(
        running(database),
        lambda: records.request_cancel(database, race.job_id),
        lambda: attempts.crashed(database, race.job_id, 1, "died", 0.0),
    ):
        assert isinstance(cancel, Stopped), cancel
        assert not is_error(crash)
        assert (after.status, after.failures) == (JobState.CANCELLED, 1), "its main process tells it by the count"
        assert uses(database, after.id) == 1


def test_a_delete_and_an_end_leave_one_end(database: Database, race: Race) -> None:
    for (deleted, end), after in race.run(
        running(database),
        lambda: records.remove(database, race.job_id),
        lambda: attempts.succeed(database, race.job_id, 1, {}),
    ):
        assert isinstance(deleted, Stopped), deleted
        assert not is_error(end)
        assert after.status == end.status, "what the worker was told"
        assert (after.status in (JobState.SUCCEEDED, JobState.CANCELLED), after.deleted) == (True, True)
        assert uses(database, after.id) == 1


def test_a_cancel_that_was_acknowledged_outlives_an_end(database: Database, race: Race) -> None:
    for end in (
        lambda: attempts.succeed(database, race.job_id, 1, {}),
        lambda: attempts.fail(database, race.job_id, 1, Failure("x", "why", retryable=True)),
    ):
        for (cancel, ended), after in race.run(
            running(database), lambda: records.request_cancel(database, race.job_id), end
        ):
            assert not is_error(ended)
            assert after.status == ended.status
            assert (after.status == JobState.CANCELLED) != is_error(cancel, Conflict), "202, or 409 as it had ended"
            assert uses(database, after.id) == 1


def test_a_delete_and_a_giving_back_leave_nothing_that_runs(database: Database, race: Race) -> None:
    for (deleted, back), after in race.run(
        running(database),
        lambda: records.remove(database, race.job_id),
        lambda: attempts.give_back(database, race.job_id, 1),
    ):
        assert isinstance(deleted, Stopped), deleted
        assert not is_error(back)
        assert (after.status, after.deleted) == (JobState.CANCELLED, True)


def test_a_pause_that_was_acknowledged_outlives_a_crash_and_a_stop(database: Database, race: Race) -> None:
    make = downloading(database)
    for end in (
        lambda: attempts.crashed(database, race.job_id, 1, "died", 0.0),
        lambda: attempts.give_back(database, race.job_id, 1),
    ):
        for (pause, ended), after in race.run(make, lambda: download_control.pause(database, race.job_id), end):
            assert not is_error(pause)
            assert not is_error(ended)
            assert (after.status, after.paused_by) == (JobState.PAUSED, download_control.BY_OWNER)


@pytest.mark.parametrize("by", [download_control.BY_OWNER, download_control.BY_FULL_DISK])
def test_a_cancel_that_was_acknowledged_outlives_a_pause(database: Database, race: Race, by: str) -> None:
    for (cancel, paused), after in race.run(
        downloading(database),
        lambda: records.request_cancel(database, race.job_id),
        lambda: attempts.paused(database, race.job_id, 1, by, NONE),
    ):
        assert isinstance(cancel, Stopped), cancel
        assert not is_error(paused)
        assert after.status == JobState.CANCELLED


def test_a_pause_that_was_acknowledged_outlives_a_full_disk(database: Database, race: Race) -> None:
    """Else it would go on by itself once there is room."""
    full = Failure("store_full", "full", retryable=True)
    for (pause, stopped), after in race.run(
        downloading(database),
        lambda: download_control.pause(database, race.job_id),
        lambda: attempts.paused(database, race.job_id, 1, download_control.BY_FULL_DISK, NONE, full),
    ):
        assert not is_error(pause)
        assert not is_error(stopped)
        assert (after.status, after.paused_by) == (JobState.PAUSED, download_control.BY_OWNER)


def test_a_resume_that_was_acknowledged_outlives_the_end_of_the_pause(database: Database, race: Race) -> None:
    make = downloading(database)

    def pausing() -> Job:
        return download_control.pause(database, make().id)

    for (resumed, paused), after in race.run(
        pausing,
        lambda: download_control.resume(database, race.job_id),
        lambda: attempts.paused(database, race.job_id, 1, download_control.BY_OWNER, NONE),
    ):
        assert not is_error(resumed)
        assert not is_error(paused)
        assert (after.status, after.requested_action) == (JobState.QUEUED, None)


def test_a_pause_that_was_acknowledged_outlives_room_on_the_disk(database: Database, race: Race) -> None:
    make = downloading(database)

    def stopped() -> Job:
        job = make()
        attempts.paused(
            database, job.id, 1, download_control.BY_FULL_DISK, NONE, Failure("disk_full", "full", retryable=True)
        )
        assert [one.id for one in download_control.stopped_by_full_disk(database)][-1:] == [job.id]
        return job

    for (pause, room), after in race.run(
        stopped,
        lambda: download_control.pause(database, race.job_id),
        lambda: download_control.resume_with_room(database, race.job_id),
    ):
        assert not is_error(pause)
        assert not is_error(room)
        assert (after.status, after.paused_by) == (JobState.PAUSED, download_control.BY_OWNER)


def test_a_lease_that_was_renewed_meanwhile_is_not_taken_back(database: Database, race: Race) -> None:
    """As where the database was away for a minute: all leases have lapsed, and their attempts live."""

    def lapsed() -> Job:
        job = claimed(database, accepted(database).id, lease_seconds=-1.0)
        assert (job.id, 1) in running_attempts.lapsed(database)
        return job

    for (renewal, crash), after in race.run(
        lapsed,
        lambda: attempts.renew(database, race.job_id, 1, 60.0),
        lambda: attempts.crashed(database, race.job_id, 1, "went silent", 0.0, lapsed=True),
    ):
        assert not is_error(renewal)
        assert not is_error(crash)
        assert renewal.ours == (crash is None)
        assert (after.status, after.failures) == ((JobState.RUNNING, 0) if renewal.ours else (JobState.QUEUED, 1))


def test_a_job_ends_once_with_any_two_writers(database: Database, race: Race) -> None:
    failure = Failure("no_device", "none", retryable=True)
    ends: tuple[tuple[Callable[[], Job], Callable[[], Any], Callable[[], Any]], ...] = (
        (
            running(database),
            lambda: attempts.succeed(database, race.job_id, 1, {"seed": 1}),
            lambda: attempts.crashed(database, race.job_id, 1, "died", 0.0),
        ),
        (
            running(database),
            lambda: attempts.succeed(database, race.job_id, 1, {"seed": 1}),
            lambda: attempts.cancelled(database, race.job_id, 1),
        ),
        (
            lambda: accepted(database),
            lambda: records.request_cancel(database, race.job_id),
            lambda: dispatch.give_up(database, race.job_id, failure),
        ),
        (
            lambda: accepted(database),
            lambda: records.request_cancel(database, race.job_id),
            lambda: records.request_cancel(database, race.job_id),
        ),
    )
    for make, one, other in ends:
        for results, after in race.run(make, one, other):
            refused = [is_error(result, Fenced, Conflict) for result in results]
            assert sum(refused) <= 1
            if after.status == JobState.QUEUED:
                assert (after.failures, uses(database, after.id)) == (1, 0)
            else:
                assert uses(database, after.id) == 1


def test_an_attempt_that_two_writers_end_is_in_the_history_once(database: Database, race: Race) -> None:
    crash = lambda: attempts.crashed(database, race.job_id, 1, "died", 0.0)  # noqa: E731
    others: tuple[Callable[[], Any], ...] = (
        lambda: attempts.crashed(database, race.job_id, 1, "went silent", 0.0),
        lambda: attempts.give_back(database, race.job_id, 1),
        lambda: attempts.succeed(database, race.job_id, 1, {"seed": 1}),
        lambda: records.request_cancel(database, race.job_id),
    )
    for other in others:
        for _, after in race.run(running(database), crash, other):
            known = [entry["attempt"] for entry in after.attempt_history or []]
            assert known == [1] or (known == [] and after.status in (JobState.SUCCEEDED, JobState.CANCELLED))


def test_an_interleaving_is_really_forced(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without locks a counter loses one of two additions: here it must not, and both orders are seen."""
    monkeypatch.setattr(interleaving, "_BLOCKED_AFTER_SECONDS", 5.0)  # a busy machine makes no reader wait for a lock
    job = accepted(database)
    seen: list[Met] = [
        met
        for _, met in interleavings(
            database,
            lambda: (
                lambda: records.get(database, job.id).attempt,
                lambda: records.get(database, job.id).attempt,
            ),
        )
    ]
    assert seen
    assert all(met.second_was_through for met in seen), "readers wait for nobody"
