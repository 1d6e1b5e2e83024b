"""Jobs of flows and batches under the other controls of the queue: windows, order, pauses, actions on many; both
databases.
"""

from datetime import UTC, datetime, timedelta

from sqlmodel import col, select, update

from shared.database.engine import Database
from shared.database.tables import Job, epoch_now
from shared.jobs import attempts, batches, bulk, dispatch, ordering, records
from shared.jobs.attempts import Failure
from shared.jobs.bulk import Selection, Tally
from shared.jobs.claims import pauses
from shared.jobs.flows import advancing, reading
from shared.jobs.lines import holding, windows
from shared.states import JobState, Priority
from tests.conftest import both_databases
from tests.support.batches import stored
from tests.support.flows import Node, accepted_flow, follow, job_of, run, states
from tests.support.jobs import CLAIMANT, DEMO, claimed, hold

pytestmark = both_databases
CHAIN = {"a": Node(), "b": Node(("a",))}


def closed() -> str:
    opens = datetime.now(UTC) + timedelta(hours=3)
    return f"{opens:%H:%M}-{opens + timedelta(hours=1):%H:%M} UTC"


def waits_for(database: Database, flow_id: str, name: str) -> str | None:
    return job_of(database, flow_id, name).held


def test_a_job_that_waits_for_others_stays_held_whatever_happens_to_its_order(database: Database) -> None:
    flow = accepted_flow(database, **CHAIN)
    waiting = job_of(database, flow.id, "b").id
    holding.move_to_front(database, waiting)
    ordering.set_priority(database, waiting, Priority.LOW)
    windows.set_installation(database, closed())
    holding.follow_windows(database, windows.read(database))
    ordering.set_priority(database, waiting, Priority.HIGH)
    windows.set_installation(database, "always")
    holding.follow_windows(database, windows.read(database))
    holding.release_due(database)
    assert (waits_for(database, flow.id, "b"), states(database, flow.id)["b"]) == ("dependency", "held")
    assert waiting not in {job.job_id for job in dispatch.read_queue(database).waiting}
    run(database, flow.id, "a")
    follow(database)
    (first,) = dispatch.read_queue(database).waiting
    assert first.job_id == waiting, "and then it is at the front"


def test_a_released_job_of_low_priority_waits_for_its_window(database: Database) -> None:
    windows.set_installation(database, closed())
    flow = accepted_flow(database, **CHAIN)
    ordering.set_priority(database, job_of(database, flow.id, "b").id, Priority.LOW)
    run(database, flow.id, "a")
    follow(database)
    assert waits_for(database, flow.id, "b") == "window"
    windows.set_installation(database, "always")
    assert holding.follow_windows(database, windows.read(database))[0] == 1
    assert states(database, flow.id) == {"a": "succeeded", "b": "queued"}
    run(database, flow.id, "b")
    follow(database)
    assert reading.get(database, flow.id).flow.state == "succeeded"


def test_many_cancelled_jobs_tell_their_flows(database: Database) -> None:
    flow = accepted_flow(database, "http://198.51.100.7/told", **CHAIN, c=Node(("b",)))
    first, second = job_of(database, flow.id, "a"), job_of(database, flow.id, "b")
    claimed(database, first.id)
    tally, stopped = bulk.act(database, "cancel", Selection(), [first.id, second.id], Tally(2))
    assert (tally.changed, [one.ended for one in stopped]) == (2, [True, False])
    follow(database)
    assert states(database, flow.id) == {"a": "running", "b": "cancelled", "c": "skipped"}
    attempts.cancelled(database, first.id, 1)
    follow(database)
    assert reading.get(database, flow.id).flow.state == "cancelled"


def test_many_deleted_jobs_do_not_take_those_of_an_open_flow(database: Database) -> None:
    flow = accepted_flow(database, **CHAIN)
    job_ids = [job_of(database, flow.id, name).id for name in CHAIN]
    tally, stopped = bulk.act(database, "delete", Selection(), job_ids, Tally(2))
    assert (tally.changed, tally.skipped, stopped) == (0, {"in_open_flow": 2}, [])
    assert states(database, flow.id) == {"a": "queued", "b": "held"}
    run(database, flow.id, "a", fails=True)
    follow(database)
    tally, _ = bulk.act(database, "delete", Selection(), job_ids, Tally(2))
    assert (tally.changed, tally.skipped) == (2, {})
    assert records.purge(database, job_ids) == 2
    assert advancing.unsettled(database) == []


def test_a_paused_flow_and_batch_go_on_where_they_were(database: Database) -> None:
    hold(database, *DEMO.model_ids)
    flow = accepted_flow(database, **CHAIN)
    batch, (job,) = stored(database, 1)
    pauses.pause(database, pauses.EVERYTHING, by="me", running="finish")
    for job_id in (job_of(database, flow.id, "a").id, job.id):
        dispatch.mark_dispatched(database, [(job_id, CLAIMANT.device_key)])
        assert attempts.claim(database, job_id, CLAIMANT, 60.0) is None
    pauses.resume(database, pauses.EVERYTHING)
    run(database, flow.id, "a")
    follow(database)
    assert states(database, flow.id)["b"] == "queued"
    claimed(database, job.id)
    attempts.succeed(database, job.id, 1, {"timings": {}})
    assert batches.get(database, batch.id).finished_at is not None


def test_a_job_of_a_batch_that_is_too_late_counts_as_its_end(database: Database) -> None:
    batch, (first, second) = stored(database, 2)
    with database.write() as session:
        late = update(Job).where(col(Job.id) == first.id).values(start_before=epoch_now() - 1)
        session.connection().execute(late)
    assert list(holding.expired(database)) == [first.id]
    dispatch.give_up(database, first.id, Failure("expired", "its latest start has passed", retryable=True))
    assert records.get(database, first.id).status == JobState.FAILED
    after = batches.get(database, batch.id)
    assert (after.failed, after.unended) == (1, 1)
    with database.read() as session:
        assert session.exec(select(Job.status).where(Job.id == second.id)).one() == JobState.QUEUED
