"""The life of a flow on both databases: release, skip, continue, cancel, retry, end, removal."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlmodel import col, select

from shared import clock
from shared.database.engine import Database
from shared.database.tables import Flow, FlowNode, Job, Use, WebhookMessage
from shared.errors import Conflict, InvalidField, LimitReached, NotFound
from shared.jobs import attempts, dispatch, records
from shared.jobs.flows import accepting, advancing, changing, reading
from shared.jobs.lines import holding
from tests.conftest import both_databases
from tests.support.flows import Node, accepted_flow, follow, job_of, new_flow, node_of, run, states
from tests.support.jobs import claimed, new_job

pytestmark = both_databases
HOOK = "http://198.51.100.7/told"
CHAIN = {"a": Node(), "b": Node(("a",)), "c": Node(("b",))}
DIAMOND = {"a": Node(), "b": Node(("a",)), "c": Node(("a",)), "d": Node(("b", "c"))}


def flow_row(database: Database, flow_id: str) -> Flow:
    return reading.get(database, flow_id).flow


def messages(database: Database) -> list[WebhookMessage]:
    with database.read() as session:
        return list(session.exec(select(WebhookMessage).order_by(col(WebhookMessage.id))))


def retried(database: Database, flow_id: str) -> Flow:
    was = changing.retriable(database, flow_id)
    return changing.retry(
        database, was, {name: new_job(prompt=name, retry_of=job.id) for name, job in was.jobs.items()}
    )


def test_a_chain_runs_in_order_and_succeeds(database: Database) -> None:
    flow = accepted_flow(database, HOOK, **CHAIN)
    assert states(database, flow.id) == {"a": "queued", "b": "held", "c": "held"}
    for name, after in (("a", {"b": "queued", "c": "held"}), ("b", {"c": "queued"}), ("c", {})):
        run(database, flow.id, name)
        follow(database)
        assert {key: value for key, value in states(database, flow.id).items() if value != "succeeded"} == after
    assert flow_row(database, flow.id).state == "succeeded"
    assert [(one.type, one.job_id) for one in messages(database)] == [("flow.succeeded", flow.id)]
    advancing.advance(database, flow.id)  # again: no second end
    assert len(messages(database)) == 1


def test_a_held_job_is_in_no_line_and_its_waiting_time_begins_with_its_release(database: Database) -> None:
    flow = accepted_flow(database, **CHAIN)
    job = job_of(database, flow.id, "b")
    assert [one.job_id for one in dispatch.read_queue(database).waiting] == [job_of(database, flow.id, "a").id]
    assert attempts.claim(database, job.id, _claimant(), 60) is None
    assert holding.release_due(database) == 0  # no start time is what it waits for
    run(database, flow.id, "a")
    follow(database)
    released = job_of(database, flow.id, "b")
    assert (released.held, released.line) == (None, holding.line_of_job(released))
    assert released.queued_at > job.queued_at


def test_a_start_time_counts_after_the_dependencies(database: Database) -> None:
    new = new_flow(a=Node(), b=Node(("a",)))
    later = clock.now().timestamp() + 3600
    b = replace(new.nodes[1], job=replace(new.nodes[1].job, start_after=later))
    accepting.accept(database, replace(new, nodes=(new.nodes[0], b)))
    assert job_of(database, new.id, "b").held == "dependency"
    run(database, new.id, "a")
    follow(database)
    job = job_of(database, new.id, "b")
    assert (job.held, job.queued_at) == ("start_time", pytest.approx(later))


def test_a_failure_skips_all_that_depends_on_it(database: Database) -> None:
    flow = accepted_flow(database, HOOK, **CHAIN, other=Node())
    run(database, flow.id, "a", fails=True)
    follow(database)
    assert states(database, flow.id) == {"a": "failed", "b": "skipped", "c": "skipped", "other": "queued"}
    skipped = job_of(database, flow.id, "c")
    assert skipped.status == "cancelled"
    assert skipped.error is not None
    assert skipped.error["code"] == "skipped"
    assert "'b'" in skipped.error["message"]
    assert flow_row(database, flow.id).state == "running"
    run(database, flow.id, "other")
    follow(database)
    assert flow_row(database, flow.id).state == "failed"
    with database.read() as session:
        assert len(session.exec(select(Use)).all()) == 4  # each job has ended once


def test_a_failed_attempt_that_is_repeated_ends_nothing(database: Database) -> None:
    flow = accepted_flow(database, **CHAIN)
    job = claimed(database, job_of(database, flow.id, "a").id)
    attempts.crashed(database, job.id, job.attempt, "It died", 0.0)
    follow(database)
    assert states(database, flow.id) == {"a": "queued", "b": "held", "c": "held"}


def test_dependants_of_a_job_that_says_continue_run_anyway(database: Database) -> None:
    flow = accepted_flow(database, a=Node(on_failure="continue"), b=Node(("a",)))
    run(database, flow.id, "a", fails=True)
    follow(database)
    assert states(database, flow.id) == {"a": "failed", "b": "queued"}
    run(database, flow.id, "b")
    follow(database)
    assert flow_row(database, flow.id).state == "succeeded"


def test_but_not_one_that_takes_a_frame_of_it(database: Database) -> None:
    takes = {"job": "a", "frame": "last"}
    flow = accepted_flow(database, a=Node(on_failure="continue"), b=Node(("a",), frame_of=takes))
    run(database, flow.id, "a", fails=True)
    follow(database)
    assert states(database, flow.id) == {"a": "failed", "b": "skipped"}
    assert flow_row(database, flow.id).state == "failed"


def test_the_frame_becomes_the_picture_of_the_dependant(database: Database) -> None:
    takes = {"job": "a", "frame": "last"}
    flow = accepted_flow(database, a=Node(), b=Node(("a",), frame_of=takes), c=Node(("b",)))
    artifact = {"name": "frame-last.png", "kind": "frame", "sha256": "ab", "bytes": 1, "content_type": "image/png"}
    made = run(database, flow.id, "a", artifacts=[artifact])
    follow(database)
    params = job_of(database, flow.id, "b").params
    assert params["image"] == f"artifacts/{made.id}/{made.attempt}/frame-last.png"
    assert params["image_sha256"] == "ab"


def test_a_frame_that_was_not_kept_skips_what_takes_it(database: Database) -> None:
    takes = {"job": "a", "frame": "last"}
    flow = accepted_flow(database, a=Node(), b=Node(("a",), frame_of=takes), c=Node(("b",)))
    run(database, flow.id, "a")
    follow(database)
    assert states(database, flow.id) == {"a": "succeeded", "b": "skipped", "c": "skipped"}


def test_a_cancelled_job_skips_its_dependants(database: Database) -> None:
    flow = accepted_flow(database, **CHAIN)
    records.request_cancel(database, job_of(database, flow.id, "a").id)
    follow(database)
    assert states(database, flow.id) == {"a": "cancelled", "b": "skipped", "c": "skipped"}
    assert flow_row(database, flow.id).state == "cancelled"


def test_cancelling_a_flow_ends_the_waiting_jobs_and_stops_the_running_ones(database: Database) -> None:
    flow = accepted_flow(database, HOOK, **DIAMOND, other=Node())
    running = claimed(database, job_of(database, flow.id, "a").id)
    done = changing.cancel(database, flow.id)
    assert sorted((one.job.status, one.ended) for one in done.jobs) == [("cancelled", True)] * 4 + [("running", False)]
    assert flow_row(database, flow.id).finished_at is None
    assert changing.cancel(database, flow.id).jobs[0].job.id == running.id  # again
    attempts.succeed(database, running.id, running.attempt, {"timings": {}})  # the cancel came before
    follow(database)
    assert flow_row(database, flow.id).state == "cancelled"
    assert [one.type for one in messages(database)] == ["flow.cancelled"]
    assert changing.cancel(database, flow.id).jobs == ()


def test_what_has_ended_cannot_be_cancelled(database: Database) -> None:
    flow = accepted_flow(database, a=Node())
    run(database, flow.id, "a")
    follow(database)
    with pytest.raises(Conflict, match="already succeeded"):
        changing.cancel(database, flow.id)
    with pytest.raises(NotFound):
        changing.cancel(database, flow.id, only="another")


def test_a_retry_repeats_what_has_not_succeeded(database: Database) -> None:
    flow = accepted_flow(database, HOOK, **DIAMOND)
    run(database, flow.id, "a")
    follow(database)
    failed = run(database, flow.id, "b", fails=True)
    run(database, flow.id, "c")
    follow(database)
    assert flow_row(database, flow.id).state == "failed"
    again = retried(database, flow.id)
    assert (again.state, again.retries, again.finished_at) == ("running", 1, None)
    follow(database)
    assert states(database, flow.id) == {"a": "succeeded", "b": "queued", "c": "succeeded", "d": "held"}
    assert node_of(database, flow.id, "b").earlier_jobs == [failed.id]
    assert job_of(database, flow.id, "b").retry_of == failed.id
    for name in ("b", "d"):
        run(database, flow.id, name)
        follow(database)
    assert flow_row(database, flow.id).state == "succeeded"
    assert [one.type for one in messages(database)] == ["flow.failed", "flow.succeeded"]


def test_only_a_flow_that_has_ended_badly_can_be_retried(database: Database) -> None:
    flow = accepted_flow(database, a=Node())
    with pytest.raises(Conflict, match="queued"):
        changing.retriable(database, flow.id)
    run(database, flow.id, "a")
    follow(database)
    with pytest.raises(Conflict, match="succeeded"):
        changing.retriable(database, flow.id)


def test_a_retry_needs_the_jobs_that_it_repeats_and_whose_frames_it_takes(database: Database) -> None:
    takes = {"job": "a", "frame": "last"}
    flow = accepted_flow(database, a=Node(), b=Node(("a",), frame_of=takes))
    run(database, flow.id, "a")  # without the frame, so that b is skipped
    follow(database)
    records.remove(database, job_of(database, flow.id, "a").id)
    with pytest.raises(Conflict, match="deleted: a"):
        changing.retriable(database, flow.id)


def test_jobs_of_an_open_flow_are_neither_deleted_nor_purged(database: Database) -> None:
    flow = accepted_flow(database, **CHAIN)
    ended = run(database, flow.id, "a")
    follow(database)
    with pytest.raises(Conflict, match=flow.id):
        records.remove(database, ended.id)
    future = clock.now() + timedelta(days=1)
    assert records.purgeable(database, future) == []
    assert records.purge(database, [ended.id]) == 0
    changing.cancel(database, flow.id)
    gone = records.purgeable(database, future)
    assert len(gone) == 3
    assert records.purge(database, gone[:2]) == 2
    assert reading.get(database, flow.id).flow.state == "cancelled"  # as long as one of its jobs is there
    assert records.purge(database, gone[2:]) == 1
    with pytest.raises(NotFound):
        reading.get(database, flow.id)
    with database.read() as session:
        assert session.exec(select(FlowNode)).all() == []


def test_a_key_gives_the_same_flow_again_and_refuses_another(database: Database) -> None:
    new = replace(new_flow(**CHAIN), idempotency_key="k", request_hash="h")
    first = accepting.accept(database, new)
    same = accepting.accept(database, replace(new_flow(**CHAIN), idempotency_key="k", request_hash="h"))
    assert (first.replayed, same.replayed, same.flow.id) == (False, True, first.flow.id)
    with pytest.raises(InvalidField, match="another body"):
        accepting.accept(database, replace(new_flow(**CHAIN), idempotency_key="k", request_hash="other"))
    with database.read() as session:
        assert len(session.exec(select(Job)).all()) == 3


def test_a_limit_that_the_whole_would_pass_refuses_the_whole(database: Database) -> None:
    new = new_flow(owner="key", **CHAIN)
    nodes = tuple(replace(node, job=replace(node.job, owner_may_queue=2)) for node in new.nodes)
    with pytest.raises(LimitReached, match="3 more"):
        accepting.accept(database, replace(new, nodes=nodes))
    with database.read() as session:
        assert session.exec(select(Job)).all() == []
        assert session.exec(select(Flow)).all() == []


def test_a_page_counts_the_jobs_by_state(database: Database) -> None:
    flows = [accepted_flow(database, **CHAIN) for _ in range(3)]
    run(database, flows[1].id, "a")
    follow(database)
    page = reading.page(database, only=None, limit=2)
    assert [one.flow.id for one in page.flows] == [flows[2].id, flows[1].id]
    assert page.has_more
    assert page.flows[1].counts == {"succeeded": 1, "queued": 1, "held": 1}
    assert page.flows[1].percent == pytest.approx(33.3)
    assert [one.flow.id for one in reading.page(database, only=None, limit=2, after=flows[1].id).flows] == [flows[0].id]
    assert [one.flow.id for one in reading.page(database, only=None, limit=2, state="running").flows] == [flows[1].id]
    assert reading.page(database, only="another", limit=2).flows == []


def test_a_flow_runs_once_one_of_its_jobs_runs(database: Database) -> None:
    flow = accepted_flow(database, **CHAIN)
    claimed(database, job_of(database, flow.id, "a").id)
    assert advancing.note_started(database) == 1
    assert flow_row(database, flow.id).state == "running"
    assert advancing.note_started(database) == 0


def _claimant() -> attempts.Claimant:
    from tests.support.jobs import CLAIMANT

    return CLAIMANT


def test_the_dispatchers_question_reads_only_what_was_not_followed(database: Database) -> None:
    """Whatever the number of flows, an index has only these."""
    for _ in range(30):
        run(database, accepted_flow(database, a=Node()).id, "a")
    follow(database)
    flow = accepted_flow(database, a=Node())
    run(database, flow.id, "a")
    assert advancing.unsettled(database) == [flow.id]
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    settled = "settled IS 0" if database.is_sqlite else "settled IS false"
    query = f"SELECT DISTINCT flow_id FROM flow_nodes WHERE {settled} LIMIT 100"
    with database.read(snapshot=True) as session:
        if not database.is_sqlite:  # of a table of one page, a scan is cheaper
            session.connection().exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = "\n".join(str(row[-1]) for row in session.connection().exec_driver_sql(explain + query))
    assert "ix_flow_nodes_unsettled" in plan, plan
