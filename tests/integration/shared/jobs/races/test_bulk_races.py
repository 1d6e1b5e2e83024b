"""An action on many jobs against a worker, at every point where they can meet."""

import pytest

from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import Fenced
from shared.jobs import attempts, batches, bulk, dispatch
from shared.jobs.bulk import Selection, Tally
from shared.states import JobState, Priority
from tests.conftest import both_databases
from tests.integration.shared.jobs.races.racing import Race, is_error, row, uses
from tests.support.batches import stored
from tests.support.interleaving import interleavings
from tests.support.jobs import CLAIMANT, DEMO, accepted, claimed, hold

pytestmark = both_databases
WHICH = Selection(status=JobState.QUEUED)


def dispatched(database: Database) -> Job:
    hold(database, *DEMO.model_ids)
    job = accepted(database)
    dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
    return job


def test_a_deletion_and_a_claim(database: Database, race: Race) -> None:
    """A job that has started is no longer queued, so it is not deleted; a deleted one does not start."""
    for (done, claim), after in race.run(
        lambda: dispatched(database),
        lambda: bulk.act(database, "delete", WHICH, [race.job_id], Tally(1)),
        lambda: attempts.claim(database, race.job_id, CLAIMANT, 60.0),
    ):
        assert not is_error(done)
        assert not is_error(claim)
        tally, stopped = done
        if claim is None:
            assert (after.status, after.deleted, tally.changed) == (JobState.CANCELLED, True, 1)
            assert ([one.ended for one in stopped], uses(database, after.id)) == ([True], 1)
        else:
            assert (after.status, after.deleted, tally.skipped) == (JobState.RUNNING, False, {"changed_meanwhile": 1})
            assert (stopped, after.cancel_at) == ([], None)


def test_a_deletion_of_anything_and_a_claim(database: Database, race: Race) -> None:
    for (done, claim), after in race.run(
        lambda: dispatched(database),
        lambda: bulk.act(database, "delete", Selection(), [race.job_id], Tally(1)),
        lambda: attempts.claim(database, race.job_id, CLAIMANT, 60.0),
    ):
        assert not is_error(done)
        assert not is_error(claim)
        assert (after.deleted, done[0].changed) == (True, 1)
        if claim is not None:
            assert (after.status, attempts.renew(database, after.id, 1, 60.0).cancel) == (JobState.RUNNING, True)
            attempts.cancelled(database, after.id, 1)
        assert (row(database, after.id).status, uses(database, after.id)) == (JobState.CANCELLED, 1)


def test_two_actions_on_jobs_of_two_batches(database: Database) -> None:
    """They lock the jobs and the batches in one order, whichever jobs they have."""
    met_batches = []

    def pair():  # type: ignore[no-untyped-def]
        first, (a, b) = stored(database, 2)
        second, (c, d) = stored(database, 2)
        met_batches.append((first.id, second.id))
        return (
            lambda: bulk.act(database, "cancel", Selection(), [a.id, d.id], Tally(2)),
            lambda: bulk.act(database, "cancel", Selection(), [c.id, b.id], Tally(2)),
        )

    for _, met in interleavings(database, pair):
        assert not is_error(met.first)
        assert not is_error(met.second)
        for batch_id in met_batches[-1]:
            assert {one.status for one in batches.members(database, batch_id)} == {JobState.CANCELLED}
            assert (batches.get(database, batch_id).unended, batches.get(database, batch_id).cancelled) == (0, 2)


def test_a_new_priority_and_a_claim(database: Database, race: Race) -> None:
    for (done, claim), after in race.run(
        lambda: dispatched(database),
        lambda: bulk.act(database, "set_priority", Selection(), [race.job_id], Tally(1), priority=Priority.HIGH),
        lambda: attempts.claim(database, race.job_id, CLAIMANT, 60.0),
    ):
        assert not is_error(done)
        assert not is_error(claim)
        if claim is None:
            assert (after.status, after.priority, after.dispatched_to) == (JobState.QUEUED, Priority.HIGH.rank, None)
        else:
            assert (after.priority, done[0].skipped) == (Priority.NORMAL.rank, {"is_running": 1})


def test_a_step_of_a_superseded_attempt_changes_nothing(database: Database) -> None:
    job = claimed(database, accepted(database).id)
    target = accepted(database)
    task = bulk.Task(job.id, job.attempt + 1, 60.0)
    with pytest.raises(Fenced):
        bulk.act(database, "cancel", Selection(), [target.id], Tally(1), task=task)
    assert row(database, target.id).status == JobState.QUEUED
