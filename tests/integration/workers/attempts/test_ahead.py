"""The next job of a device begins while the one before it still ends, and is claimed only afterwards."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from shared.catalogue.job_types import GENERATION
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import BadInput, DatabaseUnavailable, DeviceFailed, FaultKind, JobFailed
from shared.jobs import attempts, dispatch, records
from shared.jobs.reading import running_attempts
from shared.messaging.progress import Progress, RestingRedis
from shared.models import replicas
from shared.settings import Settings
from shared.states import JobState, Phase
from shared.storage.store import open_store
from tests.support import working
from tests.support.jobs import DEMO, UNCOUNTED, accepted, hold
from tests.support.stack import wait_for
from workers.attempts import ahead
from workers.attempts.ahead import Ahead, Turn
from workers.attempts.handover import Handovers
from workers.attempts.runner import Runner
from workers.generation import run
from workers.generation.finishing.ending import Ending
from workers.generation.finishing.leaving import Leaving
from workers.generation.job import GenerationHandler

PATIENCE = 20.0


class Held:
    """Holds the thread of each job at one place until it is let go."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self._let_go: dict[str, threading.Event] = {}
        self.off = False

    def at(self, job_id: str) -> None:
        self.reached.append(job_id)
        if not self.off:
            assert self._event(job_id).wait(PATIENCE)

    def let_go(self, job_id: str) -> None:
        self._event(job_id).set()

    def let_all_go(self) -> None:
        self.off = True
        for event in list(self._let_go.values()):
            event.set()

    def _event(self, job_id: str) -> threading.Event:
        return self._let_go.setdefault(job_id, threading.Event())


class Worker:
    """A device's child process: one thread answers messages, one after another."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database
        self.ended_for: list[str] = []
        self.ahead = Ahead(database, working.HERE.device_key)
        self.ahead.end_process = self.ended_for.append
        self.handovers = Handovers(settings.home, 0)
        store = open_store(settings, lambda: nodes.agreed(database, "store"), create=True)
        progress = Progress(RestingRedis(None))
        self.handler = GenerationHandler(
            settings, database, DEMO, store, progress, working.HERE, "a CPU", self.handovers, self.ahead
        )
        self.runner = Runner(settings, database, working.HERE, {GENERATION: self.handler}, UNCOUNTED, self.ahead)
        self._thread = ThreadPoolExecutor(1)

    def close(self) -> None:
        """End every thread: those of a job that waits for the end of another report until then."""

        def has_ended() -> bool:
            for waiting in self.handovers.waiting():
                waiting.discard()
            return not any(thread.name == "ahead" for thread in threading.enumerate())

        wait_for(has_ended, PATIENCE, "for the end of the threads")
        self._thread.shutdown()

    def receives(self, job: Job) -> Future[bool]:
        return self._thread.submit(self.runner.run, GENERATION, job.id)

    def dispatched(self, **values: Any) -> Job:
        job = accepted(self.database, mock=True, **values)
        hold(self.database, *DEMO.model_ids, node=working.HERE.node)
        dispatch.mark_dispatched(self.database, [(job.id, working.HERE.device_key)])
        return job

    def status(self, job: Job) -> tuple[str, int, str | None]:
        row = records.get(self.database, job.id)
        return row.status, row.attempt, row.phase


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Holds a job on the device, before its frames are decoded."""
    held = Held()
    mock = run._mock

    def slow(context: Any) -> Any:
        held.at(context.job_id)
        return mock(context)

    monkeypatch.setattr(run, "_mock", slow)
    yield held
    held.let_all_go()


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Holds a job when its frames are decoded, before its row says that it has left the device."""
    held = Held()
    leave = Leaving.leave

    def slow(self: Any, *arguments: Any) -> bool:
        held.at(self._job.id)
        return leave(self, *arguments)

    monkeypatch.setattr(Leaving, "leave", slow)
    yield held
    held.let_all_go()


@pytest.fixture
def worker(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setenv("WANWORKS_DEVICE", "cpu:0")
    known = settings.model_copy(update={"min_free_disk_mb": 0, "catalogue": "demo", "heartbeat_seconds": 0.1})
    worker = Worker(known, database)
    yield worker
    worker.close()


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_the_next_job_is_on_the_device_before_the_first_has_left_it_and_is_claimed_afterwards(
    worker: Worker, decoding: Held, leaving: Held
) -> None:
    first, second = worker.dispatched(), worker.dispatched()
    answer = worker.receives(first)
    wait_for(lambda: first.id in decoding.reached, PATIENCE, "for the first job on the device")
    decoding.let_go(first.id)
    wait_for(lambda: second.id in decoding.reached, PATIENCE, "for the second job on the device")
    assert worker.status(first)[0] == JobState.RUNNING
    assert worker.status(second) == (JobState.QUEUED, 0, None), "no device has two rows"
    leaving.let_all_go()
    assert answer.result(PATIENCE) is False, "another process finishes it"
    assert worker.status(first) == (JobState.RUNNING, 1, Phase.FINISHING)
    wait_for(lambda: worker.status(second)[0] == JobState.RUNNING, PATIENCE, "for the claim of the second job")
    message = worker.receives(second)
    worker.handovers.waiting()[0].discard()  # it is finished
    decoding.let_go(second.id)
    assert message.result(PATIENCE) is False
    assert worker.status(second) == (JobState.RUNNING, 1, Phase.FINISHING), "its message has not begun it again"
    assert decoding.reached == [first.id, second.id]


def test_a_job_that_is_recalled_before_its_claim_is_dropped_and_runs_when_it_is_dispatched_again(
    worker: Worker, decoding: Held, leaving: Held
) -> None:
    first, second = worker.dispatched(), worker.dispatched()
    answer = worker.receives(first)
    decoding.let_go(first.id)
    wait_for(lambda: second.id in decoding.reached, PATIENCE, "for the second job on the device")
    dispatch.recall(worker.database, [second.id])
    decoding.let_go(second.id)
    leaving.let_all_go()
    answer.result(PATIENCE)
    message = worker.receives(second)
    assert message.result(PATIENCE) is False
    assert worker.status(second)[:2] == (JobState.QUEUED, 0)
    worker.handovers.waiting()[0].discard()
    dispatch.mark_dispatched(worker.database, [(second.id, working.HERE.device_key)])
    worker.receives(second).result(PATIENCE)
    assert worker.status(second) == (JobState.RUNNING, 1, Phase.FINISHING)


def test_a_job_that_was_returned_runs_again_though_its_first_message_never_came(
    worker: Worker, decoding: Held, leaving: Held
) -> None:
    first, second = worker.dispatched(), worker.dispatched()
    leaving.let_all_go()
    answer = worker.receives(first)
    decoding.let_go(first.id)
    answer.result(PATIENCE)
    wait_for(lambda: worker.status(second)[0] == JobState.RUNNING, PATIENCE, "for the claim of the second job")
    attempts.give_back(worker.database, second.id, 1)
    decoding.let_all_go()
    wait_for(lambda: worker.ahead._running[second.id].done(), PATIENCE, "for the end of its first attempt")
    worker.handovers.waiting()[0].discard()
    dispatch.mark_dispatched(worker.database, [(second.id, working.HERE.device_key)])
    assert worker.receives(second).result(PATIENCE) is False
    assert worker.status(second) == (JobState.RUNNING, 2, Phase.FINISHING)


def test_nothing_begins_after_a_job_that_fails(worker: Worker, decoding: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = worker.dispatched(), worker.dispatched()
    mock = run._mock

    def failing(context: Any) -> Any:
        if context.job_id == first.id:
            context.report(Phase.DECODING)
            wait_for(lambda: worker.handler._begun is not None, PATIENCE, "until the second job waits for the device")
            raise BadInput("wrong")
        return mock(context)

    monkeypatch.setattr(run, "_mock", failing)
    with pytest.raises(JobFailed):
        worker.receives(first).result(PATIENCE)
    assert worker.status(second) == (JobState.QUEUED, 0, None)
    assert decoding.reached == []
    decoding.let_all_go()
    assert worker.receives(second).result(PATIENCE) is False
    assert worker.status(second) == (JobState.RUNNING, 1, Phase.FINISHING)


def test_a_cancelled_job_stops_where_it_was_begun(worker: Worker, decoding: Held, leaving: Held) -> None:
    first, second = worker.dispatched(), worker.dispatched()
    answer = worker.receives(first)
    decoding.let_go(first.id)
    wait_for(lambda: second.id in decoding.reached, PATIENCE, "for the second job on the device")
    leaving.let_all_go()
    answer.result(PATIENCE)
    wait_for(lambda: worker.status(second)[0] == JobState.RUNNING, PATIENCE, "for the claim of the second job")
    records.request_cancel(worker.database, second.id)
    decoding.let_go(second.id)
    wait_for(lambda: worker.status(second)[0] == JobState.CANCELLED, PATIENCE, "for the end of the second job")
    third = worker.dispatched()
    worker.handovers.waiting()[0].discard()
    decoding.let_all_go()
    assert worker.receives(third).result(PATIENCE) is False
    assert worker.status(third) == (JobState.RUNNING, 1, Phase.FINISHING)


def test_a_job_whose_message_was_lost_keeps_the_device_from_the_next_one(
    worker: Worker, decoding: Held, leaving: Held
) -> None:
    first, lost = worker.dispatched(), worker.dispatched()
    leaving.let_all_go()
    answer = worker.receives(first)
    decoding.let_go(first.id)
    wait_for(lambda: lost.id in decoding.reached, PATIENCE, "for the second job on the device")
    answer.result(PATIENCE)
    wait_for(lambda: worker.status(lost)[0] == JobState.RUNNING, PATIENCE, "for the claim of the second job")
    worker.handovers.waiting()[0].discard()
    third = worker.dispatched()
    message = worker.receives(third)
    wait_for(lambda: worker.ahead._answered == third.id, PATIENCE, "for the message of the third job")
    assert worker.status(third) == (JobState.QUEUED, 0, None)
    decoding.let_go(lost.id)
    wait_for(lambda: bool(worker.handovers.waiting()), PATIENCE, "until the second job has left the device")
    worker.handovers.waiting()[0].discard()
    decoding.let_all_go()
    assert message.result(PATIENCE) is False
    assert worker.status(third) == (JobState.RUNNING, 1, Phase.FINISHING)


def test_a_late_look_begins_nothing_beside_the_job_of_a_later_message(
    worker: Worker, decoding: Held, leaving: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, go_on, find = threading.Event(), threading.Event(), dispatch.next_on

    def late(database: Database, device_key: str) -> Job | None:
        if threading.current_thread().name == "ahead" and not looking.is_set():
            looking.set()
            assert go_on.wait(PATIENCE)
        return find(database, device_key)

    monkeypatch.setattr(dispatch, "next_on", late)
    leaving.let_all_go()
    first = worker.dispatched()
    answer = worker.receives(first)
    decoding.let_go(first.id)
    answer.result(PATIENCE)
    assert looking.is_set(), "the look of the first job has not found anything yet"
    worker.handovers.waiting()[0].discard()
    second = worker.dispatched()
    message = worker.receives(second)
    wait_for(lambda: second.id in decoding.reached, PATIENCE, "for the second job on the device")
    third = worker.dispatched()
    go_on.set()
    wait_for(lambda: not any(each.name == "ahead" for each in threading.enumerate()), PATIENCE, "for the late look")
    assert worker.status(second) == (JobState.RUNNING, 1, Phase.LOADING)
    assert worker.status(third) == (JobState.QUEUED, 0, None)
    decoding.let_all_go()
    message.result(PATIENCE)


def test_a_message_that_does_not_apply_any_more_waits_for_no_other_job(
    worker: Worker, decoding: Held, leaving: Held
) -> None:
    first, moved, following = worker.dispatched(), worker.dispatched(), None
    dispatch.mark_dispatched(worker.database, [(moved.id, "here/1")])
    following = worker.dispatched()
    leaving.let_all_go()
    answer = worker.receives(first)
    decoding.let_go(first.id)
    answer.result(PATIENCE)
    wait_for(lambda: worker.status(following)[0] == JobState.RUNNING, PATIENCE, "for the claim of the next job")
    assert worker.receives(moved).result(PATIENCE) is False
    assert worker.status(following)[0] == JobState.RUNNING, "it is still on the device"
    decoding.let_all_go()


def test_an_old_message_claims_nothing_though_its_job_is_dispatched_again_at_that_moment(
    worker: Worker, decoding: Held, leaving: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, recalled, following = worker.dispatched(), worker.dispatched(), None
    dispatch.recall(worker.database, [recalled.id])
    following = worker.dispatched()
    leaving.let_all_go()
    answer = worker.receives(first)
    decoding.let_go(first.id)
    answer.result(PATIENCE)
    wait_for(lambda: worker.status(following)[0] == JobState.RUNNING, PATIENCE, "for the claim of the next job")
    worker.handovers.waiting()[0].discard()
    is_on = dispatch.is_on

    def is_on_before_the_dispatch(database: Database, job_id: str, device_key: str) -> bool:
        found = is_on(database, job_id, device_key)
        dispatch.mark_dispatched(database, [(recalled.id, device_key)])
        return found

    monkeypatch.setattr(dispatch, "is_on", is_on_before_the_dispatch)
    assert worker.receives(recalled).result(PATIENCE) is False
    assert worker.status(following)[0] == JobState.RUNNING, "it is still on the device"
    assert worker.status(recalled) == (JobState.QUEUED, 0, None), "no device has two rows"
    decoding.let_all_go()
    wait_for(lambda: bool(worker.handovers.waiting()), PATIENCE, "until the other job has left the device")
    worker.handovers.waiting()[0].discard()
    assert worker.receives(recalled).result(PATIENCE) is False, "the message of the second dispatch"
    assert worker.status(recalled) == (JobState.RUNNING, 1, Phase.FINISHING)


@pytest.mark.parametrize("ends", ["succeeds", "fails"])
def test_the_next_job_is_not_claimed_before_the_end_of_one_that_its_child_finishes_itself(
    worker: Worker, decoding: Held, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    first, second = worker.dispatched(), worker.dispatched()
    monkeypatch.setattr(Leaving, "leave", lambda *_: False)
    decoding.off = True
    written = Held()
    write = attempts.succeed if ends == "succeeds" else attempts.fail

    def slow(database: Database, job_id: str, *rest: Any, **more: Any) -> Job:
        if job_id == first.id:
            written.at(job_id)
        return write(database, job_id, *rest, **more)

    def failing(_ending: Any, job: Job, *_: Any, **__: Any) -> dict[str, Any]:
        if ends == "fails" and job.id == first.id:
            raise BadInput("wrong")
        return {}

    monkeypatch.setattr(attempts, write.__name__, slow)
    monkeypatch.setattr(Ending, "complete", failing)
    answer = worker.receives(first)
    wait_for(lambda: first.id in written.reached and second.id in decoding.reached, PATIENCE, "for both jobs")
    assert worker.status(second) == (JobState.QUEUED, 0, None)
    written.let_all_go()
    with suppress(JobFailed):
        answer.result(PATIENCE)
    wait_for(lambda: worker.status(second)[0] == JobState.SUCCEEDED, PATIENCE, "for the end of the second job")
    first_row, second_row = (records.get(worker.database, job.id) for job in (first, second))
    assert first_row.finished_at is not None
    assert second_row.started_at is not None
    assert first_row.finished_at <= second_row.started_at


def test_a_database_that_is_away_after_the_claim_leaves_the_device_to_the_next_job(
    worker: Worker, decoding: Held, leaving: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = worker.dispatched(), worker.dispatched()
    leaving.let_all_go()
    generations = replicas.generations

    def away(database: Database, node: str) -> dict[str, int]:
        if records.get(database, second.id).status == JobState.RUNNING:
            raise DatabaseUnavailable()
        return generations(database, node)

    monkeypatch.setattr(replicas, "generations", away)
    answer = worker.receives(first)
    decoding.let_all_go()
    answer.result(PATIENCE)
    wait_for(lambda: worker.status(second) == (JobState.QUEUED, 1, None), PATIENCE, "for the return of the second job")
    worker.handovers.waiting()[0].discard()
    third = worker.dispatched()
    assert worker.receives(third).result(PATIENCE) is False
    assert worker.status(third) == (JobState.RUNNING, 1, Phase.FINISHING)


def test_a_job_that_has_failed_before_does_not_begin_beside_another(
    worker: Worker, decoding: Held, leaving: Held
) -> None:
    first, second = worker.dispatched(), worker.dispatched()
    with worker.database.write() as session:
        session.connection().execute(update(Job).where(col(Job.id) == second.id).values(failures=1))
    answer = worker.receives(first)
    decoding.let_go(first.id)
    wait_for(lambda: first.id in leaving.reached, PATIENCE, "for the frames of the first job")
    wait_for(lambda: second.id in worker.ahead._running, PATIENCE, "until the second job is found")
    leaving.let_all_go()
    answer.result(PATIENCE)
    assert decoding.reached == [first.id]
    assert worker.status(second) == (JobState.QUEUED, 0, None)
    worker.handovers.waiting()[0].discard()
    decoding.let_all_go()
    worker.receives(second).result(PATIENCE)
    assert worker.status(second) == (JobState.RUNNING, 1, Phase.FINISHING)


def test_a_device_that_fails_in_a_job_that_is_dropped_ends_the_process(
    worker: Worker, decoding: Held, leaving: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = worker.dispatched(), worker.dispatched()
    mock = run._mock

    def failing(context: Any) -> Any:
        if context.job_id == second.id:
            decoding.at(second.id)
            raise DeviceFailed(FaultKind.CUDA_ERROR, "an illegal address")
        return mock(context)

    monkeypatch.setattr(run, "_mock", failing)
    answer = worker.receives(first)
    decoding.let_go(first.id)
    wait_for(lambda: second.id in decoding.reached, PATIENCE, "for the second job on the device")
    dispatch.recall(worker.database, [second.id])
    decoding.let_all_go()
    leaving.let_all_go()
    answer.result(PATIENCE)
    wait_for(lambda: bool(worker.ended_for), PATIENCE, "for the end of the process")
    assert records.get(worker.database, second.id).failures == 0


def test_a_device_that_fails_in_a_job_begun_ahead_ends_the_process(
    worker: Worker, decoding: Held, leaving: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = worker.dispatched(), worker.dispatched()
    leaving.let_all_go()
    slow: Callable[[Any], Any] = run._mock

    def failing(context: Any) -> Any:
        made = slow(context)
        if context.job_id == second.id:
            raise DeviceFailed(FaultKind.CUDA_ERROR, "an illegal address")
        return made

    monkeypatch.setattr(run, "_mock", failing)
    answer = worker.receives(first)
    decoding.let_all_go()
    answer.result(PATIENCE)
    wait_for(lambda: bool(worker.ended_for), PATIENCE, "for the end of the process")
    assert "illegal address" in worker.ended_for[0]
    row = records.get(worker.database, second.id)
    assert (row.status, row.failures) == (JobState.QUEUED, 1)
    assert running_attempts.running_on(worker.database, working.HERE.worker)[0].job_id == first.id


def test_each_job_that_may_come_next_is_prepared_for(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_EXPECT_SECONDS", 0.01)
    turn, expected = Turn(), list[str]()

    def prepare(job: Job) -> None:
        expected.append(job.id)
        raise OSError("the disk is away")

    worker.ahead.expect(turn, prepare)
    first = worker.dispatched()
    wait_for(lambda: expected == [first.id], PATIENCE, "for the first job")
    dispatch.recall(worker.database, [first.id])
    second = worker.dispatched()
    wait_for(lambda: expected == [first.id, second.id], PATIENCE, "for the second job")
    turn.end()
    wait_for(lambda: not any(each.name == "expect" for each in threading.enumerate()), PATIENCE, "for the thread's end")
