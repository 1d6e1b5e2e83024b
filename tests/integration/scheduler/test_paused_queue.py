"""What the dispatcher does with pauses, start times and latest starts."""

import pytest
from sqlalchemy import event

from shared.cluster import nodes
from shared.database.engine import Database
from shared.jobs import dispatch, records
from shared.jobs.claims import pauses
from shared.jobs.claims.pauses import EVERYTHING, Scope
from shared.jobs.lines import holding
from shared.jobs.reading import queue_positions
from shared.messaging.progress import RestingRedis
from shared.settings import Settings
from shared.states import JobState, Priority
from tests.conftest import both_databases
from tests.integration.scheduler.queued_jobs import HOUR, Sent, aged, claimant
from tests.support.jobs import accepted, claimed, hold

pytestmark = both_databases


def _pause(database: Database, scope: Scope, until: float | None = None) -> None:
    pauses.pause(database, scope, by="admin", until=until, running="finish")


@pytest.mark.parametrize(
    "scope", [EVERYTHING, Scope("key", "k"), Scope("model_id", "T2V-A14B"), Scope("job_type", "generation")], ids=str
)
def test_paused_jobs_are_neither_sent_nor_left_at_a_device(sent: Sent, database: Database, scope: Scope) -> None:
    first = accepted(database, owner="k")
    sent.dispatcher.run_pass()
    _pause(database, scope)
    second = accepted(database, owner="k")
    sent.dispatcher.run_pass()
    assert [job_id for job_id, _ in sent.jobs] == [first.id]
    assert records.get(database, first.id).dispatched_to is None
    pauses.resume(database, scope)
    sent.dispatcher.run_pass()
    assert {job_id for job_id, _ in sent.jobs[1:]} == {first.id, second.id}


@pytest.mark.parametrize("scope", [Scope("device", "n/0"), Scope("node", "n")], ids=str)
def test_a_paused_place_gets_no_jobs(sent: Sent, database: Database, scope: Scope) -> None:
    nodes.node_beat(database, "n", None, None)
    first, second = accepted(database), accepted(database)
    sent.dispatcher.run_pass()
    assert {key for _, key in sent.jobs} == {"n/0", "n/1"}
    if scope.kind == "node":
        nodes.drain(database, "n")
    else:
        _pause(database, scope)
    sent.dispatcher.run_pass()
    left = {records.get(database, job.id).dispatched_to for job in (first, second)}
    assert left == ({None} if scope.kind == "node" else {None, "n/1"})


def test_time_spent_paused_does_not_count_as_waiting(sent: Sent, database: Database) -> None:
    old = accepted(database, owner="k", priority=Priority.LOW)
    aged(database, 10 * HOUR, old.id)
    _pause(database, EVERYTHING)
    pauses.resume(database, EVERYTHING)
    claimed(database, accepted(database).id, claimant(0))
    claimed(database, accepted(database).id, claimant(1))
    new = accepted(database, owner="other", priority=Priority.HIGH)
    sent.dispatcher.run_pass()
    assert sent.jobs[0][0] == new.id, "ten hours of waiting would have made the old one more urgent"


def test_pauses_end_by_themselves(sent: Sent, database: Database) -> None:
    nodes.node_beat(database, "n", None, None)
    now = dispatch.read_queue(database).now
    _pause(database, Scope("key", "k"), until=now - 1)
    nodes.drain(database, "n", until=now - 1)
    job = accepted(database, owner="k")
    sent.dispatcher.run_pass()
    assert [job_id for job_id, _ in sent.jobs] == [job.id]
    assert pauses.run_out(database) == []
    assert nodes.drained(database) == frozenset()


def test_a_job_is_sent_at_its_start_time_and_not_after_its_latest(sent: Sent, database: Database) -> None:
    now = dispatch.read_queue(database).now
    later = accepted(database, start_after=now + 100)
    late = accepted(database, start_before=now + 100)
    aged(database, 200, late.id, column="start_before")
    sent.dispatcher.run_pass()
    assert sent.jobs == []
    ended = records.get(database, late.id)
    assert (ended.status, (ended.error or {})["code"]) == (JobState.FAILED, "expired")
    aged(database, 101, later.id)
    sent.dispatcher.run_pass()
    assert [job_id for job_id, _ in sent.jobs] == [later.id]


def test_time_before_the_start_does_not_count_as_unplaceable(sent: Sent, database: Database) -> None:
    hold(database, "T2V-A14B")
    now = dispatch.read_queue(database).now
    stuck = accepted(database, model_id="TI2V-5B")
    later = accepted(database, model_id="TI2V-5B", start_after=now + 100)
    sent.dispatcher.run_pass()
    assert records.get(database, stuck.id).unplaceable_since is not None
    assert records.get(database, later.id).unplaceable_since is None


def test_a_job_at_the_front_is_sent_before_more_urgent_ones(sent: Sent, database: Database) -> None:
    claimed(database, accepted(database).id, claimant(0))
    urgent = [accepted(database, owner="k", priority=Priority.CRITICAL) for _ in range(3)]
    moved = accepted(database, owner="k", priority=Priority.LOW)
    holding.move_to_front(database, moved.id)
    sent.dispatcher.run_pass()
    assert sent.jobs[0] == (moved.id, "n/1")
    assert urgent


def test_without_pauses_windows_and_limits_a_pass_reads_none(sent: Sent, database: Database) -> None:
    def asked() -> int:
        accepted(database)
        statements: list[str] = []

        def note(_: object, __: object, statement: str, *___: object) -> None:
            statements.append(" ".join(statement.split()))

        event.listen(database.engine, "before_cursor_execute", note)
        try:
            sent.dispatcher.run_pass(recover=False)
        finally:
            event.remove(database.engine, "before_cursor_execute", note)
        return sum(
            one.startswith(("SELECT pauses.", "SELECT api_keys.", "SELECT '' AS", "SELECT %(")) for one in statements
        )

    assert asked() == 0
    _pause(database, Scope("key", "k"))
    assert asked() > 0


def test_positions_leave_out_what_is_paused(sent: Sent, settings: Settings, database: Database) -> None:
    for index in range(2):
        claimed(database, accepted(database).id, claimant(index))
    _pause(database, Scope("key", "k"))
    for _ in range(5):
        accepted(database, owner="k")
    for _ in range(2):  # the next job of each device
        accepted(database, owner="other")
    last = accepted(database, owner="other")
    sent.dispatcher.run_pass()
    sent.dispatcher.published_order._published_at = float("-inf")
    sent.dispatcher.run_pass()
    rows = [records.get(database, last.id)]
    found = queue_positions.positions(database, RestingRedis(settings.redis), rows)
    assert found[last.id] == queue_positions.Position(2, approximate=False)
