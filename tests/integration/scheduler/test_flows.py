"""What the dispatcher does with flows: it sends dependants once they may start, whichever dispatcher saw the end."""

import pytest

from scheduler.flows import Flows
from shared.database.engine import Database
from shared.jobs import attempts
from shared.jobs.flows import advancing, reading
from shared.settings import Settings
from tests.conftest import both_databases
from tests.integration.scheduler.queued_jobs import Sent, claimant
from tests.support.flows import FAILURE, Node, accepted_flow, job_of, states

pytestmark = both_databases


def _run(database: Database, job_id: str, key: str, *, fails: bool = False) -> None:
    """End a job that was sent to this device, and follow nothing: that is the dispatcher's part."""
    job = attempts.claim(database, job_id, claimant(int(key.rpartition("/")[2])), 60)
    assert job is not None
    if fails:
        attempts.fail(database, job.id, job.attempt, FAILURE)
    else:
        attempts.succeed(database, job.id, job.attempt, {"timings": {}})


def test_each_pass_sends_what_the_ends_before_have_released(sent: Sent, settings: Settings, database: Database) -> None:
    flow = accepted_flow(database, a=Node(), b=Node(("a",)), c=Node(("a",)), d=Node(("b", "c")))
    for names in (["a"], ["b", "c"], ["d"]):
        another = Sent(settings, database)  # the one before is gone
        another.dispatcher.run_pass()
        expected = {job_of(database, flow.id, name).id for name in names}
        assert {job_id for job_id, _ in another.jobs} == expected
        for job_id, key in another.jobs:
            _run(database, job_id, key)
    sent.dispatcher.run_pass()
    assert sent.jobs == []
    assert reading.get(database, flow.id).flow.state == "succeeded"


def test_a_pass_skips_what_cannot_run_and_marks_what_runs(sent: Sent, database: Database) -> None:
    flow = accepted_flow(database, a=Node(), x=Node(), b=Node(("a",)))
    sent.dispatcher.run_pass()
    by_id = dict(sent.jobs)
    x, a = job_of(database, flow.id, "x").id, job_of(database, flow.id, "a").id
    assert attempts.claim(database, x, claimant(int(by_id[x].rpartition("/")[2])), 60) is not None
    sent.dispatcher.run_pass()
    assert reading.get(database, flow.id).flow.state == "running"
    _run(database, a, by_id[a], fails=True)
    sent.dispatcher.run_pass()
    assert states(database, flow.id) == {"a": "failed", "x": "running", "b": "skipped"}


def test_a_flow_that_cannot_be_read_does_not_stop_the_others(
    sent: Sent, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(sent.dispatcher._flows, Flows)
    first, second = (accepted_flow(database, a=Node(), b=Node(("a",))) for _ in range(2))
    sent.dispatcher.run_pass()
    for job_id, key in sent.jobs:
        _run(database, job_id, key)
    follow = advancing.advance

    def broken(of: Database, flow_id: str) -> advancing.Advanced:
        if flow_id == first.id:
            raise RuntimeError("it cannot be read")
        return follow(of, flow_id)

    monkeypatch.setattr(advancing, "advance", broken)
    sent.dispatcher.run_pass()
    assert states(database, second.id)["b"] == "queued"
    assert states(database, first.id)["b"] == "held"
    monkeypatch.undo()
    sent.dispatcher.run_pass()
    assert states(database, first.id)["b"] == "queued"
