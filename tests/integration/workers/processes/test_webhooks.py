"""Webhooks of jobs: every end creates a message, and each message is kept until it is accepted."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlmodel import update
from starlette.testclient import TestClient

from shared import clock
from shared.cluster.nodes import webhook_secret
from shared.database.engine import Database
from shared.database.tables import Job, WebhookMessage
from shared.jobs import attempts, dispatch, ids, records
from shared.jobs.attempts import Failure
from shared.jobs.ending import webhooks
from shared.net import standard_webhooks
from shared.settings import Settings, load
from tests.conftest import both_databases
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.integration.scheduler.alerts.test_alerts import SECRET
from tests.integration.workers.processes.webhook_messages import HOOK, HUNDREDS, _cancel_waiting, _due, messages
from tests.support import working
from tests.support.jobs import accepted
from tests.support.lost_answers import lost_answers

# --- made with the end of the job


def _succeed(database: Database, job: Job) -> None:
    working.finish(database, working.claim(database, job.id), [])


def _fail(database: Database, job: Job) -> None:
    running = working.claim(database, job.id)
    attempts.fail(database, job.id, running.attempt, Failure("bad_input", "No", retryable=False))


def _cancel_running(database: Database, job: Job) -> None:
    running = working.claim(database, job.id)
    attempts.cancelled(database, job.id, running.attempt)


def _give_up(database: Database, job: Job) -> None:
    assert dispatch.give_up(database, job.id, Failure("no_device", "None", retryable=True)) is not None


def _crash_for_good(database: Database, job: Job) -> None:
    running = working.claim(database, job.id)
    attempts.crashed(database, job.id, running.attempt, "It died", 0.0)


@both_databases
@pytest.mark.parametrize(
    ("end", "type"),
    [
        (_succeed, "job.succeeded"),
        (_fail, "job.failed"),
        (_cancel_waiting, "job.cancelled"),
        (_cancel_running, "job.cancelled"),
        (_give_up, "job.failed"),
        (_crash_for_good, "job.failed"),
    ],
)
def test_every_end_creates_a_message(database: Database, end: Callable[[Database, Job], None], type: str) -> None:
    job = accepted(database, webhook_url=HOOK, max_failures=1, metadata={"order": "7"})
    silent = accepted(database, max_failures=1)
    for one in (job, silent):
        end(database, one)
    (message,) = messages(database)
    assert (message.job_id, message.type, message.state, message.url) == (job.id, type, "waiting", HOOK)
    assert message.data["status"] == type.removeprefix("job.")
    assert (message.data["id"], message.data["metadata"]) == (job.id, {"order": "7"})
    assert message.data["finished_at"]
    assert "a cat" not in json.dumps(message.data), "prompts are the owner's own"


def test_a_stop_is_no_end(database: Database) -> None:
    running = working.claim(database, accepted(database, webhook_url=HOOK).id)
    attempts.give_back(database, running.id, running.attempt)
    assert messages(database) == []


def test_a_superseded_attempt_creates_no_message(database: Database) -> None:
    running = working.claim(database, accepted(database, webhook_url=HOOK).id)
    attempts.crashed(database, running.id, running.attempt, "It died", 0.0)
    assert attempts.crashed(database, running.id, running.attempt, "Again", 0.0) is None
    assert messages(database) == []


@both_databases
def test_a_message_is_taken_by_one(database: Database) -> None:
    for _ in range(3):
        _cancel_waiting(database, accepted(database, webhook_url=HOOK))
    first = webhooks.take_due(database, 60.0, limit=2)
    second = webhooks.take_due(database, 60.0)
    assert (len(first), len(second)) == (2, 1)
    assert {one.id for one in first}.isdisjoint(one.id for one in second)
    assert webhooks.take_due(database, 60.0) == []


@both_databases
def test_only_the_newest_progress_waits_and_none_after_the_end(database: Database) -> None:
    running = working.claim(database, accepted(database, webhook_url=HOOK, webhook_progress=True).id)
    for percent in (10.0, 20.0):
        webhooks.add_progress(database, running, f"msg_{ids.new_id()}", {"percent": percent})
    (message,) = messages(database)
    assert (message.type, message.data["progress"]) == ("job.progress", {"percent": 20.0})
    working.finish(database, running, [])
    assert [one.type for one in messages(database)] == ["job.succeeded"]
    # What was reported before the end may be stored after it.
    webhooks.add_progress(database, running, "msg_late", {"percent": 30.0})
    assert [one.type for one in messages(database)] == ["job.succeeded"]


def test_a_message_that_may_have_been_sent_is_not_changed(database: Database) -> None:
    """A receiver whose response was lost receives the same content again, under the same id."""
    running = working.claim(database, accepted(database, webhook_url=HOOK, webhook_progress=True).id)
    webhooks.add_progress(database, running, "msg_1", {"percent": 10.0})
    (tried,) = webhooks.take_due(database, 1.0)
    webhooks.failed(database, tried, "no answer", 0.0)
    webhooks.add_progress(database, running, "msg_2", {"percent": 20.0})
    assert {one.id: one.data["progress"]["percent"] for one in messages(database)} == {"msg_1": 10.0, "msg_2": 20.0}


def test_what_waits_outlives_its_job(database: Database) -> None:
    job = accepted(database, webhook_url=HOOK)
    _cancel_waiting(database, job)
    records.purge(database, [job.id])
    (message,) = messages(database)
    webhooks.delivered(database, message, clock.now())
    other = accepted(database, webhook_url=HOOK)
    _cancel_waiting(database, other)
    (waiting,) = webhooks.take_due(database, 1.0)
    webhooks.failed(database, waiting, "gone", None)
    records.purge(database, [other.id])
    assert [one.job_id for one in messages(database)] == [job.id]


@both_databases
def test_hundreds_of_messages_of_one_receiver_do_not_hide_others(database: Database) -> None:
    _due(database, *["http://busy.example/x"] * HUNDREDS, "http://a.example/", "http://b.example/", "http://a.example/")
    first = webhooks.take_due(database, 60.0, limit=8, per_receiver=2)
    assert [one.receiver for one in first] == ["busy.example:80"] * 2 + ["a.example:80", "b.example:80", "a.example:80"]
    second = webhooks.take_due(database, 60.0, limit=8, per_receiver=2, busy={"busy.example:80": 1})
    assert [one.receiver for one in second] == ["busy.example:80"]
    assert webhooks.take_due(database, 60.0, limit=8, per_receiver=2, busy={"busy.example:80": 2}) == []


@both_databases
def test_messages_of_an_earlier_version_get_their_receiver(database: Database) -> None:
    _due(database, *["https://Busy.example.:8443/x"] * 3, "http://[2001:db8::1]/", "http://a..b/")
    with database.write() as session:
        session.execute(update(WebhookMessage).values(receiver=""))
    taken = webhooks.take_due(database, 60.0, limit=8, per_receiver=2)
    assert [one.receiver for one in taken] == ["busy.example:8443"] * 2 + ["[2001:db8::1]:80", "nowhere"]


def test_a_job_names_its_receiver(database: Database) -> None:
    _cancel_waiting(database, accepted(database, webhook_url=HOOK))
    assert [one.receiver for one in messages(database)] == ["hooks.example:443"]


@both_databases
@pytest.mark.parametrize("settle", ["delivered", "failed", "dead"])
def test_what_came_of_a_try_is_written_once_though_the_answer_to_that_is_lost(database: Database, settle: str) -> None:
    _due(database, HOOK)
    (taken,) = webhooks.take_due(database, 60.0)
    with lost_answers():
        if settle == "delivered":
            webhooks.delivered(database, taken, clock.now())
        else:
            webhooks.failed(database, taken, "No", 5.0 if settle == "failed" else None)
    (after,) = messages(database)
    assert (after.tries, after.state) == (1, "waiting" if settle == "failed" else settle)


@both_databases
def test_a_try_that_outlasted_its_time_does_not_undo_the_next_one(database: Database) -> None:
    _due(database, HOOK)
    (slow,) = webhooks.take_due(database, -1.0)
    (quick,) = webhooks.take_due(database, 60.0)
    webhooks.delivered(database, quick, clock.now())
    webhooks.failed(database, slow, "It did not answer", 5.0)
    (after,) = messages(database)
    assert (after.state, after.tries, after.due_at) == ("delivered", 1, None)


@both_databases
def test_a_try_of_before_does_not_touch_a_replayed_message(database: Database) -> None:
    _cancel_waiting(database, accepted(database, webhook_url=HOOK))
    with database.write() as session:
        session.connection().execute(update(WebhookMessage).values(tries=5))
    (outlasted,) = webhooks.take_due(database, 0.0)
    (last,) = webhooks.take_due(database, 60.0)
    webhooks.failed(database, last, "gone", None)
    webhooks.replay(database, last.id)
    webhooks.failed(database, outlasted, "late", None)
    (message,) = messages(database)
    assert (message.state, message.tries, message.error) == ("waiting", 0, None)


@both_databases
def test_a_replay_whose_answer_is_lost_is_no_conflict(database: Database) -> None:
    _due(database, HOOK)
    (taken,) = webhooks.take_due(database, 60.0)
    webhooks.delivered(database, taken, clock.now())
    with lost_answers():
        again = webhooks.replay(database, taken.id)
    assert (again.state, again.tries) == ("waiting", 0)


# --- asked for over the API


def test_a_request_names_its_webhook(client: TestClient, database: Database) -> None:
    made = client.post(URL, json={**GOOD, "webhook_url": HOOK, "webhook_progress": True}).json()
    row = records.get(database, made["id"])
    assert (row.webhook_url, row.webhook_progress) == (HOOK, True)
    assert "hooks.example" not in json.dumps(client.get(f"/api/v1/jobs/{made['id']}").json())
    client.post(f"/api/v1/jobs/{made['id']}/cancel")
    again = client.post(f"/api/v1/jobs/{made['id']}/retry").json()
    assert records.get(database, again["id"]).webhook_url == HOOK


@pytest.mark.parametrize(
    "url", ["", "hooks.example", "ftp://x.example/", "http://u:p@x.example/", "http://" + "x" * 2000, 7]
)
def test_an_invalid_webhook(client: TestClient, url: object) -> None:
    answer = client.post(URL, json={**GOOD, "webhook_url": url})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", "webhook_url"]


def test_what_may_be_reached_is_checked_at_the_start() -> None:
    assert load(outbound_allow="10.0.0.0/8,hooks.internal").outbound_allow
    with pytest.raises(Exception, match="WANWORKS_OUTBOUND_ALLOW"):
        load(outbound_allow="10.0.0.0/99")


def test_the_configured_secret_is_used(settings: Settings, database: Database, tmp_path: Path) -> None:
    first = webhook_secret(settings, database)
    assert first == webhook_secret(settings, database)
    assert len(standard_webhooks.key_of(first)) == 32
    assert webhook_secret(load(webhook_secret=SECRET), database) == SECRET
