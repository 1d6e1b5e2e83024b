"""Errors of a generation: which of them count as faults of the device, and how the job ends."""

from collections.abc import Callable, Iterator

import pytest
import torch

from shared import clock
from shared.catalogue.job_types import GENERATION
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Device
from shared.errors import DatabaseUnavailable, DeviceFailed, FaultKind, JobFailed
from shared.jobs import attempts, device_faults, dispatch, records
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings
from shared.states import JobState
from shared.storage.store import open_store
from tests.support import working
from tests.support.devices import poisoned
from tests.support.jobs import DEMO, UNCOUNTED, accepted, hold
from tests.support.models.generating import snapshots
from workers.attempts.runner import Runner
from workers.generation import run
from workers.generation.job import GenerationHandler
from workers.generation.pipelines import running


@pytest.fixture
def runner(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """Of the device ``here/0``, which is registered."""
    monkeypatch.setenv("WANWORKS_DEVICE", "cpu:0")
    monkeypatch.setattr(run, "_warm_models", None)
    models = snapshots()["T2V-A14B"].parent.parent.parent
    settings = settings.model_copy(update={"models_path": models, "retry_backoff_seconds": 0.0})
    row = Device(
        key="here/0", node="here", index=0, kind="cpu", uuid="cpu-0", name="a CPU", memory_mb=16_000,
        worker="gpu-0@here", pid=1, started_at=clock.now(), seen_at=0.0, warm=[],
    )  # fmt: skip
    nodes.register_device(database, row)
    store = open_store(settings, lambda: nodes.agreed(database, "store"), create=True)
    work = GenerationHandler(
        settings, database, DEMO, store, Progress(RestingRedis(settings.redis)), working.HERE, "a CPU"
    )
    yield Runner(settings, database, working.HERE, {GENERATION: work}, UNCOUNTED)
    run.free()


@pytest.fixture
def strike(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Return a function that lets every generation call that first, as its first act on the device."""
    kept: list[object] = []
    real = running.run

    def order(act: Callable[[], object]) -> None:
        def struck(*args: object) -> object:
            kept.append(act())
            return real(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(running, "run", struck)

    yield order
    for library in kept:
        library._destroy()  # type: ignore[attr-defined]


def dispatched(database: Database) -> str:
    job = accepted(database)
    hold(database, *DEMO.model_ids, node=working.HERE.node)
    dispatch.mark_dispatched(database, [(job.id, working.HERE.device_key)])
    return job.id


def faults(database: Database) -> int:
    return device_faults.counts(database).get(("here", "cpu-0"), 0)


def raising(error: Exception) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


def test_a_cuda_error_gives_the_job_back_and_counts(
    runner: Runner, settings: Settings, database: Database, strike: Callable[..., None]
) -> None:
    strike(poisoned.poison)
    job_id = dispatched(database)
    with pytest.raises(DeviceFailed) as raised:
        runner.run(GENERATION, job_id)
    assert raised.value.kind == FaultKind.CUDA_ERROR
    after = records.get(database, job_id)
    assert (after.status, after.failures, after.error, after.avoid_device) == (JobState.QUEUED, 1, None, "here/0")
    assert faults(database) == 1
    assert not [path for path in (settings.store_dir / "artifacts").rglob("*") if path.is_file()]


def test_an_unforeseen_error_with_a_failed_probe_counts(
    runner: Runner, database: Database, strike: Callable[..., None]
) -> None:
    """The computation goes wrong without a CUDA error, as with memory that does not keep what was written."""

    def wrong() -> object:
        return poisoned.replaced({"mm": lambda *_: torch.full((64, 64), 5.0), "addmm": lambda *_: torch.zeros(1)})

    strike(wrong)
    job_id = dispatched(database)
    with pytest.raises(DeviceFailed) as raised:
        runner.run(GENERATION, job_id)
    assert (raised.value.kind, raised.value.detail) == (FaultKind.FAILED_PROBE, "the probe computed wrong results")
    assert (records.get(database, job_id).failures, faults(database)) == (1, 1)


def test_an_unforeseen_error_on_a_device_that_works_fails_the_job_alone(
    runner: Runner, database: Database, strike: Callable[..., None]
) -> None:
    strike(raising(RuntimeError("a bug of ours")))
    job_id = dispatched(database)
    with pytest.raises(JobFailed):
        runner.run(GENERATION, job_id)
    after = records.get(database, job_id)
    assert (after.status, (after.error or {})["code"], faults(database)) == (JobState.FAILED, "internal_error", 0)


@pytest.mark.parametrize(
    "message", ["CUDA out of memory", "CUDNN_STATUS_ALLOC_FAILED", "unable to find an engine to execute this"]
)
def test_out_of_memory_does_not_count(
    runner: Runner, database: Database, strike: Callable[..., None], message: str
) -> None:
    strike(raising(RuntimeError(message)))
    job_id = dispatched(database)
    with pytest.raises(JobFailed):
        runner.run(GENERATION, job_id)
    after = records.get(database, job_id)
    assert (after.status, (after.error or {})["code"], faults(database)) == (JobState.FAILED, "out_of_memory", 0)


def test_three_jobs_in_a_row_quarantine_the_device_and_the_runner_claims_no_fourth(
    runner: Runner, database: Database, strike: Callable[..., None]
) -> None:
    strike(poisoned.poison)
    for _ in range(3):
        with pytest.raises(DeviceFailed):
            runner.run(GENERATION, dispatched(database))
    job_id = dispatched(database)
    assert not runner.run(GENERATION, job_id)
    waiting = records.get(database, job_id)
    assert (waiting.status, waiting.attempt) == (JobState.QUEUED, 0)


def test_a_fault_that_cannot_be_stored_ends_the_process_all_the_same(
    runner: Runner, database: Database, strike: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise DatabaseUnavailable()

    strike(poisoned.poison)
    job_id = dispatched(database)
    with monkeypatch.context() as patch:
        patch.setattr(attempts, "crashed", away)
        with pytest.raises(DeviceFailed):
            runner.run(GENERATION, job_id)
    assert records.get(database, job_id).status == JobState.RUNNING, "its main process or the lease recovers it"
