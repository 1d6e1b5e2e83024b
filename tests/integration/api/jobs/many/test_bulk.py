"""Actions on many jobs: counted, done at once, or by a job that survives what kills it."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlmodel import col, func, select
from starlette.testclient import TestClient

from api.jobs.many import bulk as handlers
from api.services.bulk import runner
from api.services.bulk.actions import Actions
from shared.access import audit, keys
from shared.access.keys import Limits
from shared.catalogue.job_types import DOWNLOAD, DownloadParams
from shared.database.engine import Database
from shared.database.tables import Job
from shared.jobs import accepting, attempts, bulk, records
from shared.jobs.accepting import Accepted, NewJob
from shared.jobs.attempts import Failure
from shared.jobs.reading import running_attempts
from shared.settings import Settings
from shared.states import JobState, Priority, Scope
from tests.conftest import both_databases
from tests.integration.api.jobs.submitted_jobs import JOBS, NO_JOB
from tests.support.batches import stored
from tests.support.jobs import accepted, claimed
from tests.support.stack import wait_for

URL = "/api/v1/jobs/bulk"
BOTH = (Scope.READ, Scope.SUBMIT)
EVERY = {"all": True}


def act(client: TestClient, action: str, which: dict[str, Any], status: int = 200, **more: Any) -> dict[str, Any]:
    options = {"headers": more.pop("headers")} if "headers" in more else {}
    answer = client.post(URL, json={"action": action, "filter": which, **more}, **options)
    assert answer.status_code == status, answer.text
    result: dict[str, Any] = answer.json()
    return result


def failed(database: Database, **values: Any) -> str:
    job = claimed(database, accepted(database, **values).id)
    attempts.fail(database, job.id, job.attempt, Failure("worker_lost", "It died", True))
    return job.id


def of_node(database: Database, owner: str | None = None) -> str:
    """A download, which only administrators may retry."""
    new = NewJob(DOWNLOAD, DownloadParams(model_id="T2V-A14B", node="here"), Priority.NORMAL, owner=owner)
    (outcome,) = accepting.accept(database, [new])
    assert isinstance(outcome, Accepted)
    return outcome.job.id


def states(database: Database) -> dict[str, int]:
    with database.read() as session:
        query = select(Job.status, func.count()).where(col(Job.type) == "generation").group_by(col(Job.status))
        return dict(session.exec(query).all())


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few jobs are many, and each step takes three of them."""
    monkeypatch.setattr(handlers, "AT_ONCE", 5)
    monkeypatch.setattr(bulk, "AT_ONCE", 3)
    monkeypatch.setattr("api.services.bulk.actions._RETRIED_AT_ONCE", 3)


@both_databases
def test_what_matches_is_counted_then_changed(client: TestClient, database: Database) -> None:
    batch, jobs = stored(database, 3)
    other = accepted(database, model_id="TI2V-5B")
    running = claimed(database, accepted(database).id)
    dead = failed(database)
    counted = act(client, "cancel", {"status": "queued"}, dry_run=True)
    assert (counted["dry_run"], counted["matched"], counted["changed"]) == (True, 4, 0)
    assert counted["ids"] == [*(job.id for job in jobs), other.id]
    assert states(database) == {"queued": 4, "running": 1, "failed": 1}
    done = act(client, "set_priority", EVERY, priority="high")
    assert (done["matched"], done["changed"]) == (6, 4)
    assert done["skipped"] == {"is_running": 1, "has_ended": 1}
    assert {records.get(database, job.id).priority for job in jobs} == {Priority.HIGH.rank}
    assert act(client, "set_priority", {"batch_id": batch.id}, priority="high")["skipped"] == {"unchanged": 3}
    done = act(client, "cancel", {"batch_id": batch.id})
    assert (done["matched"], done["changed"], done["skipped"]) == (3, 3, {})
    assert client.get(f"/api/v1/batches/{batch.id}").json()["status"] == "cancelled"
    assert act(client, "cancel", {"model_id": "T2V-A14B"})["skipped"] == {"has_ended": 4}
    assert records.get(database, running.id).cancel_at is not None
    done = act(client, "retry", EVERY)
    assert (done["changed"], done["skipped"]) == (4, {"has_not_ended": 2})
    assert act(client, "retry", {"status": "failed"})["skipped"] == {"already_retried": 1}
    assert act(client, "retry", {"batch_id": batch.id})["skipped"] == {"already_retried": 3}
    retried = [job for job in client.get(JOBS).json()["data"] if job["retry_of"] == dead]
    assert len(retried) == 1
    before = records.get(database, jobs[0].id).created_at.isoformat().replace("+00:00", "Z")
    assert act(client, "delete", {"created_before": before})["matched"] == 0
    done = act(client, "delete", {"status": "cancelled"})
    assert done["changed"] == 3
    assert client.get(f"/api/v1/batches/{batch.id}").status_code == 404
    assert act(client, "delete", EVERY)["changed"] == 7
    assert client.get(JOBS).json()["data"] == []
    acts = [entry.act for entry in audit.page(database, limit=50).entries]
    assert acts.count("bulkJobs") == 10, "all but the dry run"


@both_databases
def test_a_dry_run_says_how_many_jobs_would_change(client: TestClient, database: Database) -> None:
    """Its figure is what the action does next, for each action and each caller."""
    _, jobs = stored(database, 3)
    claimed(database, accepted(database).id)
    failed(database)
    succeeded = claimed(database, accepted(database).id)
    attempts.succeed(database, succeeded.id, 1, {"timings": {}})
    of_node(database)
    which: dict[str, Any]
    for action, which, more in (
        ("set_priority", EVERY, {"priority": "high"}),
        ("set_priority", EVERY, {"priority": "high"}),
        ("retry", {"status": "succeeded"}, {}),
        ("retry", EVERY, {}),
        ("cancel", {"ids": [jobs[0].id, succeeded.id]}, {}),
        ("cancel", EVERY, {}),
        ("cancel", {"status": "succeeded"}, {}),
        ("retry", EVERY, {}),
        ("delete", {"status": "failed"}, {}),
        ("delete", EVERY, {}),
    ):
        counted = act(client, action, which, dry_run=True, **more)
        done = act(client, action, which, **more)
        found = (counted["would_change"], counted["matched"], done["would_change"])
        assert found == (done["changed"], done["matched"], None), action


def test_a_dry_run_counts_what_the_key_may_change(client: TestClient, database: Database) -> None:
    owner, secret = keys.make(database, "mine", BOTH, Limits())
    _, boss = keys.make(database, "boss", (Scope.ADMIN,), Limits())
    mine, admin = ({"Authorization": f"Bearer {one}"} for one in (secret, boss))
    failed(database)
    failed(database, owner=owner.id)
    act(client, "cancel", {"ids": [of_node(database, owner.id)]}, headers=admin)
    counted = act(client, "retry", EVERY, dry_run=True, headers=mine)
    assert (counted["matched"], counted["would_change"]) == (2, 1), "jobs of nodes need the scope admin"
    assert act(client, "retry", EVERY, dry_run=True, headers=admin)["would_change"] == 3


def test_retries_of_succeeded_jobs_must_be_meant(client: TestClient, database: Database) -> None:
    job = claimed(database, accepted(database).id)
    attempts.succeed(database, job.id, 1, {"timings": {}})
    assert act(client, "retry", EVERY)["skipped"] == {"has_succeeded": 1}
    assert act(client, "retry", {"status": "succeeded"})["changed"] == 1


def test_refusals(client: TestClient, database: Database) -> None:
    def wrong(body: Any) -> str:
        answer = client.post(URL, json=body)
        assert answer.status_code == 422, answer.text
        return str(answer.json()["detail"])

    assert '{"all": true} for every job' in wrong({"action": "delete", "filter": {}})
    assert "`all` excludes other filters" in wrong({"action": "delete", "filter": {"all": True, "status": "failed"}})
    assert "filter" in wrong({"action": "delete"})
    assert "action" in wrong({"action": "explode", "filter": EVERY})
    assert "needs `priority`: critical, high, normal, low" in wrong({"action": "set_priority", "filter": EVERY})
    assert "has no `priority`" in wrong({"action": "cancel", "priority": "low", "filter": EVERY})
    assert "there is no such type of job; allowed" in wrong({"action": "cancel", "filter": {"type": "x"}})
    assert "batch_id" in wrong({"action": "cancel", "filter": {"batch_id": "x"}})
    assert "there is no API key 'x'" in wrong({"action": "cancel", "filter": {"key": "x"}})
    assert "there is no such field" in wrong({"action": "cancel", "filter": {"colour": "red"}})
    assert act(client, "cancel", {"batch_id": NO_JOB})["matched"] == 0


@both_databases
def test_a_key_acts_on_its_own_jobs_under_its_limits(client: TestClient, database: Database) -> None:
    limits = Limits(priority_ceiling=Priority.NORMAL, queued_jobs=2)
    owner, secret = keys.make(database, "mine", BOTH, limits)
    _, boss = keys.make(database, "boss", (Scope.ADMIN,), Limits())
    mine, admin = ({"Authorization": f"Bearer {one}"} for one in (secret, boss))
    for _ in range(4):
        failed(database, owner=owner.id)
    others = [accepted(database) for _ in range(2)]
    refused = client.post(URL, json={"action": "set_priority", "priority": "high", "filter": EVERY}, headers=mine)
    assert refused.json()["errors"][0]["type"] == "over_ceiling"
    assert client.post(URL, json={"action": "cancel", "filter": {"key": "boss"}}, headers=mine).status_code == 403
    done = act(client, "retry", EVERY, headers=mine)
    assert (done["matched"], done["changed"], done["skipped"]) == (4, 2, {"limit_reached": 2})
    assert "2 jobs queued, which is its limit" in done["detail"]
    assert act(client, "cancel", {"key": "mine", "status": "queued"}, headers=admin)["changed"] == 2
    assert {records.get(database, job.id).status for job in others} == {JobState.QUEUED}
    assert act(client, "cancel", EVERY, headers=admin)["changed"] == 2


@both_databases
def test_many_jobs_become_a_job(client: TestClient, database: Database, several: None) -> None:
    for _ in range(10):
        accepted(database)
    result = act(client, "cancel", {"status": "queued"}, 202, headers={"Idempotency-Key": "one"})
    assert result["matched"] == 10
    job = finished(client, result["job_id"])
    assert (job["type"], job["status"], job["progress"]["percent"]) == ("bulk", "succeeded", 100.0)
    assert job["params"] == {"action": "cancel", "filter": {"status": "queued"}, "priority": None}
    assert (job["result"]["matched"], job["result"]["changed"], job["result"]["skipped"]) == (10, 10, {})
    assert states(database) == {"cancelled": 10}
    assert client.post(f"{JOBS}/{job['id']}/retry").status_code == 409
    for name, changed in (("retry", 10), ("set_priority", 10), ("delete", 20)):
        more = {"priority": "low"} if name == "set_priority" else {}
        which = {"type": "generation"} | ({"status": "queued"} if more else {})
        job = finished(client, act(client, name, which, 202, **more)["job_id"])
        assert (job["status"], job["result"]["changed"]) == ("succeeded", changed), job
    wait_for(lambda: states(database) == {}, 10)


def finished(client: TestClient, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def ended() -> bool:
        found.update(client.get(f"{JOBS}/{job_id}").json())
        return found["status"] in ("succeeded", "failed", "cancelled")

    wait_for(ended, 30, "for the action to end")
    return found


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@both_databases
def test_an_action_that_is_cut_off_is_continued_and_does_nothing_twice(
    make_client: Callable[[Settings], TestClient],
    settings: Settings,
    database: Database,
    several: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process is killed after the second step, or within it: its lease expires, and another continues."""
    for _ in range(8):
        failed(database)
    monkeypatch.setattr(runner, "_LEASE_SECONDS", 1.0)
    steps = []
    real = Actions.step

    def dying(self: Actions, action: Any, tally: Any, task: Any = None) -> Any:
        steps.append(tally.cursor)
        if len(steps) == 2:  # within: two of the three are retried, and the step is not stored
            monkeypatch.setattr(bulk, "save", _dies)
            try:
                real(self, action, tally, task)
            except SystemExit:
                monkeypatch.setattr(bulk, "save", saved)
                monkeypatch.setattr(Actions, "step", real)
                raise
        return real(self, action, tally, task)

    saved = bulk.save
    monkeypatch.setattr(Actions, "step", dying)
    first, second = make_client(settings), make_client(settings)
    second.app_state["context"].bulk_runner.stop()
    result = act(first, "retry", EVERY, 202)
    wait_for(lambda: len(steps) == 2, 20)
    first.app_state["context"].bulk_runner.join(5)
    assert not first.app_state["context"].bulk_runner.is_alive(), "as after a kill"
    assert records.get(database, result["job_id"]).status == JobState.RUNNING
    wait_for(lambda: running_attempts.lapsed(database) != [], 10)
    ((job_id, attempt),) = running_attempts.lapsed(database)
    attempts.crashed(database, job_id, attempt, "The worker died", 10.0, lapsed=True)
    third = make_client(settings)
    job = finished(third, result["job_id"])
    assert (job["status"], job["attempt"], job["failures"]) == ("succeeded", 2, 1)
    assert (job["result"]["matched"], job["result"]["changed"], job["result"]["skipped"]) == (8, 8, {})
    assert states(database) == {"failed": 8, "queued": 8}


def _dies(*_: Any) -> None:
    raise SystemExit


@both_databases
def test_an_action_is_cancelled(client: TestClient, database: Database, several: None) -> None:
    context = client.app_state["context"]
    context.bulk_runner.stop()
    for _ in range(10):
        accepted(database)
    job_id = act(client, "cancel", {"status": "queued"}, 202)["job_id"]
    queued = client.get(f"{JOBS}/{job_id}").json()
    assert (queued["status"], queued["waiting_for"]["reason"]) == ("queued", "limit")
    job = bulk.claim_next(database, "web@here", 1, 60.0)
    assert job is not None
    assert bulk.claim_next(database, "web@there", 2, 60.0) is None
    action, task = runner.action_of(job), bulk.Task(job.id, job.attempt, 60.0)
    tally = context.bulk_actions.step(action, bulk.Tally(10), task)
    assert (tally.changed, records.get(database, job_id).percent) == (3, 30.0)
    assert client.post(f"{JOBS}/{job_id}/cancel").json()["status"] == "running"
    with pytest.raises(bulk.Cancelled):
        context.bulk_actions.step(action, tally, task)
    attempts.cancelled(database, job_id, 1, 30.0)
    assert states(database) == {"cancelled": 3, "queued": 7}
    ended = client.get(f"{JOBS}/{job_id}").json()
    assert (ended["status"], ended["result"]["changed"]) == ("cancelled", 3)
    waiting = act(client, "cancel", {"status": "queued"}, 202)["job_id"]
    assert client.post(f"{JOBS}/{waiting}/cancel").json()["status"] == "cancelled"
    assert bulk.claim_next(database, "web@here", 1, 60.0) is None
