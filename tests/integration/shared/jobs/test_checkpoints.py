"""What rows say of checkpoints, and requests to give a device back."""

import pytest
from sqlmodel import select

from shared.database.engine import Database
from shared.database.tables import Use
from shared.jobs import attempts, checkpoints, records
from shared.jobs.attempts import Failure
from shared.states import JobState
from tests.support.jobs import accepted, claimed

pytestmark = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


def test_a_checkpoint_is_recorded_by_its_attempt_alone_and_goes_with_the_job(database: Database) -> None:
    job = claimed(database, accepted(database).id)
    checkpoints.note(database, job.id, job.attempt, "n", 7)
    checkpoints.note(database, job.id, job.attempt + 1, "m", 9)
    row = records.get(database, job.id)
    assert (row.checkpoint_node, row.checkpoint_step) == ("n", 7)
    assert checkpoints.may_continue(database, "n", [job.id, "gone"]) == {job.id}
    assert checkpoints.may_continue(database, "m", [job.id]) == set()
    attempts.give_back(database, job.id, job.attempt)
    checkpoints.note(database, job.id, job.attempt, "n", 8)
    assert records.get(database, job.id).checkpoint_step == 7
    again = claimed(database, job.id)
    checkpoints.note_resumed(database, job.id, job.attempt, 3)
    checkpoints.note_resumed(database, job.id, again.attempt, 7)
    assert records.get(database, job.id).resumed_from_step == 7
    attempts.fail(database, job.id, again.attempt, Failure("x", "x", retryable=False))
    with database.read() as session:
        assert session.exec(select(Use.resumed_from_step).where(Use.job_id == job.id)).one() == 7
    row = records.get(database, job.id)
    assert (row.checkpoint_node, row.checkpoint_step, row.resumed_from_step) == (None, None, 7)
    assert checkpoints.may_continue(database, "n", [job.id]) == set()


def test_a_superseded_attempt_cannot_name_the_stored_checkpoint(database: Database) -> None:
    first = claimed(database, accepted(database).id)
    attempts.give_back(database, first.id, first.attempt)
    assert not checkpoints.note_stored(database, first.id, first.attempt)
    second = claimed(database, first.id)
    assert checkpoints.note_stored(database, first.id, second.attempt)
    assert not checkpoints.note_stored(database, first.id, first.attempt)
    assert records.get(database, first.id).checkpoint_stored_attempt == second.attempt


def test_the_folder_of_a_job_that_runs_here_is_kept_though_its_checkpoint_came_from_elsewhere(
    database: Database,
) -> None:
    job = claimed(database, accepted(database).id)
    checkpoints.note(database, job.id, job.attempt, "elsewhere", 3)
    assert checkpoints.may_continue(database, str(job.node), [job.id]) == {job.id}
    attempts.give_back(database, job.id, job.attempt)
    assert checkpoints.may_continue(database, str(job.node), [job.id]) == set()


def test_a_running_job_is_asked_once_and_preempted_at_most_twice(database: Database) -> None:
    waiting, job = accepted(database), claimed(database, accepted(database).id)
    assert checkpoints.ask_generation_to_yield(database, [waiting.id, job.id]) == [job.id]
    assert checkpoints.ask_generation_to_yield(database, [job.id]) == []
    assert not checkpoints.preempt(database, job.id), "it yields already"
    attempts.give_back(database, job.id, job.attempt)
    assert records.get(database, job.id).preempted == 0
    for times in (1, 2):
        job = claimed(database, job.id)
        assert job.requested_action is None
        assert checkpoints.preempt(database, job.id)
        after = attempts.give_back(database, job.id, job.attempt)
        assert after is not None
        assert (after.status, after.failures, after.preempted) == (JobState.QUEUED, 0, times)
    claimed(database, job.id)
    assert not checkpoints.preempt(database, job.id)


def test_a_cancel_wins_over_a_yield(database: Database) -> None:
    job = claimed(database, accepted(database).id)
    assert checkpoints.preempt(database, job.id)
    records.request_cancel(database, job.id)
    after = attempts.give_back(database, job.id, job.attempt)
    assert after is not None
    assert (after.status, after.preempted) == (JobState.CANCELLED, 0)
    later = claimed(database, accepted(database).id)
    records.request_cancel(database, later.id)
    assert checkpoints.ask_generation_to_yield(database, [later.id]) == []
