"""Faults of devices: what counts, what quarantines a device, and what a job that takes down two devices ends as."""

from typing import Any

import pytest

from shared import clock
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Device, Job
from shared.errors import FaultKind, NotFound
from shared.jobs import attempts, device_faults, dispatch, records
from shared.jobs.attempts import Claimant
from shared.jobs.device_faults import Fault
from shared.states import JobState
from tests.conftest import both_databases
from tests.support.jobs import accepted, claimed

DIED = Fault(FaultKind.PROCESS_DEATH, "the process died")
CUDA = Fault(FaultKind.CUDA_ERROR, "CUDA error: an illegal memory access was encountered")
PROBE = Fault(FaultKind.FAILED_PROBE, "the probe computed wrong results")


def claimant(index: int, uuid: str | None = None) -> Claimant:
    return Claimant("n", f"gpu-{index}@n", uuid or f"GPU-{index}", f"n/{index}", pid=100 + index)


def register(database: Database, index: int, uuid: str | None = None) -> None:
    row = Device(
        key=f"n/{index}", node="n", index=index, kind="cuda", uuid=uuid or f"GPU-{index}", name="GPU",
        memory_mb=80_000, worker=f"gpu-{index}@n", pid=1, started_at=clock.now(), seen_at=0.0, warm=[],
    )  # fmt: skip
    nodes.register_device(database, row)


@pytest.fixture
def two(database: Database) -> Database:
    """Node n with two devices."""
    for index in (0, 1):
        register(database, index)
    return database


def run(database: Database, job: Job, index: int = 0) -> int:
    """Claim the job on that device. Return the attempt."""
    return claimed(database, job.id, claimant(index)).attempt


def fail(database: Database, job: Job, fault: Fault, index: int = 0, **options: Any) -> Job:
    """Run the job on that device until the fault."""
    after = attempts.crashed(database, job.id, run(database, job, index), "It failed", 0.0, fault=fault, **options)
    assert after is not None
    return after


def device(database: Database, index: int = 0) -> Device:
    return next(seen.device for seen in nodes.devices(database) if seen.device.index == index)


def faults(database: Database, index: int = 0) -> int:
    return device_faults.counts(database).get(("n", f"GPU-{index}"), 0)


@both_databases
def test_three_faults_in_a_row_of_two_jobs_quarantine_the_device(two: Database) -> None:
    first, second, third = accepted(two), accepted(two), accepted(two)
    fail(two, first, DIED)
    fail(two, first, PROBE)
    assert device(two).quarantined_at is None
    fail(two, second, CUDA)
    quarantined = device(two)
    assert quarantined.quarantined_at is not None
    assert quarantined.quarantine_reason == f"3 faults in a row, of 2 jobs; the last: {CUDA.detail}"
    assert device(two, 1).quarantined_at is None
    dispatch.mark_dispatched(two, [(third.id, "n/0")])
    assert attempts.claim(two, third.id, claimant(0), 60.0) is None, "the claim refuses too"
    dispatch.mark_dispatched(two, [(third.id, "n/1")])
    assert attempts.claim(two, third.id, claimant(1), 60.0) is not None


@both_databases
def test_one_job_alone_never_quarantines_a_device(two: Database) -> None:
    job = accepted(two)
    for _ in range(4):
        fail(two, job, CUDA)
    assert (faults(two), device(two).quarantined_at) == (4, None)
    fail(two, accepted(two), CUDA)
    assert device(two).quarantined_at is not None


@both_databases
def test_a_success_resets_the_row_of_faults(two: Database) -> None:
    fail(two, accepted(two), CUDA)
    fail(two, accepted(two), CUDA)
    job = accepted(two)
    attempts.succeed(two, job.id, run(two, job), {})
    assert faults(two) == 0
    fail(two, accepted(two), CUDA)
    fail(two, accepted(two), CUDA)
    assert device(two).quarantined_at is None


def test_a_success_on_another_device_or_of_a_placeholder_resets_nothing(two: Database) -> None:
    fail(two, accepted(two), CUDA)
    elsewhere, mock = accepted(two), accepted(two, mock=True)
    attempts.succeed(two, elsewhere.id, run(two, elsewhere, 1), {})
    attempts.succeed(two, mock.id, run(two, mock), {})
    assert faults(two) == 1


@pytest.mark.parametrize("code", ["bad_input", "bad_output", "out_of_memory", "internal_error"])
def test_failed_jobs_do_not_count(two: Database, code: str) -> None:
    for _ in range(4):
        job = accepted(two)
        attempts.fail(two, job.id, run(two, job), attempts.Failure(code, "It failed", retryable=False))
    assert (faults(two), device(two).quarantined_at) == (0, None)


def test_cancels_stops_and_placeholders_do_not_count(two: Database) -> None:
    for _ in range(4):
        cancelled = accepted(two)
        attempt = run(two, cancelled)
        records.request_cancel(two, cancelled.id)
        ended = attempts.crashed(two, cancelled.id, attempt, "Killed", 0.0, fault=DIED)
        assert ended is not None
        assert ended.status == JobState.CANCELLED
        stopped = accepted(two)
        attempts.give_back(two, stopped.id, run(two, stopped))
        fail(two, accepted(two, mock=True), DIED)
    assert (faults(two), device(two).quarantined_at) == (0, None)


@both_databases
def test_a_job_that_took_down_two_devices_fails_and_is_given_to_no_third(two: Database) -> None:
    job = accepted(two)
    back = fail(two, job, CUDA, 0)
    assert (back.status, back.avoid_device, back.failures) == (JobState.QUEUED, "n/0", 1)
    after = fail(two, job, DIED, 1)
    assert (after.status, after.failures) == (JobState.FAILED, 2)
    assert after.error == {
        "code": "device_fault",
        "message": "The job took down 2 devices (n/0, n/1), so it has failed",
        "retryable": False,
    }


def test_a_success_between_does_not_clear_a_job_of_the_device_that_it_took_down(two: Database) -> None:
    job, other = accepted(two), accepted(two)
    fail(two, job, CUDA, 0)
    attempts.succeed(two, other.id, run(two, other, 0), {})
    assert fail(two, job, CUDA, 1).status == JobState.FAILED


@both_databases
def test_a_quarantine_survives_a_restart_and_ends_by_a_release(two: Database) -> None:
    for _ in range(3):
        fail(two, accepted(two), CUDA)
    since = device(two).quarantined_at
    register(two, 0)
    assert since is not None
    assert device(two).quarantined_at == since
    assert device_faults.release(two, "n/0").quarantined_at is None
    assert device_faults.release(two, "n/0").quarantine_reason is None
    register(two, 0)
    assert (device(two).quarantined_at, faults(two)) == (None, 0)
    fail(two, accepted(two), CUDA)
    assert device(two).quarantined_at is None, "it begins anew"
    with pytest.raises(NotFound):
        device_faults.release(two, "n/7")


def test_a_quarantine_follows_the_gpu_and_not_its_index(two: Database) -> None:
    for _ in range(3):
        fail(two, accepted(two), CUDA)
    register(two, 0, uuid="GPU-1")
    register(two, 1, uuid="GPU-0")
    assert device(two, 0).quarantined_at is None
    assert device(two, 1).quarantined_at is not None
    register(two, 0, uuid="GPU-new")
    assert device(two, 0).quarantined_at is None


def test_a_quarantine_outlives_the_success_of_the_job_that_still_runs(two: Database) -> None:
    job = accepted(two)
    attempt = run(two, job)
    assert device_faults.quarantine(two, "n/0", FaultKind.XID, "Xid 79: the GPU has fallen off the bus")
    assert not device_faults.quarantine(two, "n/0", FaultKind.XID, "Xid 48: a double bit error")
    assert attempts.succeed(two, job.id, attempt, {}).status == JobState.SUCCEEDED
    assert device(two).quarantine_reason == "Xid 79: the GPU has fallen off the bus"
    register(two, 0)
    assert device(two).quarantine_reason == "Xid 79: the GPU has fallen off the bus"


def test_an_attempt_that_ended_before_adds_no_fault(two: Database) -> None:
    job = accepted(two)
    attempt = run(two, job)
    attempts.crashed(two, job.id, attempt, "It failed", 0.0, fault=CUDA)
    assert attempts.crashed(two, job.id, attempt, "It died", 0.0, fault=DIED) is None
    assert faults(two) == 1
