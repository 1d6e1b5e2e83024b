"""Two claims, dispatchers or processes of a node that write the same rows, on both databases."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any

import pytest
from sqlmodel import select

from shared.catalogue.job_types import DOWNLOAD, DownloadParams
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import FaultKind
from shared.jobs import accepting, attempts, device_faults, dispatch
from shared.jobs.accepting import NewJob
from shared.jobs.attempts import Claimant
from shared.jobs.device_faults import Fault
from shared.models import removals, replica_files
from shared.models.replica_files import BlobState
from shared.states import JobState, Priority
from tests.conftest import both_databases
from tests.integration.shared.jobs.races.racing import IO, Pair, Race, is_error
from tests.support.interleaving import interleavings
from tests.support.jobs import CLAIMANT, accepted, claimed, hold
from tests.support.models import library

pytestmark = both_databases


def test_two_claims_of_one_job_give_it_to_one(database: Database, race: Race) -> None:
    other = Claimant("n", "gpu-1@n", "cpu-1", "n/1")
    hold(database, "T2V-A14B")

    def dispatched() -> Job:
        job = accepted(database)
        dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
        return job

    def dispatch_and_claim() -> Job | None:
        dispatch.mark_dispatched(database, [(race.job_id, other.device_key)])
        return attempts.claim(database, race.job_id, other, 60)

    for (one, two), after in race.run(
        dispatched, lambda: attempts.claim(database, race.job_id, CLAIMANT, 60), dispatch_and_claim
    ):
        assert not is_error(one)
        assert not is_error(two)
        assert sum(claim is not None for claim in (one, two)) == 1
        assert (after.status, after.attempt) == (JobState.RUNNING, 1)


def test_two_claims_never_exceed_what_a_node_may_run_at_once(database: Database) -> None:
    for most in (1, 2):

        def pair(most: int = most) -> Pair:
            _clear(database)
            ids = [_waiting_download(database, model).id for model in ("T2V-A14B", "TI2V-5B", "I2V-A14B")]
            dispatch.mark_dispatched(database, [(job_id, IO.device_key) for job_id in ids])
            if most == 2:
                assert attempts.claim(database, ids.pop(), IO, 60, at_most=2) is not None
            return (
                lambda: attempts.claim(database, ids[0], IO, 60, at_most=most),
                lambda: attempts.claim(database, ids[1], IO, 60, at_most=most),
            )

        for _, met in interleavings(database, pair):
            assert not is_error(met.first)
            assert not is_error(met.second)
            with database.read() as session:
                rows = session.exec(select(Job).where(Job.status == JobState.RUNNING)).all()
            assert len(rows) == most, met


def test_no_claim_comes_after_a_drain_was_answered(database: Database) -> None:
    hold(database, "T2V-A14B")
    nodes.node_beat(database, "n", None, None)
    for _, met in interleavings(database, lambda: _claim_and_drain(database)):
        assert not is_error(met.first)
        assert not is_error(met.second)
        if met.second_was_through:
            assert met.first is None, "the drain was answered while the claim was under way"


def _claim_and_drain(database: Database) -> Pair:
    nodes.undrain(database, "n")
    job = accepted(database)
    dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
    return lambda: attempts.claim(database, job.id, CLAIMANT, 60), lambda: nodes.drain(database, "n")


def test_no_claim_comes_after_a_quarantine_was_stored(database: Database) -> None:
    hold(database, "T2V-A14B")
    library.device(database, on="n")
    for _, met in interleavings(database, lambda: _claim_and_quarantine(database)):
        assert not is_error(met.first)
        assert not is_error(met.second)
        if met.second_was_through:
            assert met.first is None, "the quarantine was stored while the claim was under way"


def _claim_and_quarantine(database: Database) -> Pair:
    device_faults.release(database, CLAIMANT.device_key)
    job = accepted(database)
    dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
    return (
        lambda: attempts.claim(database, job.id, CLAIMANT, 60),
        lambda: device_faults.quarantine(database, CLAIMANT.device_key, FaultKind.XID, "Xid 79"),
    )


def test_two_faults_at_once_are_both_counted(database: Database) -> None:
    """The dispatcher counts an expired lease while the worker counts a crash: each of another job of the device."""
    hold(database, "T2V-A14B")
    library.device(database, on="n", uuid=CLAIMANT.device)

    def pair() -> Pair:
        device_faults.release(database, CLAIMANT.device_key)
        _crash(database, claimed(database, accepted(database).id))
        one, other = (claimed(database, accepted(database).id) for _ in range(2))
        return lambda: _crash(database, one), lambda: _crash(database, other)

    for _, met in interleavings(database, pair):
        assert not is_error(met.first)
        assert not is_error(met.second)
        (seen,) = nodes.devices(database)
        assert seen.device.quarantined_at is not None


def _crash(database: Database, job: Job) -> Job | None:
    fault = Fault(FaultKind.PROCESS_DEATH, "it died")
    return attempts.crashed(database, job.id, job.attempt, "It died", 0.0, fault=fault)


def test_a_model_is_removed_or_used_never_both(database: Database) -> None:
    for turned in (False, True):

        def pair(turned: bool = turned) -> Pair:
            _clear(database)
            library.replica(database, on="n")
            job = accepted(database)
            dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])

            def remove() -> bool:
                return removals.begin_removal(database, "n", "T2V-A14B")

            def take() -> Job | None:
                return attempts.claim(database, job.id, CLAIMANT, 60)

            return (remove, take) if turned else (take, remove)

        for _, met in interleavings(database, pair):
            claim, removed = (met.second, met.first) if turned else (met.first, met.second)
            assert not is_error(claim)
            assert not is_error(removed)
            assert not (removed and claim is not None)


def test_two_dispatchers_call_a_job_to_one_device(database: Database, race: Race) -> None:
    for results, after in race.run(
        lambda: accepted(database),
        lambda: dispatch.mark_dispatched(database, [(race.job_id, "n/0")]),
        lambda: dispatch.mark_dispatched(database, [(race.job_id, "n/1")]),
    ):
        assert not any(is_error(result) for result in results)
        assert after.dispatched_to in ("n/0", "n/1")


def test_two_dispatchers_that_call_the_same_jobs_do_not_lock_each_other_out(database: Database) -> None:
    def pair() -> Pair:
        calls = [(accepted(database).id, f"n/{index}") for index in range(2)]
        mark = partial(dispatch.mark_dispatched, database)
        return lambda: mark(calls), lambda: mark(calls[::-1])

    for _, met in interleavings(database, pair):
        assert not is_error(met.first)
        assert not is_error(met.second)


def test_two_processes_of_a_node_write_what_is_there_together(database: Database) -> None:
    numbers = count()

    def pair() -> Pair:
        repo = f"org/model-{next(numbers)}"
        blob = BlobState(repo, "a" * 40, 5, False, datetime(2026, 1, 1, tzinfo=UTC), ("r",))
        return (
            lambda: replica_files.record_blobs(database, "n", [blob]),
            lambda: replica_files.record_blobs(database, "n", [blob]),
        )

    for _, met in interleavings(database, pair):
        assert not is_error(met.first)
        assert not is_error(met.second)
        assert len(replica_files.blobs(database, "n")) == 1


_ROWS = [
    "files",
    "download",
    "pin",
    "note",
    "agree",
    "device",
    "snapshot",
    "version",
    "processes",
    "alert",
    "day",
    "known node",
    "node",
]


@pytest.mark.parametrize("what", _ROWS)
def test_two_writers_of_a_row_that_is_not_there_yet_both_succeed(database: Database, what: str) -> None:
    numbers = count()
    for _, met in interleavings(database, lambda: _adding(database, what, next(numbers))):
        assert not is_error(met.first), met
        assert not is_error(met.second), met
        if what == "agree":
            assert met.first == met.second
        if what == "alert":
            assert len([*met.first, *met.second]) == 1, "one opens it"


def _adding(database: Database, what: str, number: int) -> Pair:
    from shared import clock
    from shared.cluster import alerts
    from shared.cluster.alerts import Cause, Changes
    from shared.database.tables import Process, Snapshot
    from shared.insight import snapshots
    from shared.jobs.usage import by_day
    from shared.models import replicas, versions
    from shared.models.replica_files import FileState
    from tests.support.uses import used

    now = clock.now()
    file = FileState("a.bin", 1, "c" * 64, 1.0, 1, now)
    node = f"node-{number}"
    match what:
        case "files":
            work: Callable[[], Any] = lambda: replica_files.record_files(database, node, "m", "r", [file])  # noqa: E731
        case "download":
            work = lambda: replica_files.record_download(database, node, "m", "org/m", "r", [file], now)  # noqa: E731
        case "pin":
            work = lambda: replicas.pin(database, f"model-{number}")  # noqa: E731
        case "note":
            work = lambda: nodes.note(database, f"name-{number}", "value")  # noqa: E731
        case "agree":
            work = lambda: nodes.agreed(database, f"name-{number}")  # noqa: E731
        case "device":
            work = lambda: library.device(database, on=node)  # noqa: E731
        case "known node":
            nodes.node_beat(database, node, None, None)
            work = lambda: library.device(database, on=node)  # noqa: E731
        case "node":
            return lambda: nodes.node_beat(database, node, None, None), lambda: library.device(database, on=node)
        case "snapshot":
            counts = dict.fromkeys(_COUNTS, number)
            work = lambda: snapshots.record(database, Snapshot(at=now, **counts))  # noqa: E731
        case "version":
            work = lambda: versions.record(database, f"model-{number}", "a" * 40, now)  # noqa: E731
        case "processes":
            web = {"name": "web", "state": "running", "restarts": 0, "since": now, "seen_at": 0.0}
            work = lambda: nodes.report_processes(database, node, {"web"}, [Process(node=node, **web)])  # noqa: E731
        case "alert":
            cause = Cause("worker_lost", node, "critical", "A worker is lost", "Silent", "Look", action_required=True)
            work = lambda: alerts.apply(database, Changes(opened=(cause,)), now, deliver=False)  # noqa: E731
        case _:
            used(database, f"model-{number}", days_ago=30 - number)
            work = lambda: by_day.roll_up(database, now)  # noqa: E731
    return work, work


_COUNTS = (
    "total_models", "healthy_models", "active_models", "total_generations_24h", "alerts_count", "recommendations_count",
    "queued_jobs", "running_jobs", "succeeded_1h", "failed_1h",
)  # fmt: skip


def _waiting_download(database: Database, model_id: str) -> Job:
    new = NewJob(DOWNLOAD, DownloadParams(model_id=model_id, node="n"), Priority.NORMAL)
    (outcome,) = accepting.accept(database, [new])
    assert isinstance(outcome, accepting.Accepted)
    return outcome.job


def _clear(database: Database) -> None:
    with database.write() as session:
        for job in session.exec(select(Job)):
            session.delete(job)
