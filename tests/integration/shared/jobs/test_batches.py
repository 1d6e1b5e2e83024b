"""Batches: accepted whole or not at all, ended once with one message, and gone with their last job."""

import time
from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from shared import clock
from shared.database.engine import Database
from shared.database.tables import Batch, Job, WebhookMessage
from shared.errors import InvalidField, LimitReached, NotFound
from shared.jobs import attempts, batches, ids, records
from shared.jobs.attempts import Failure
from shared.jobs.ending import batch_ends, webhooks
from shared.jobs.reading import lists
from shared.states import JobState
from tests.conftest import both_databases
from tests.integration.shared.database.losing_commits import rows
from tests.integration.shared.jobs.races.racing import is_error
from tests.support.batches import batch_of, stored
from tests.support.interleaving import interleavings
from tests.support.jobs import accepted, claimed

pytestmark = both_databases
HOOK = "http://198.51.100.7/told"
FAILURE = Failure("x", "why", True)


def messages(database: Database, batch_id: str) -> list[WebhookMessage]:
    return [one for one in rows(database, WebhookMessage) if one.job_id == batch_id]


def test_a_batch_ends_with_its_last_job_and_reports_once(database: Database) -> None:
    batch, (first, second, third) = stored(database, 3, webhook_url=HOOK, name="boats")
    assert (batch.total, batch.unended, batch_ends.end_of(batch)) == (3, 3, None)
    for job in (first, second):
        claimed(database, job.id)
    attempts.succeed(database, first.id, 1, {"timings": {}})
    assert batches.counts(database, [batch.id])[batch.id] == {"succeeded": 1, "running": 1, "queued": 1}
    attempts.fail(database, second.id, 1, FAILURE)
    assert messages(database, batch.id) == []
    records.request_cancel(database, third.id)
    records.request_cancel(database, third.id)
    after = batches.get(database, batch.id)
    assert (after.unended, after.succeeded, after.failed, after.cancelled) == (0, 1, 1, 1)
    assert batch_ends.end_of(after) == JobState.FAILED
    (message,) = messages(database, batch.id)
    assert (message.type, message.url, message.data["counts"]) == (
        "batch.failed",
        HOOK,
        {"succeeded": 1, "failed": 1, "cancelled": 1},
    )
    assert message.data["url"] == f"/api/v1/batches/{batch.id}"
    assert [one.id for one in batches.members(database, batch.id)] == [first.id, second.id, third.id]


def test_a_batch_is_accepted_once_by_its_key(database: Database) -> None:
    new, jobs = batch_of(2, idempotency_key="k", request_hash="h")
    assert not batches.accept(database, new, jobs).replayed
    again, others = batch_of(2, idempotency_key="k", request_hash="h")
    replayed = batches.accept(database, again, others)
    assert (replayed.replayed, replayed.batch.id) == (True, new.id)
    assert batches.replayed(database, again).id == new.id  # type: ignore[union-attr]
    other, others = batch_of(2, idempotency_key="k", request_hash="other")
    with pytest.raises(InvalidField, match="another body"):
        batches.accept(database, other, others)
    assert len(rows(database, Job)) == 2


def test_two_requests_with_one_key_make_one_batch(database: Database) -> None:
    made: list[str] = []

    def pair():  # type: ignore[no-untyped-def]
        made.append(f"key-{len(made)}")
        calls = [batch_of(2, idempotency_key=made[-1], request_hash="h") for _ in range(2)]
        return tuple(lambda call=call: batches.accept(database, *call) for call in calls)

    for _, met in interleavings(database, pair):
        assert not is_error(met.first)
        assert not is_error(met.second)
        assert met.first.batch.id == met.second.batch.id
        assert met.first.replayed != met.second.replayed
    assert len(rows(database, Batch)) == len(rows(database, Job)) / 2


def test_a_batch_over_the_limit_of_its_key_is_refused_whole(database: Database) -> None:
    accepted(database, owner="me", owner_may_queue=3)
    new, jobs = batch_of(3, owner="me", job={"owner_may_queue": 3})
    with pytest.raises(LimitReached, match="room for 2 of the 3"):
        batches.accept(database, new, jobs)
    assert len(rows(database, Job)) == 1
    batches.accept(database, *batch_of(2, owner="me", job={"owner_may_queue": 3}))


def test_the_last_two_jobs_end_at_once(database: Database) -> None:
    """One message, whichever of them is the last."""
    met_batches = []

    def pair():  # type: ignore[no-untyped-def]
        batch, jobs = stored(database, 2, webhook_url=HOOK)
        met_batches.append(batch.id)
        for job in jobs:
            claimed(database, job.id)
        first, second = jobs
        return (
            lambda: attempts.succeed(database, first.id, 1, {"timings": {}}),
            lambda: attempts.fail(database, second.id, 1, FAILURE),
        )

    for _, met in interleavings(database, pair):
        assert not is_error(met.first)
        assert not is_error(met.second)
        after = batches.get(database, met_batches[-1])
        assert (after.unended, after.succeeded, after.failed) == (0, 1, 1)
        assert after.finished_at is not None
        assert [one.type for one in messages(database, after.id)] == ["batch.failed"]
    assert len(met_batches) > 3


def test_a_batch_is_cancelled_while_one_of_its_jobs_ends(database: Database) -> None:
    met_batches = []

    def pair():  # type: ignore[no-untyped-def]
        batch, jobs = stored(database, 3, webhook_url=HOOK)
        met_batches.append((batch.id, jobs[1].id))
        claimed(database, jobs[1].id)
        return (
            lambda: batches.cancel(database, batch.id),
            lambda: attempts.succeed(database, jobs[1].id, 1, {"timings": {}}),
        )

    for turned in (False, True):
        for _, met in interleavings(database, (lambda: tuple(reversed(pair()))) if turned else pair):
            assert not is_error(met.first)
            assert not is_error(met.second)
            batch_id, running = met_batches[-1]
            after = batches.get(database, batch_id)
            ended = records.get(database, running).status  # cancelled, if the cancel was the first
            assert ended in (JobState.SUCCEEDED, JobState.CANCELLED)
            assert (after.unended, after.succeeded + after.cancelled) == (0, 3)
            assert after.succeeded == (ended == JobState.SUCCEEDED)
            assert after.cancel_at is not None or after.finished_at is not None
            assert [one.type for one in messages(database, batch_id)] == ["batch.cancelled"]


def test_cancelling_is_idempotent_and_for_the_owner(database: Database) -> None:
    batch, jobs = stored(database, 120, owner="me")
    claimed(database, jobs[0].id)
    with pytest.raises(NotFound):
        batches.cancel(database, batch.id, only="other")
    found, stopped = batches.cancel(database, batch.id, only="me")
    assert sum(one.ended for one in stopped) == 119
    assert [one.job.id for one in stopped if not one.ended] == [jobs[0].id]
    assert (found.unended, found.cancelled) == (1, 119)
    batches.cancel(database, batch.id)
    attempts.cancelled(database, jobs[0].id, 1)
    assert batch_ends.end_of(batches.get(database, batch.id)) == JobState.CANCELLED


def test_a_batch_goes_with_its_last_job(database: Database) -> None:
    batch, jobs = stored(database, 2, webhook_url=HOOK)
    other, _ = stored(database, 1)
    records.remove(database, jobs[0].id)
    assert records.purge(database, [jobs[0].id]) == 1
    assert batches.counts(database, [batch.id])[batch.id] == {"queued": 1}
    assert batches.get(database, batch.id).cancelled == 1
    records.request_cancel(database, jobs[1].id)
    (message,) = webhooks.take_due(database, 60)
    webhooks.delivered(database, message, clock.now())
    assert webhooks.drop_of_gone_jobs(database, "") == (0, None), "its batch is still there"
    assert records.purge(database, [jobs[1].id]) == 1
    with pytest.raises(NotFound):
        batches.get(database, batch.id)
    assert messages(database, batch.id) == []
    assert batches.get(database, other.id).unended == 1


def test_ends_that_an_older_version_did_not_count_are_found(database: Database) -> None:
    batch, jobs = stored(database, 2, webhook_url=HOOK)
    going, _ = stored(database, 1)
    with database.write() as session:
        named = [job.id for job in jobs]
        session.execute(update(Job).where(col(Job.id).in_(named)).values(status="succeeded", finished_at=clock.now()))
    assert batch_ends.end_forgotten(database, lambda: f"msg_{ids.new_id()}") == 1
    after = batches.get(database, batch.id)
    assert (after.unended, after.succeeded, batch_ends.end_of(after)) == (0, 2, JobState.SUCCEEDED)
    assert [one.type for one in messages(database, batch.id)] == ["batch.succeeded"]
    assert batch_ends.end_forgotten(database, lambda: "again") == 0
    assert batches.get(database, going.id).finished_at is None


def test_jobs_are_listed_by_batch_and_time(database: Database) -> None:
    before = accepted(database)
    time.sleep(0.01)
    middle = clock.now()
    _, jobs = stored(database, 3)
    batch_id = jobs[0].batch_id
    after = accepted(database)
    records.request_cancel(database, jobs[1].id)
    made = [job.id for job in jobs]

    def listed(**which: object) -> list[str]:
        asked = {"limit": 10, "oldest_first": True, **which}
        page = lists.page(database, **asked)  # type: ignore[arg-type]
        counting = {name: value for name, value in asked.items() if name not in ("limit", "oldest_first")}
        assert lists.count(database, **counting) == len(page.jobs)  # type: ignore[arg-type]
        return [job.id for job in page.jobs]

    assert listed(batch_id=batch_id) == made
    assert listed(batch_id=batch_id, status="queued") == [made[0], made[2]]
    assert listed(batch_id=batch_id, after=made[0]) == made[1:]
    assert listed(batch_id=batch_id, type="download") == []
    assert listed(created_before=middle) == [before.id]
    assert listed(created_before=clock.now() + timedelta(seconds=1), status="queued") == [
        before.id,
        made[0],
        made[2],
        after.id,
    ]
    assert listed(upto=made[1], model_id="T2V-A14B") == [before.id, *made[:2]]
    newest = lists.page(database, limit=2, batch_id=batch_id)
    assert ([job.id for job in newest.jobs], newest.has_more) == ([made[2], made[1]], True)
    assert lists.count(database, most=2) == 2


def test_a_thousand_jobs_are_stored_quickly(database: Database) -> None:
    new, jobs = batch_of(1000)
    began = time.monotonic()
    batches.accept(database, new, jobs)
    took = time.monotonic() - began
    print(f"{took * 1000:.0f} ms")
    assert took < 3
    with database.read() as session:
        assert len(session.exec(select(Job.id)).all()) == 1000
