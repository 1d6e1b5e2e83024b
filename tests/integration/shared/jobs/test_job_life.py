"""A job's life in SQL, on SQLite and PostgreSQL alike: accepted, dispatched, claimed, fenced, ended once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlmodel import select

from shared.catalogue.job_types import DOWNLOAD, DownloadParams
from shared.database.engine import Database
from shared.database.tables import Use
from shared.errors import Conflict, Fenced, InvalidField, NotFound
from shared.jobs import accepting, attempts, dispatch, download_control, records
from shared.jobs.attempts import Claimant, Failure
from shared.jobs.reading import lists, running_attempts
from shared.states import JobState, Priority
from tests.conftest import both_databases
from tests.support.jobs import CLAIMANT, accepted, claimed, hold, new_job

pytestmark = both_databases

OTHER = Claimant(node="n", worker="gpu-1@n", device="cpu-1", device_key="n/1")


def uses(database: Database) -> list[Use]:
    with database.read() as session:
        return list(session.exec(select(Use)))


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Runs `work` in that many threads, all let go at the same moment."""
    barrier = threading.Barrier(count)

    def go(place: int) -> Any:
        barrier.wait()
        return work(place)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(go, range(count)))


def test_a_job_runs_once_and_leaves_one_use(database: Database) -> None:
    job = accepted(database)
    assert (job.status, job.attempt) == (JobState.QUEUED, 0)
    running = claimed(database, job.id)
    assert (running.status, running.attempt, running.worker) == (JobState.RUNNING, 1, "gpu-0@n")
    done = attempts.succeed(database, job.id, 1, {"timings": {"denoising": 2.0}, "warm": True})
    assert done.status == JobState.SUCCEEDED
    assert done.finished_at is not None
    (use,) = uses(database)
    assert (use.job_id, use.outcome, use.timings, use.warm) == (job.id, "succeeded", {"denoising": 2.0}, True)
    with pytest.raises(Fenced):
        attempts.succeed(database, job.id, 1, {})
    assert len(uses(database)) == 1


def test_only_the_device_that_the_row_names_may_claim_and_only_once(database: Database) -> None:
    hold(database, "T2V-A14B")
    job = accepted(database)
    assert attempts.claim(database, job.id, CLAIMANT, 60) is None
    dispatch.mark_dispatched(database, [(job.id, OTHER.device_key)])
    assert attempts.claim(database, job.id, CLAIMANT, 60) is None
    assert attempts.claim(database, job.id, OTHER, 60) is not None
    assert attempts.claim(database, job.id, OTHER, 60) is None


def test_a_claim_needs_the_models_files_on_the_node(database: Database) -> None:
    job = accepted(database)
    dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
    assert attempts.claim(database, job.id, CLAIMANT, 60) is None
    hold(database, "T2V-A14B", node="another")
    assert attempts.claim(database, job.id, CLAIMANT, 60) is None
    hold(database, "T2V-A14B")
    assert attempts.claim(database, job.id, CLAIMANT, 60) is not None


def test_of_many_claims_at_once_one_wins(database: Database) -> None:
    hold(database, "T2V-A14B")
    job = accepted(database)
    dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
    claims = at_once(6, lambda _: attempts.claim(database, job.id, CLAIMANT, 60))
    assert sum(claim is not None for claim in claims) == 1


def test_a_lapsed_attempt_is_fenced_off_and_counts_as_a_failure(database: Database) -> None:
    job = accepted(database)
    claimed(database, job.id, lease_seconds=-1.0)
    assert running_attempts.lapsed(database) == [(job.id, 1)]
    back = attempts.crashed(database, job.id, 1, "The worker went silent", backoff_seconds=0.0)
    assert back is not None
    assert (back.status, back.failures, back.worker, back.started_at) == (JobState.QUEUED, 1, None, None)
    again = claimed(database, job.id, OTHER)
    assert again.attempt == 2
    assert not attempts.renew(database, job.id, 1, 60).ours
    assert attempts.crashed(database, job.id, 1, "late", 0.0) is None
    with pytest.raises(Fenced):
        attempts.fail(database, job.id, 1, Failure("x", "x", False))
    assert attempts.succeed(database, job.id, 2, {}).attempt == 2


def test_a_job_that_always_crashes_fails_after_max_failures_and_says_so(database: Database) -> None:
    job = accepted(database, max_failures=3)
    for attempt in (1, 2, 3):
        claimed(database, job.id)
        job_after = attempts.crashed(database, job.id, attempt, "The worker process died", 0.0)
    assert job_after is not None
    assert job_after.status == JobState.FAILED
    assert job_after.error is not None
    assert job_after.error["code"] == "worker_lost"
    assert "3 times" in job_after.error["message"]
    assert len(uses(database)) == 1


def test_back_off_doubles_and_holds_the_claim_back(database: Database) -> None:
    job = accepted(database)
    waits = []
    for attempt in (1, 2, 3):
        claimed(database, job.id) if attempt == 1 else None
        before = dispatch.read_queue(database).now
        back = attempts.crashed(database, job.id, attempt, "died", backoff_seconds=0.05 if attempt < 3 else 50.0)
        assert back is not None
        # It counts from a moment between these two.
        waits.append((back.not_before - dispatch.read_queue(database).now, back.not_before - before))
        if attempt < 3:
            while dispatch.read_queue(database).now < back.not_before:
                pass
            claimed(database, job.id)
    for expected, (least, most) in zip((0.05, 0.1, 200.0), waits, strict=True):
        assert least - 0.001 <= expected <= most + 0.001
    dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
    assert attempts.claim(database, job.id, CLAIMANT, 60) is None


def test_twenty_stops_do_not_count_as_failures(database: Database) -> None:
    job = accepted(database, max_failures=2)
    for attempt in range(1, 21):
        assert claimed(database, job.id).attempt == attempt
        attempts.give_back(database, job.id, attempt)
    assert (records.get(database, job.id).failures, records.get(database, job.id).status) == (0, JobState.QUEUED)
    claimed(database, job.id)
    assert attempts.succeed(database, job.id, 21, {}).attempt == 21


def test_twenty_pauses_do_not_count_as_failures_and_keep_the_bytes(database: Database) -> None:
    params = DownloadParams(model_id="T2V-A14B", node="n")
    (outcome,) = accepting.accept(database, [accepting.NewJob(DOWNLOAD, params, Priority.NORMAL, max_failures=2)])
    assert isinstance(outcome, accepting.Accepted)
    job_id, io = outcome.job.id, Claimant("n", "io@n", None, "n/io")
    for attempt in range(1, 21):
        dispatch.mark_dispatched(database, [(job_id, io.device_key)])
        assert attempts.claim(database, job_id, io, 60, at_most=1) is not None
        download_control.pause(database, job_id)
        assert attempts.renew(database, job_id, attempt, 60).requested_action == "pause"
        fetched = attempts.Fetched(attempt * 100, 5000, attempt * 2.0)
        paused = attempts.paused(database, job_id, attempt, download_control.BY_OWNER, fetched)
        assert paused is not None
        assert (paused.status, paused.bytes_done, paused.failures) == (JobState.PAUSED, attempt * 100, 0)
        download_control.resume(database, job_id)
    assert records.get(database, job_id).status == JobState.QUEUED


def test_a_node_runs_no_more_downloads_than_it_has_slots(database: Database) -> None:
    io = Claimant("n", "io@n", None, "n/io")
    ids = []
    for model_id in ("T2V-A14B", "TI2V-5B"):
        new = accepting.NewJob(DOWNLOAD, DownloadParams(model_id=model_id, node="n"), Priority.NORMAL)
        (outcome,) = accepting.accept(database, [new])
        assert isinstance(outcome, accepting.Accepted)
        ids.append(outcome.job.id)
    dispatch.mark_dispatched(database, [(job_id, io.device_key) for job_id in ids])
    assert attempts.claim(database, ids[0], io, 60, at_most=1) is not None
    assert attempts.claim(database, ids[1], io, 60, at_most=1) is None
    assert attempts.claim(database, ids[1], io, 60, at_most=2) is not None


def test_cancel_ends_a_waiting_job_and_asks_a_running_one(database: Database) -> None:
    waiting, running = accepted(database), accepted(database)
    claimed(database, running.id)
    assert records.request_cancel(database, waiting.id).job.status == JobState.CANCELLED
    assert records.request_cancel(database, waiting.id).job.status == JobState.CANCELLED
    assert records.request_cancel(database, running.id).job.status == JobState.RUNNING
    assert attempts.renew(database, running.id, 1, 60).cancel
    assert attempts.cancelled(database, running.id, 1).status == JobState.CANCELLED
    assert sorted(use.outcome for use in uses(database)) == ["cancelled", "cancelled"]


def test_a_cancelled_job_that_crashes_or_is_given_back_ends_cancelled(database: Database) -> None:
    for end in (
        lambda job: attempts.crashed(database, job.id, 1, "died", 0.0),
        lambda job: attempts.give_back(database, job.id, 1),
    ):
        job = accepted(database)
        claimed(database, job.id)
        records.request_cancel(database, job.id)
        ended = end(job)
        assert ended is not None
        assert ended.status == JobState.CANCELLED


def test_a_job_that_ended_otherwise_cannot_be_cancelled(database: Database) -> None:
    job = accepted(database)
    claimed(database, job.id)
    attempts.succeed(database, job.id, 1, {})
    with pytest.raises(Conflict, match="already succeeded"):
        records.request_cancel(database, job.id)


def test_claim_and_cancel_at_the_same_moment_leave_one_truth(database: Database) -> None:
    hold(database, "T2V-A14B")
    for _ in range(15):
        job = accepted(database)
        dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
        claim, _ = at_once(
            2,
            lambda place, job_id=job.id: (
                attempts.claim(database, job_id, CLAIMANT, 60)
                if place == 0
                else records.request_cancel(database, job_id)
            ),
        )
        after = records.get(database, job.id)
        if claim is None:
            assert after.status == JobState.CANCELLED
        else:
            assert after.status == JobState.RUNNING
            assert attempts.renew(database, job.id, 1, 60).cancel


def test_the_same_key_and_body_is_the_same_job_and_another_body_is_refused(database: Database) -> None:
    new = [new_job(idempotency_key="k", request_hash=body) for body in ("one", "one", "two")]
    first, replay, refused = accepting.accept(database, new)
    assert isinstance(first, accepting.Accepted)
    assert isinstance(replay, accepting.Accepted)
    assert (replay.job.id, replay.replayed) == (first.job.id, True)
    assert isinstance(refused, InvalidField)
    (later,) = accepting.accept(database, [new_job(idempotency_key="k", request_hash="one")])
    assert isinstance(later, accepting.Accepted)
    assert later.replayed


def test_the_same_key_from_many_requests_at_once_makes_one_job(database: Database) -> None:
    outcomes = at_once(
        8, lambda _: accepting.accept(database, [new_job(idempotency_key="same", request_hash="body")])[0]
    )
    assert len({outcome.job.id for outcome in outcomes}) == 1
    assert sum(not outcome.replayed for outcome in outcomes) == 1


def test_deleting_hides_at_once_and_purges_what_has_ended(database: Database) -> None:
    job = accepted(database)
    claimed(database, job.id)
    records.remove(database, job.id)
    with pytest.raises(NotFound):
        records.get(database, job.id)
    assert records.purge(database, [job.id]) == 0
    assert attempts.renew(database, job.id, 1, 60).cancel
    attempts.cancelled(database, job.id, 1)
    assert records.purge(database, [job.id]) == 1
    assert len(uses(database)) == 1


def test_pages_go_newest_first_and_never_repeat(database: Database) -> None:
    ids = [accepted(database).id for _ in range(7)]
    first = lists.page(database, limit=3)
    second = lists.page(database, limit=3, after=first.jobs[-1].id)
    third = lists.page(database, limit=3, after=second.jobs[-1].id)
    seen = [job.id for page in (first, second, third) for job in page.jobs]
    assert seen == ids[::-1]
    assert (first.has_more, third.has_more) == (True, False)


def test_the_dispatcher_reads_the_first_job_of_each_model_and_all_dispatched_jobs(database: Database) -> None:
    low = accepted(database, priority=Priority.LOW)
    high = accepted(database, priority=Priority.HIGH)
    other = accepted(database, model_id="TI2V-5B")
    claimed(database, other.id)
    dispatch.mark_dispatched(database, [(low.id, "n/1")])
    queue = dispatch.read_queue(database)
    assert {job.job_id for job in queue.waiting} == {low.id, high.id}
    assert {job.dispatched_to for job in queue.waiting} == {None, "n/1"}
    assert [(job.job_id, job.device_key) for job in queue.busy] == [(other.id, "n/0")]
    assert abs(queue.now - high.queued_at) < 30
    assert dispatch.recall(database) == 1


def test_jobs_whose_model_no_node_holds_say_so_until_it_arrives(database: Database) -> None:
    job = accepted(database)
    dispatch.mark_waiting_for_model(database, [])
    assert records.get(database, job.id).phase == "waiting_for_model"
    dispatch.mark_waiting_for_model(database, ["T2V-A14B"])
    assert records.get(database, job.id).phase is None
