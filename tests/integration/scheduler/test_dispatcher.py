"""The dispatcher on real Redis and SQL; the workers' part is played by the functions that workers call."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import select

from scheduler import ticks
from scheduler.dispatcher import Dispatcher
from scheduler.sender import celery_sender
from shared import clock
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Device, Job, Tick
from shared.errors import NotFound
from shared.jobs import attempts, dispatch, records
from shared.jobs.reading import lists, queues
from shared.messaging import celery
from shared.messaging.progress import connect
from shared.messaging.ticks import once
from shared.settings import Settings
from shared.states import JobState
from shared.storage.store import Store, open_store
from tests.support.jobs import DEMO, accepted, claimed, hold, new_job
from tests.support.stack import wait_for


def register(database: Database, index: int = 0, *, node: str = "n", memory_mb: int = 24_000) -> None:
    device = Device(
        key=f"{node}/{index}", node=node, index=index, kind="cpu", uuid=f"cpu-{index}", name="cpu", memory_mb=memory_mb,
        worker=f"gpu-{index}@{node}", pid=1, started_at=clock.now(), seen_at=0.0, warm=[],
    )  # fmt: skip
    nodes.register_device(database, device)


@pytest.fixture
def dispatcher(settings: Settings, database: Database) -> Dispatcher:
    register(database)
    hold(database, *DEMO.model_ids)
    return Dispatcher(settings, database, celery_sender(settings))


def queue_length(settings: Settings, device_key: str = "n/0") -> int:
    assert settings.redis is not None
    length = connect(settings.redis, 5).llen(celery.device_queue(device_key))
    assert isinstance(length, int)
    return length


def test_a_message_is_on_the_devices_own_queue_under_the_jobs_id(
    dispatcher: Dispatcher, settings: Settings, database: Database
) -> None:
    job = accepted(database)
    assert dispatcher.run_pass() == 1
    assert settings.redis is not None
    message = connect(settings.redis, 5).lindex(celery.device_queue("n/0"), 0)
    assert isinstance(message, bytes)
    assert job.id.encode() in message
    assert records.get(database, job.id).dispatched_to == "n/0"
    assert dispatcher.run_pass() == 0


def test_a_job_with_an_expired_lease_is_dispatched_again(dispatcher: Dispatcher, database: Database) -> None:
    job = accepted(database)
    claimed(database, job.id, lease_seconds=-1.0)
    dispatcher.run_pass()
    after = records.get(database, job.id)
    assert (after.status, after.failures, after.dispatched_to) == (JobState.QUEUED, 1, None)
    assert after.not_before > after.queued_at


def test_a_dispatcher_that_is_woken_all_the_time_heals_and_knows_what_redis_has_lost(
    dispatcher: Dispatcher, settings: Settings, database: Database
) -> None:
    """Neither is asked for with every wake-up: a job does not wait for them."""
    job = accepted(database)
    lapsed = accepted(database)
    claimed(database, lapsed.id, lease_seconds=-1.0)
    assert settings.redis is not None
    redis = connect(settings.redis, 5)
    dispatcher.leadership.wait = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=dispatcher.run)
    thread.start()
    try:
        wait_for(lambda: records.get(database, lapsed.id).failures == 1, 10, "for the lapsed lease")
        wait_for(lambda: queue_length(settings) == 1, 10, "for the dispatch message")
        again = accepted(database)
        claimed(database, again.id, lease_seconds=-1.0)
        wait_for(lambda: records.get(database, again.id).failures == 1, 10, "for the second")
        redis.flushall()
        wait_for(lambda: queue_length(settings) == 1, 10, "for the message that was lost")
    finally:
        dispatcher.stopping.set()
        thread.join(10)
    assert records.get(database, job.id).dispatched_to is not None


def test_after_redis_lost_its_data_every_message_is_sent_again(
    dispatcher: Dispatcher, settings: Settings, database: Database
) -> None:
    accepted(database)
    dispatcher.leadership.check_epoch()
    dispatcher.run_pass()
    assert settings.redis is not None
    connect(settings.redis, 5).flushall()
    assert queue_length(settings) == 0
    dispatcher.leadership.check_epoch()
    assert dispatcher.run_pass() == 1
    assert queue_length(settings) == 1


def test_a_message_that_redis_refuses_is_recalled(settings: Settings, database: Database) -> None:
    register(database)
    hold(database, *DEMO.model_ids)

    def broken(*_: object) -> None:
        raise ConnectionError("no Redis")

    dispatcher = Dispatcher(settings, database, broken)
    job = accepted(database)
    assert dispatcher.run_pass() == 0
    assert records.get(database, job.id).dispatched_to is None


def test_two_dispatchers_at_once_do_no_harm(settings: Settings, database: Database) -> None:
    """Without the lock between them: each job is claimed by one device, once."""
    for index in (0, 1, 2):
        register(database, index)
    hold(database, *DEMO.model_ids)
    ids = [accepted(database).id for _ in range(40)]
    done = threading.Event()
    pair = [Dispatcher(settings, database, lambda *_: None) for _ in range(2)]

    def make_passes(dispatcher: Dispatcher) -> None:
        while not done.is_set():
            dispatcher.run_pass()

    def claim_and_finish(index: int) -> list[str]:
        claimant = attempts.Claimant("n", f"gpu-{index}@n", f"cpu-{index}", f"n/{index}")
        taken = []
        while not done.is_set():
            for waiting in dispatch.read_queue(database).waiting:
                if waiting.dispatched_to == claimant.device_key:
                    job = attempts.claim(database, waiting.job_id, claimant, 60)
                    if job is not None:
                        attempts.succeed(database, job.id, job.attempt, {})
                        taken.append(job.id)
        return taken

    with ThreadPoolExecutor(5) as pool:
        passing = [pool.submit(make_passes, dispatcher) for dispatcher in pair]
        working = [pool.submit(claim_and_finish, index) for index in range(3)]
        try:
            deadline = clock.now() + timedelta(seconds=60)
            while {state for state, _ in records.winning_attempts(database, ids).values()} != {"succeeded"}:
                assert clock.now() < deadline
        finally:
            done.set()
        for future in passing:
            future.result()
        taken = [job_id for future in working for job_id in future.result()]
    assert sorted(taken) == sorted(ids)
    assert {attempt for _, attempt in records.winning_attempts(database, ids).values()} == {1}


def test_a_model_that_no_node_holds_is_waited_for_and_given_up_in_the_end(
    settings: Settings, database: Database
) -> None:
    register(database)
    hold(database, "TI2V-5B")
    dispatcher = Dispatcher(settings, database, celery_sender(settings))
    job = accepted(database)
    assert dispatcher.run_pass() == 0
    assert records.get(database, job.id).phase == "waiting_for_model"
    impatient = settings.model_copy(update={"unplaced_limit_hours": 1e-9})
    Dispatcher(impatient, database, celery_sender(settings)).run_pass()
    after = records.get(database, job.id)
    assert after.error is not None
    assert (after.status, after.error["code"]) == (JobState.FAILED, "model_unavailable")


def test_what_no_device_can_carry_fails_with_no_device(settings: Settings, database: Database) -> None:
    register(database, memory_mb=10)
    hold(database, *DEMO.model_ids)
    job = accepted(database)
    impatient = Dispatcher(
        settings.model_copy(update={"unplaced_limit_hours": 1e-9}), database, celery_sender(settings)
    )
    impatient.run_pass()
    assert records.get(database, job.id).status == JobState.QUEUED, "the time counts from here"
    impatient.run_pass()
    after = records.get(database, job.id)
    assert after.error is not None
    assert after.error["code"] == "no_device"


def test_no_job_is_dispatched_to_a_silent_device(settings: Settings, database: Database) -> None:
    register(database)
    hold(database, *DEMO.model_ids)
    nodes.deregister_device(database, "n/0", 1)
    accepted(database)
    assert Dispatcher(settings, database, celery_sender(settings)).run_pass() == 0


@pytest.fixture
def store(database: Database, settings: Settings) -> Store:
    return open_store(settings, lambda: nodes.agreed(database, "store"), create=True)


def test_retention_drops_rows_and_files_and_keeps_the_rest(database: Database, store: Store) -> None:
    old, fresh = accepted(database), accepted(database)
    for job in (old, fresh):
        claimed(database, job.id)
        (store.attempt_dir(job.id, 1) / "video.mp4").write_bytes(b"x")
        attempts.succeed(database, job.id, 1, {})
    with database.write() as session:
        row = session.get(Job, old.id)
        assert row is not None
        row.finished_at = clock.now() - timedelta(days=31)
        session.add(row)
    assert ticks.apply_retention(database, store, timedelta(days=30)) == "1 jobs removed"
    assert [job.id for job in lists.page(database, limit=10).jobs] == [fresh.id]
    assert store.attempts(old.id) == []
    assert store.attempts(fresh.id) == [1]


def test_the_sweep_removes_orphans_and_losing_attempts_alone(database: Database, store: Store, tmp_path: Path) -> None:
    job = accepted(database)
    claimed(database, job.id)
    attempts.crashed(database, job.id, 1, "died", 0.0)
    claimed(database, job.id)
    for attempt in (1, 2):
        (store.attempt_dir(job.id, attempt) / "video.mp4").write_bytes(b"x")
    attempts.succeed(database, job.id, 2, {})
    orphan, waiting = new_job().id, accepted(database).id
    store.put_input(orphan, "image.png", b"x")
    (tmp_path / "checkpoint").write_bytes(b"x")
    for job_id in (job.id, waiting):
        store.put_checkpoint(job_id, 1, tmp_path / "checkpoint", lambda: None)
    ticks.sweep(database, store, older_than_seconds=-1.0)
    assert store.attempts(job.id) == [2]
    with pytest.raises(NotFound):
        store.fetch_checkpoint(job.id, 1, tmp_path / "copy")
    store.fetch_checkpoint(waiting, 1, tmp_path / "copy")
    assert not (store.root / "inputs" / orphan).exists()


def test_a_tick_that_comes_twice_is_done_once(database: Database) -> None:
    done: list[int] = []
    for _ in range(2):
        once(database, "sweep", 300.0, 1_000_000.0, lambda _: str(done.append(1)))
    once(database, "sweep", 300.0, 1_000_400.0, lambda _: str(done.append(1)))
    assert len(done) == 2
    with database.read() as session:
        assert len(list(session.exec(select(Tick)))) == 2


@pytest.mark.parametrize(("full", "hours"), [(True, 4.0), (False, 0.25)])
def test_scheduled_checks_of_the_nodes_begin_one_after_the_other(
    database: Database, settings: Settings, full: bool, hours: float
) -> None:
    for name in ("c", "a", "d", "b"):
        nodes.node_beat(database, name, None, None)
    kind = "full" if full else "quick"
    assert ticks.start_checks(database, settings, full=full) == f"4 {kind} checks queued"
    assert ticks.start_checks(database, settings, full=full) == f"0 {kind} checks queued", "one on each node"
    queue = dispatch.read_queue(database)
    starts = {job.target_node: max(0.0, job.not_before - queue.now) for job in queue.waiting}
    assert starts["a"] == 0.0
    assert {name: round(start / 3600 / hours, 2) for name, start in starts.items()} == {
        "a": 0.0, "b": 0.25, "c": 0.5, "d": 0.75,
    }  # fmt: skip
    assert {job.job_id for job in queue.waiting if job.not_before <= queue.now} == {
        job.job_id for job in queue.waiting if job.target_node == "a"
    }
    assert max(depth.oldest_seconds or 0.0 for depth in queues.depths(database)) < 60, "the others do not wait yet"
