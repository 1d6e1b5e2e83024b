"""Pauses, start times, latest starts and the front of the queue, on both databases."""

import pytest
from sqlmodel import select

from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Job, Pause, epoch_now
from shared.errors import Conflict
from shared.jobs import attempts, dispatch, records
from shared.jobs.claims import pauses
from shared.jobs.claims.pauses import EVERYTHING, Scope
from shared.jobs.lines import heads, holding
from shared.jobs.reading import queues
from shared.states import JobState
from tests.conftest import both_databases
from tests.integration.scheduler.queued_jobs import aged
from tests.integration.shared.jobs.races.racing import Pair, is_error
from tests.support.interleaving import interleavings
from tests.support.jobs import CLAIMANT, accepted, claimed, hold
from tests.support.models import library

pytestmark = both_databases

SCOPES = (
    EVERYTHING,
    Scope("model_id", "T2V-A14B"),
    Scope("key", "k"),
    Scope("job_type", "generation"),
    Scope("device", "n/0"),
    Scope("node", "n"),
)
OTHERS = (
    Scope("model_id", "TI2V-5B"),
    Scope("key", "other"),
    Scope("job_type", "download"),
    Scope("device", "n/1"),
    Scope("node", "m"),
)


@pytest.fixture(autouse=True)
def _host(database: Database) -> None:
    library.device(database, on="n", index=0, kind="cpu")
    nodes.node_beat(database, "n", None, None)
    hold(database, "T2V-A14B")


def _dispatched(database: Database, owner: str | None = "k") -> Job:
    job = accepted(database, owner=owner)
    dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
    return job


def _pause(database: Database, scope: Scope, until: float | None = None) -> Pause:
    return pauses.pause(database, scope, by="admin", until=until, running="finish")


@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: scope.kind)
def test_what_is_paused_is_not_claimed_until_it_is_resumed(database: Database, scope: Scope) -> None:
    job = _dispatched(database)
    for other in OTHERS:
        _pause(database, other)
    _pause(database, scope)
    assert attempts.claim(database, job.id, CLAIMANT, 60) is None
    ended = pauses.resume(database, scope)
    assert ended is not None
    assert attempts.claim(database, job.id, CLAIMANT, 60) is not None
    assert pauses.resume(database, scope) is None


def test_a_pause_that_is_over_holds_nothing_back(database: Database) -> None:
    job = _dispatched(database)
    now = _now(database)
    _pause(database, EVERYTHING, until=now - 1)
    assert pauses.in_force(database) == []
    assert [row.kind for row in pauses.run_out(database)] == ["everything"]
    assert attempts.claim(database, job.id, CLAIMANT, 60) is not None
    again = _pause(database, EVERYTHING)
    assert [row.id for row in pauses.in_force(database)] == [again.id]
    assert pauses.resumed_at(database) == {("everything", ""): pytest.approx(now - 1)}


def test_a_second_pause_of_the_same_scope_replaces_the_first(database: Database) -> None:
    first = _pause(database, EVERYTHING, until=_now(database) + 100)
    second = pauses.pause(database, EVERYTHING, by="other", reason="for longer", running="finish")
    assert second.id == first.id
    (row,) = pauses.in_force(database)
    assert (row.reason, row.until) == ("for longer", None)


def test_running_jobs_are_asked_to_yield_within_the_scope_alone(database: Database) -> None:
    job = claimed(database, accepted(database, owner="k").id)
    pauses.pause(database, Scope("key", "other"), by="admin", running="yield")
    assert attempts.renew(database, job.id, 1, 60).requested_action is None
    pauses.pause(database, Scope("key", "k"), by="admin", running="yield")
    assert attempts.renew(database, job.id, 1, 60).requested_action == "yield"
    back = attempts.give_back(database, job.id, 1)
    assert back is not None
    assert (back.status, back.failures, back.requested_action) == (JobState.QUEUED, 0, None)


def test_a_drained_node_is_a_paused_one(database: Database) -> None:
    nodes.drain(database, "n", by="admin", reason="new cables")
    (row,) = pauses.in_force(database)
    assert (row.kind, row.value, row.reason) == ("node", "n", "new cables")
    nodes.undrain(database, "n")
    assert pauses.in_force(database) == []


@pytest.mark.parametrize("scope", [EVERYTHING, Scope("device", "n/0")], ids=lambda scope: scope.kind)
def test_no_claim_comes_after_a_pause_was_answered(database: Database, scope: Scope) -> None:
    def pair() -> Pair:
        pauses.resume(database, scope)
        job = _dispatched(database)
        return lambda: attempts.claim(database, job.id, CLAIMANT, 60), lambda: _pause(database, scope)

    for _, met in interleavings(database, pair):
        assert not is_error(met.first)
        assert not is_error(met.second)
        if met.second_was_through:
            assert met.first is None, "the pause was answered while the claim was under way"


def test_a_job_joins_its_line_at_its_start_time(database: Database) -> None:
    now = _now(database)
    later = accepted(database, owner="k", start_after=now + 1000)
    sooner = accepted(database, owner="k", start_after=now - 1000)
    assert (later.status, later.held, sooner.held) == (JobState.QUEUED, "start_time", None)
    assert _in_lines(database) == {sooner.id}
    assert (queues.waiting(database).queued, queues.held(database)) == (1, 1)
    counts = queues.depths_and_counts(database)[1]
    assert [counts["generation", "T2V-A14B", state] for state in (JobState.QUEUED, "held")] == [1, 1]
    assert queues.held_by_reason(database, []) == {"start_time": 1, "window": 0, "pause": 0}
    _pause(database, Scope("key", "k"))
    assert queues.held_by_reason(database, pauses.in_force(database))["pause"] == 1
    pauses.resume(database, Scope("key", "k"))
    dispatch.mark_dispatched(database, [(later.id, CLAIMANT.device_key)])
    assert attempts.claim(database, later.id, CLAIMANT, 60) is None, "it may not start yet"
    dispatch.recall(database)
    assert holding.release_due(database) == 0
    aged(database, 1001, later.id)
    assert holding.release_due(database) == 1
    assert _in_lines(database) == {sooner.id, later.id}
    assert records.get(database, later.id).line == sooner.line
    queue = dispatch.read_queue(database)
    assert max(queue.now - job.queued_at for job in queue.waiting) < 60, "waiting counts from the start time"


def test_a_held_job_is_cancelled_like_any_other(database: Database) -> None:
    job = accepted(database, start_after=_now(database) + 1000)
    assert records.request_cancel(database, job.id).ended
    aged(database, 2000, job.id)
    assert holding.release_due(database) == 0
    assert records.get(database, job.id).status == JobState.CANCELLED


def test_a_job_does_not_start_after_its_latest_start(database: Database) -> None:
    job = accepted(database, start_before=_now(database) + 100)
    dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
    assert holding.expired(database) == []
    aged(database, 101, job.id, column="start_before")
    assert attempts.claim(database, job.id, CLAIMANT, 60) is None
    assert holding.expired(database) == [job.id]


def test_a_job_that_started_in_time_may_start_again_later(database: Database) -> None:
    job = claimed(database, accepted(database, start_before=_now(database) + 100).id)
    attempts.give_back(database, job.id, 1)
    aged(database, 101, job.id, column="start_before")
    assert holding.expired(database) == []
    assert claimed(database, job.id).attempt == 2


def test_a_job_returns_from_the_front_to_its_place(database: Database) -> None:
    jobs = [accepted(database, owner="k") for _ in range(3)]

    def order() -> list[str]:
        queue = dispatch.read_queue(database, ahead=1)
        ranked = sorted(queue.waiting, key=lambda job: (dispatch.rank_of(job, queue.now), job.queued_at))
        return [job.job_id for job in ranked]

    before = _in_lines(database)
    holding.move_to_front(database, jobs[2].id)
    assert order() == [jobs[2].id, jobs[0].id, jobs[1].id]
    back = holding.move_back(database, jobs[2].id)
    assert (back.front_at, back.dispatched_to) == (None, None)
    assert order() == [job.id for job in jobs]
    assert _in_lines(database) == before
    assert holding.move_back(database, jobs[0].id).line == back.line, "no effect on another"
    claimed(database, jobs[0].id)
    with pytest.raises(Conflict, match="only a queued job can be returned"):
        holding.move_back(database, jobs[0].id)


def test_the_last_job_moved_to_the_front_is_first(database: Database) -> None:
    jobs = [accepted(database, owner="k") for _ in range(12)]
    for job in (jobs[10], jobs[5]):
        holding.move_to_front(database, job.id)
    queue = dispatch.read_queue(database, ahead=1)
    ranked = sorted(queue.waiting, key=lambda job: (dispatch.rank_of(job, queue.now), job.queued_at))
    assert [job.job_id for job in ranked[:3]] == [jobs[5].id, jobs[10].id, jobs[0].id]
    claimed(database, jobs[5].id)
    with pytest.raises(Conflict, match="running"):
        holding.move_to_front(database, jobs[5].id)


def _in_lines(database: Database) -> set[str]:
    with database.read() as session:
        connection = session.connection()
        lines = heads.lines_there(connection)
        return {row[0] for row in heads.first_of_each(connection, (Job.id, Job.line), lines, 10)}


def _now(database: Database) -> float:
    with database.read() as session:
        return float(session.connection().execute(select(epoch_now())).scalar_one())
