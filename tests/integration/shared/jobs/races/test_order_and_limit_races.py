"""A new priority against a claim, and two claims of a key that may run one job, at every point where they can meet."""

from shared.access import keys
from shared.access.keys import Limits
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import Conflict
from shared.jobs import attempts, dispatch, ordering
from shared.jobs.attempts import Claimant
from shared.states import JobState, Priority, Scope
from tests.conftest import both_databases
from tests.integration.shared.jobs.races.racing import Race, is_error
from tests.support.interleaving import interleavings
from tests.support.jobs import CLAIMANT, DEMO, accepted, hold

pytestmark = both_databases


def test_a_new_priority_and_a_claim(database: Database, race: Race) -> None:
    hold(database, *DEMO.model_ids)

    def make() -> Job:
        job = accepted(database)
        dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
        return job

    urgent = accepted(database, priority=Priority.HIGH).line
    for (changed, claim), after in race.run(
        make,
        lambda: ordering.set_priority(database, race.job_id, Priority.HIGH),
        lambda: attempts.claim(database, race.job_id, CLAIMANT, 60.0),
    ):
        assert not is_error(claim)
        if is_error(changed, Conflict):
            assert (after.status, after.priority) == (JobState.RUNNING, Priority.NORMAL.rank)
        else:
            assert (after.status, after.line, after.dispatched_to) == (JobState.QUEUED, urgent, None)
            assert claim is None, "its dispatch was recalled"


def test_two_claims_of_a_key_that_may_run_one(database: Database) -> None:
    hold(database, *DEMO.model_ids)
    pairs = []

    def pair():  # type: ignore[no-untyped-def]
        row, _ = keys.make(database, f"k{len(pairs)}", (Scope.SUBMIT,), Limits(running_jobs=1))
        jobs = [accepted(database, owner=row.id) for _ in range(2)]
        claimants = [Claimant("n", f"gpu-{n}@n", "cpu-0", f"n/{n}", n + 1) for n in range(2)]
        dispatch.mark_dispatched(database, [(job.id, one.device_key) for job, one in zip(jobs, claimants, strict=True)])
        pairs.append(jobs)
        first, second = (
            lambda job=job, one=one: attempts.claim(database, job.id, one, 60.0)
            for job, one in zip(jobs, claimants, strict=True)
        )
        return first, second

    for _, met in interleavings(database, pair):
        assert not is_error(met.first)
        assert not is_error(met.second)
        assert (met.first is None) != (met.second is None), "exactly one"
    assert len(pairs) > 3
