"""The promises of the queue: no owner starves, urgent jobs run first, and reported positions are exact."""

import threading

from sqlalchemy import update
from sqlmodel import col
from starlette.testclient import TestClient

from scheduler.dispatcher import Dispatcher
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Job
from shared.jobs import accepting, attempts, dispatch, records
from shared.jobs.attempts import Claimant
from shared.jobs.lines import holding
from shared.jobs.reading import queue_positions
from shared.messaging import celery
from shared.messaging.progress import RestingRedis
from shared.settings import Settings
from shared.states import JobState, Priority
from tests.conftest import both_databases
from tests.integration.scheduler.queued_jobs import HOUR, Sent, aged, claimant, many
from tests.support.jobs import new_job
from tests.support.models import library
from tests.support.stack import wait_for

pytestmark = both_databases


def claim(database: Database, index: int) -> Job:
    """Act as the device's worker that answers its dispatch message."""
    (job_id,) = [job.job_id for job in dispatch.read_queue(database).waiting if job.dispatched_to == f"n/{index}"]
    job = attempts.claim(database, job_id, claimant(index), 60)
    assert job is not None
    return job


def test_a_low_job_that_has_waited_half_a_day_is_not_hidden_by_fresh_ones(database: Database, sent: Sent) -> None:
    (old,) = many(database, 1, priority=Priority.LOW)
    aged(database, 12 * HOUR, old)
    many(database, 220)
    sent.dispatcher.run_pass()
    assert sent.jobs[0][0] == old


def test_jobs_that_no_device_can_carry_hide_none_that_one_can(database: Database, sent: Sent) -> None:
    """The same model in another type, first in line and many: they need more memory than there is."""
    huge = accepting.accept(database, [new_job(request={"quantization": "int8"}) for _ in range(220)])
    with database.write() as session:
        ids = [one.job.id for one in huge if isinstance(one, accepting.Accepted)]
        session.connection().execute(update(Job).where(col(Job.id).in_(ids)).values(min_ram_mb=10**9, memory_needs=""))
    (small,) = many(database, 1)
    assert sent.dispatcher.run_pass() == 1
    assert sent.jobs == [(small, "n/0")]


def test_jobs_in_their_back_off_hide_none_that_may_start(database: Database, sent: Sent) -> None:
    waiting = many(database, 220)
    aged(database, -HOUR, *waiting, column="not_before")
    with database.write() as session:
        session.connection().execute(update(Job).values(not_before=Job.queued_at + HOUR))
    (ready,) = many(database, 1)
    assert sent.dispatcher.run_pass() == 1
    assert sent.jobs == [(ready, "n/0")]


def test_jobs_of_a_silent_node_hide_none_of_a_live_one(database: Database, settings: Settings) -> None:
    from shared.catalogue.job_types import INTEGRITY_CHECK, IntegrityCheckParams

    nodes.node_beat(database, "live", None, None)

    def checks(node: str, count: int) -> list[str]:
        new = [
            accepting.NewJob(INTEGRITY_CHECK, IntegrityCheckParams(model_id="T2V-A14B", node=node), Priority.NORMAL)
            for _ in range(count)
        ]
        return [one.job.id for one in accepting.accept(database, new) if isinstance(one, accepting.Accepted)]

    checks("gone", 220)
    (here,) = checks("live", 1)
    sent = Sent(settings, database)
    sent.dispatcher.run_pass()
    assert sent.jobs == [(here, "live/io")]


def test_an_urgent_job_starts_before_what_was_sent_ahead_and_its_position_says_so(
    database: Database, sent: Sent, client: TestClient
) -> None:
    low = many(database, 5, priority=Priority.LOW)
    sent.dispatcher.run_pass()
    running = [claim(database, index) for index in range(2)]
    assert sent.dispatcher.run_pass() == 2, "one ahead of each device"
    (urgent,) = many(database, 1, priority=Priority.CRITICAL)
    sent.dispatcher.published_order._published_at = float("-inf")
    assert sent.dispatcher.run_pass() == 1
    assert position(client, urgent) == 0
    lies_at = int(str(records.get(database, urgent).dispatched_to).rpartition("/")[2])
    (ended,) = [job for job in running if job.device_key == f"n/{lies_at}"]
    attempts.succeed(database, ended.id, 1, {})
    assert claim(database, lies_at).id == urgent
    still = [job_id for job_id in low if records.get(database, job_id).status == JobState.QUEUED]
    assert len([job_id for job_id in still if records.get(database, job_id).dispatched_to is None]) == 2, (
        "one was recalled"
    )


def position(client: TestClient, job_id: str) -> int:
    job = client.get(f"/api/v1/jobs/{job_id}").json()
    return -1 if job["queue_position"] is None else int(job["queue_position"])


def test_a_recalled_job_is_not_claimed_by_the_device_that_still_has_its_message(database: Database, sent: Sent) -> None:
    many(database, 3, priority=Priority.LOW)
    sent.dispatcher.run_pass()
    for index in range(2):
        claim(database, index)
    sent.dispatcher.run_pass()
    waiting = dispatch.read_queue(database).waiting
    lying = {job.dispatched_to: job.job_id for job in waiting if job.dispatched_to is not None}
    ((key, stale),) = lying.items()
    (urgent,) = many(database, 1, priority=Priority.CRITICAL)
    (other,) = many(database, 1, priority=Priority.CRITICAL)
    sent.dispatcher.run_pass()
    index = int(str(key).rpartition("/")[2])
    assert attempts.claim(database, stale, claimant(index), 60) is None
    assert {claim(database, 0).id, claim(database, 1).id} == {urgent, other}


def test_an_urgent_download_takes_the_place_of_one_that_was_sent_ahead(database: Database, settings: Settings) -> None:
    library.node(database)
    sent = Sent(settings.model_copy(update={"download_slots": 1}), database)
    low = library.download(database, "T2V-A14B", priority=Priority.LOW)
    sent.dispatcher.run_pass()
    urgent = library.download(database, "TI2V-5B", priority=Priority.CRITICAL)
    sent.dispatcher.run_pass()
    assert [job_id for job_id, _ in sent.jobs] == [low.id, urgent.id]
    io = Claimant("here", "io@here", None, "here/io")
    assert attempts.claim(database, low.id, io, 60, at_most=1) is None, "the queue of the node still has its message"
    assert attempts.claim(database, urgent.id, io, 60, at_most=1) is not None


def test_positions_are_those_in_which_jobs_really_start(database: Database, sent: Sent, client: TestClient) -> None:
    ranks = (Priority.LOW, Priority.NORMAL, Priority.CRITICAL, Priority.HIGH)
    ids = [many(database, 1, priority=ranks[number % 4])[0] for number in range(12)]
    aged(database, HOUR, ids[0])  # a low one that has waited its way to the front

    def tell() -> None:
        sent.dispatcher.published_order._published_at = float("-inf")
        sent.dispatcher.run_pass()

    tell()
    tell()
    listed = client.get("/api/v1/jobs?status=queued").json()["data"]
    assert {job["queue_position_approximate"] for job in listed} == {False}
    told = [job["id"] for job in sorted(listed, key=lambda job: job["queue_position"])]
    assert [job["queue_position"] for job in sorted(listed, key=lambda job: job["queue_position"])] == list(range(12))
    started: list[str] = []
    while len(started) < 12:
        for index in range(2):
            if any(job.dispatched_to == f"n/{index}" for job in dispatch.read_queue(database).waiting):
                job = claim(database, index)
                started.append(job.id)
                attempts.succeed(database, job.id, 1, {})
        tell()
    assert started == told


def test_a_position_counts_only_those_that_still_wait(database: Database, sent: Sent, client: TestClient) -> None:
    ids = many(database, 5)
    sent.dispatcher.published_order._published_at = float("-inf")
    sent.dispatcher.run_pass()
    assert position(client, ids[4]) == 4
    records.request_cancel(database, ids[3])
    records.request_cancel(database, ids[2])
    assert position(client, ids[4]) == 2, "without waiting for the next pass"


def test_a_job_that_is_moved_right_after_the_order_was_published_is_first_within_a_second(
    database: Database, client: TestClient, settings: Settings
) -> None:
    jobs = many(database, 3)
    dispatcher = Dispatcher(settings.model_copy(update={"dispatch_seconds": 60.0}), database, lambda *_: None)
    thread = threading.Thread(target=dispatcher.run)
    thread.start()
    try:
        wait_for(lambda: position(client, jobs[2]) == 2 and not approximate(client, jobs[2]), 10, "the first order")
        holding.move_to_front(database, jobs[2])
        listed = client.get("/api/v1/jobs?order=queue").json()["data"]
        assert [job["id"] for job in listed] == [jobs[2], *jobs[:2]], "in the list at once"
        celery.wake(RestingRedis(settings.redis, timeout=5))  # too early for another order
        wait_for(lambda: position(client, jobs[2]) == 0, 5, "the order after the move")
        assert not approximate(client, jobs[2])
    finally:
        dispatcher.stopping.set()
        celery.wake(RestingRedis(settings.redis, timeout=5))
        thread.join()


def approximate(client: TestClient, job_id: str) -> bool:
    return bool(client.get(f"/api/v1/jobs/{job_id}").json()["queue_position_approximate"])


def test_a_position_without_a_published_order_says_that_it_is_approximate(
    database: Database, client: TestClient, settings: Settings
) -> None:
    first, second = many(database, 2)
    job = client.get(f"/api/v1/jobs/{second}").json()
    assert (job["queue_position"], job["queue_position_approximate"]) == (1, True)
    queue_positions.publish(RestingRedis(settings.redis, timeout=5), [second, first])
    job = client.get(f"/api/v1/jobs/{second}").json()
    assert (job["queue_position"], job["queue_position_approximate"]) == (0, False)
    records.request_cancel(database, second)
    job = client.get(f"/api/v1/jobs/{second}").json()
    assert (job["queue_position"], job["queue_position_approximate"]) == (None, None)
