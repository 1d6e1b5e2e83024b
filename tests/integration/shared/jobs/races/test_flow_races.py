"""Two writers of one flow, met at each of their statements in both orders."""

from collections.abc import Callable
from typing import Any

from sqlmodel import select

from shared.database.engine import Database
from shared.database.tables import FlowNode, Use, WebhookMessage
from shared.errors import Conflict
from shared.jobs import attempts, records
from shared.jobs.flows import advancing, changing, reading
from shared.states import JOB_ENDS
from tests.conftest import both_databases
from tests.integration.shared.jobs.races.racing import is_error
from tests.support.flows import FAILURE, Node, accepted_flow, follow, job_of, run, states
from tests.support.interleaving import interleavings
from tests.support.jobs import CLAIMANT, claimed, new_job

pytestmark = both_databases
HOOK = "http://198.51.100.7/told"
CHAIN = {"a": Node(), "b": Node(("a",)), "c": Node(("b",))}
OTHER = attempts.Claimant(node="n", worker="gpu-1@n", device="cpu-1", device_key="n/1", pid=2)


class FlowRace:
    """A flow for each meeting of two writers."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.flow_id = ""
        self.met = 0

    def run(
        self,
        make: Callable[[], tuple[Callable[[], Any], Callable[[], Any]]],
        check: Callable[[Any, Any], None],
    ) -> None:
        for turned in (False, True):

            def pair(turned: bool = turned) -> tuple[Callable[[], Any], Callable[[], Any]]:
                one, other = make()
                return (other, one) if turned else (one, other)

            for _, met in interleavings(self.database, pair):
                one, other = (met.second, met.first) if turned else (met.first, met.second)
                check(one, other)
                self.met += 1
        assert self.met >= 4


def end_and_follow(database: Database, flow_id: str, job_id: str, *, fails: bool = False) -> Any:
    """End the job's first attempt, then follow its end, as two processes do it."""
    if fails:
        ended = attempts.fail(database, job_id, 1, FAILURE)
    else:
        ended = attempts.succeed(database, job_id, 1, {"timings": {}})
    advancing.advance(database, flow_id)
    return ended


def test_of_two_parents_that_end_at_once_one_releases_the_dependant(database: Database) -> None:
    race = FlowRace(database)

    def make() -> Any:
        flow = accepted_flow(database, a=Node(), b=Node(), c=Node(("a", "b")))
        race.flow_id = flow.id
        a, b = (
            claimed(database, job_of(database, flow.id, name).id, of) for name, of in (("a", CLAIMANT), ("b", OTHER))
        )
        return (
            lambda: end_and_follow(database, flow.id, a.id),
            lambda: end_and_follow(database, flow.id, b.id),
        )

    def check(one: Any, other: Any) -> None:
        assert not is_error(one)
        assert not is_error(other)
        assert states(database, race.flow_id)["c"] == "queued"
        records.request_cancel(database, job_of(database, race.flow_id, "c").id)

    race.run(make, check)


def test_a_parent_ends_while_its_flow_is_cancelled(database: Database) -> None:
    race = FlowRace(database)

    def make() -> Any:
        flow = accepted_flow(database, HOOK, **CHAIN)
        race.flow_id = flow.id
        a = claimed(database, job_of(database, flow.id, "a").id)
        return (
            lambda: end_and_follow(database, flow.id, a.id),
            lambda: changing.cancel(database, flow.id),
        )

    def check(one: Any, other: Any) -> None:
        assert not is_error(one)
        assert not is_error(other)
        follow(database)
        whole = reading.get(database, race.flow_id)
        assert whole.flow.state == "cancelled"
        assert {job.status for job in whole.jobs.values()} <= set(JOB_ENDS)
        assert [whole.jobs[node.job_id].status for node in whole.nodes[1:]] == ["cancelled"] * 2
        _ended_once(database, race.flow_id, ends=1)

    race.run(make, check)


def test_a_dependant_is_cancelled_while_its_parent_ends(database: Database) -> None:
    race = FlowRace(database)

    def make() -> Any:
        flow = accepted_flow(database, HOOK, **CHAIN)
        race.flow_id = flow.id
        a = claimed(database, job_of(database, flow.id, "a").id)
        b = job_of(database, flow.id, "b").id
        return (
            lambda: end_and_follow(database, flow.id, a.id),
            lambda: records.request_cancel(database, b),
        )

    def check(one: Any, other: Any) -> None:
        assert not is_error(one)
        assert not is_error(other)
        follow(database)
        assert states(database, race.flow_id) == {"a": "succeeded", "b": "cancelled", "c": "skipped"}
        _ended_once(database, race.flow_id, ends=1)

    race.run(make, check)


def test_the_last_two_jobs_end_at_once_and_the_flow_ends_once(database: Database) -> None:
    race = FlowRace(database)

    def make() -> Any:
        flow = accepted_flow(database, HOOK, a=Node(), b=Node(), c=Node(("a",)))
        race.flow_id = flow.id
        a, b = (
            claimed(database, job_of(database, flow.id, name).id, of) for name, of in (("a", CLAIMANT), ("b", OTHER))
        )
        return (
            lambda: end_and_follow(database, flow.id, a.id, fails=True),
            lambda: end_and_follow(database, flow.id, b.id),
        )

    def check(one: Any, other: Any) -> None:
        assert not is_error(one)
        assert not is_error(other)
        assert reading.get(database, race.flow_id).flow.state == "failed"
        _ended_once(database, race.flow_id, ends=1)

    race.run(make, check)


def test_a_retry_while_the_last_job_ends(database: Database) -> None:
    """Either the retry comes too early, or it repeats what has failed; no job is left behind."""
    race = FlowRace(database)

    def make() -> Any:
        flow = accepted_flow(database, HOOK, a=Node(), b=Node(("a",)), x=Node())
        race.flow_id = flow.id
        run(database, flow.id, "a", fails=True)
        follow(database)
        x = claimed(database, job_of(database, flow.id, "x").id)
        return (
            lambda: end_and_follow(database, flow.id, x.id),
            lambda: _retry(database, flow.id),
        )

    def check(one: Any, other: Any) -> None:
        assert not is_error(one)
        if is_error(other, Conflict):
            assert states(database, race.flow_id) == {"a": "failed", "b": "skipped", "x": "succeeded"}
            _ended_once(database, race.flow_id, ends=1)
        else:
            assert states(database, race.flow_id) == {"a": "queued", "b": "held", "x": "succeeded"}
        _end_open(database, race.flow_id)

    race.run(make, check)


def test_of_two_retries_one_is_carried_out(database: Database) -> None:
    race = FlowRace(database)

    def make() -> Any:
        flow = accepted_flow(database, HOOK, a=Node(), b=Node(("a",)))
        race.flow_id = flow.id
        run(database, flow.id, "a", fails=True)
        follow(database)
        return (lambda: _retry(database, flow.id), lambda: _retry(database, flow.id))

    def check(one: Any, other: Any) -> None:
        assert [is_error(one, Conflict), is_error(other, Conflict)].count(True) == 1
        whole = reading.get(database, race.flow_id)
        assert whole.flow.retries == 1
        assert [len(node.earlier_jobs) for node in whole.nodes] == [1, 1]
        _end_open(database, race.flow_id)

    race.run(make, check)


def test_a_job_is_deleted_while_its_flow_is_retried(database: Database) -> None:
    race = FlowRace(database)

    def make() -> Any:
        flow = accepted_flow(database, a=Node(), b=Node(("a",)))
        race.flow_id = flow.id
        a = run(database, flow.id, "a", fails=True)
        follow(database)
        return (lambda: records.remove(database, a.id), lambda: _retry(database, flow.id))

    def check(one: Any, other: Any) -> None:
        # The deletion comes first, and the retry cannot be; or the retry, and nothing of the flow may be deleted.
        assert [is_error(one, Conflict), is_error(other, Conflict)].count(True) == 1
        _end_open(database, race.flow_id)

    race.run(make, check)


def test_a_process_that_dies_between_an_end_and_what_follows_leaves_a_mark(database: Database) -> None:
    flow = accepted_flow(database, HOOK, **CHAIN)
    for name in CHAIN:
        run(database, flow.id, name)  # and the process is gone before anything followed
        assert advancing.unsettled(database) == [flow.id]
        follow(database)
        assert advancing.unsettled(database) == []
    assert reading.get(database, flow.id).flow.state == "succeeded"
    _ended_once(database, flow.id, ends=1)


def test_an_end_that_an_earlier_version_has_not_marked_is_found(database: Database) -> None:
    flow = accepted_flow(database, **CHAIN)
    run(database, flow.id, "a")
    assert advancing.mark_missed(database) == 0, "it is marked"
    with database.write() as session:
        (node,) = session.exec(select(FlowNode).where(FlowNode.name == "a"))
        node.outcome, node.settled = None, True
        session.add(node)
    follow(database)
    assert states(database, flow.id)["b"] == "held"
    assert advancing.mark_missed(database) == 1
    follow(database)
    assert states(database, flow.id)["b"] == "queued"


def _retry(database: Database, flow_id: str) -> Any:
    was = changing.retriable(database, flow_id)
    return changing.retry(
        database, was, {name: new_job(prompt=name, retry_of=job.id) for name, job in was.jobs.items()}
    )


def _end_open(database: Database, flow_id: str) -> None:
    """Cancel what is left of the flow, so that the next meeting begins with free devices."""
    if reading.get(database, flow_id).flow.finished_at is None:
        changing.cancel(database, flow_id)


def _ended_once(database: Database, flow_id: str, *, ends: int) -> None:
    with database.read() as session:
        told = session.exec(select(WebhookMessage).where(WebhookMessage.job_id == flow_id)).all()
        assert len(told) == ends
    whole = reading.get(database, flow_id)
    with database.read() as session:
        for job_id in whole.jobs:
            assert len(session.exec(select(Use).where(Use.job_id == job_id)).all()) == 1
