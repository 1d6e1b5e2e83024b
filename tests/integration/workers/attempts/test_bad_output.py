"""A job whose model makes no image, on a worker's runner: it fails, and delivers no file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanDecoder3d
from sqlmodel import select

from shared.catalogue.job_types import GENERATION
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Use
from shared.errors import BadOutput
from shared.jobs import dispatch, records
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings
from shared.states import JobState
from shared.storage.store import open_store
from tests.support import working
from tests.support.jobs import DEMO, UNCOUNTED, accepted, hold
from tests.support.models.generating import snapshots
from workers.attempts.runner import Runner
from workers.generation import run
from workers.generation.job import GenerationHandler


@pytest.fixture
def runner(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    monkeypatch.setenv("WANWORKS_DEVICE", "cpu:0")
    monkeypatch.setattr(run, "_warm_models", None)
    models = snapshots()["T2V-A14B"].parent.parent.parent
    settings = settings.model_copy(update={"models_path": models})
    progress = Progress(RestingRedis(settings.redis))
    store = open_store(settings, lambda: nodes.agreed(database, "store"), create=True)
    work = GenerationHandler(settings, database, DEMO, store, progress, working.HERE, "a CPU")
    yield Runner(settings, database, working.HERE, {GENERATION: work}, UNCOUNTED)
    run.free()


def dispatched(database: Database, **values: object) -> str:
    job = accepted(database, **values)
    hold(database, *DEMO.model_ids, node=working.HERE.node)
    dispatch.mark_dispatched(database, [(job.id, working.HERE.device_key)])
    return job.id


def use(database: Database, job_id: str) -> Use:
    with database.read() as session:
        return session.exec(select(Use).where(Use.job_id == job_id)).one()


@pytest.mark.parametrize(
    ("value", "message"),
    [(-1.0, "The generated video is broken: every frame is black."), (float("nan"), "not finite numbers")],
)
def test_black_frames_and_frames_of_nan_fail_the_job(
    runner: Runner,
    settings: Settings,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
    message: str,
) -> None:
    forward = WanDecoder3d.forward
    monkeypatch.setattr(
        WanDecoder3d, "forward", lambda self, *args, **kwargs: torch.full_like(forward(self, *args, **kwargs), value)
    )
    job_id = dispatched(database)
    with pytest.raises(BadOutput):
        runner.run(GENERATION, job_id)
    job = records.get(database, job_id)
    assert job.status == JobState.FAILED
    assert job.error is not None
    assert (job.error["code"], job.error["retryable"]) == ("bad_output", False)
    assert message in job.error["message"]
    assert job.result is None
    assert list_files(settings.store_dir / "artifacts") == []
    counted = use(database, job_id)
    assert (counted.outcome, counted.error_code, counted.quality) == ("failed", "bad_output", None)


def test_what_is_delivered_carries_its_quality(runner: Runner, settings: Settings, database: Database) -> None:
    job_id = dispatched(database)
    assert runner.run(GENERATION, job_id)
    result = records.get(database, job_id).result
    assert result is not None
    quality = result["quality"]
    assert set(quality) == {"score", "checks", "measures"}
    assert all(quality["checks"].values())
    assert 0.0 < quality["score"] < 1.0
    assert use(database, job_id).quality == quality["score"]
    assert len(list_files(settings.store_dir / "artifacts")) == 4


def test_a_mock_has_a_quality_and_is_marked(runner: Runner, database: Database) -> None:
    job_id = dispatched(database, mock=True)
    assert runner.run(GENERATION, job_id)
    counted = use(database, job_id)
    assert counted.mock
    assert counted.quality is not None


def list_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
