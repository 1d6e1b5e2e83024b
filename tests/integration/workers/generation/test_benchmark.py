"""A benchmark of tiers as a job, on the tiny models and a real database."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy
import pytest
from sqlmodel import func, select
from starlette.testclient import TestClient

from shared import clock
from shared.catalogue.job_types import BENCHMARK, GENERATION, BenchmarkParams
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import TierMeasurement, Use
from shared.insight import tier_measurements
from shared.jobs import accepting, dispatch, records
from shared.jobs.accepting import Accepted, NewJob
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings
from shared.states import JobState
from shared.storage.store import open_store
from tests.support import working
from tests.support.jobs import DEMO, UNCOUNTED, hold, new_job
from tests.support.models.generating import snapshots
from wanworks.requests import Speed
from workers.attempts.runner import Runner
from workers.devices import discovery
from workers.generation import run
from workers.generation.benchmark import BenchmarkHandler
from workers.generation.frames.similarity import compare
from workers.generation.job import GenerationHandler
from workers.generation.pipelines.tiers import compiling


def video(seed: int, noise: int = 0) -> list[numpy.ndarray]:
    random = numpy.random.default_rng(seed)
    rows, columns = numpy.mgrid[0:48, 0:64]
    plain = [numpy.stack([rows * 4, columns * 3, rows + columns + 9 * n], axis=-1).astype(float) for n in range(3)]
    return [(one + random.normal(0, 1, one.shape) * noise).clip(0, 255).astype(numpy.uint8) for one in plain]


def test_equal_frames_are_equal_and_noise_lowers_both_figures() -> None:
    same = compare(video(0), video(0))
    assert same.ssim == (1.0, 1.0, 1.0)
    assert same.psnr == (float("inf"),) * 3
    little, much = compare(video(1, 4), video(0)), compare(video(1, 40), video(0))
    assert 0.5 < min(little.ssim) < max(little.ssim) < 1
    assert max(much.ssim) < min(little.ssim)
    assert max(much.psnr) < min(little.psnr)


def test_psnr_is_the_textbook_one() -> None:
    """A difference of 16 levels everywhere: 10 log10(255^2 / 16^2) = 24.05 dB."""
    one = [numpy.full((48, 64, 3), 100, dtype=numpy.uint8)]
    other = [numpy.full((48, 64, 3), 116, dtype=numpy.uint8)]
    assert compare(one, other).psnr[0] == pytest.approx(24.0484, abs=1e-4)


def test_ssim_of_flat_frames_is_the_luminance_term() -> None:
    """Wang et al. 2004, formula 13 without contrast: (2ab + c) / (a^2 + b^2 + c), c = (0.01 x 255)^2."""
    one = [numpy.full((48, 64, 3), 100, dtype=numpy.uint8)]
    other = [numpy.full((48, 64, 3), 150, dtype=numpy.uint8)]
    c = (0.01 * 255) ** 2
    assert compare(one, other).ssim[0] == pytest.approx((2 * 100 * 150 + c) / (100**2 + 150**2 + c), abs=1e-3)


def test_videos_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="2 frames"):
        compare(video(0)[:2], video(0))
    with pytest.raises(ValueError, match="sizes"):
        compare([frame[:40] for frame in video(0)], video(0))


@pytest.fixture
def settings_here(settings: Settings) -> Settings:
    models = snapshots()["T2V-A14B"].parent.parent.parent
    return settings.model_copy(update={"models_path": models})


@pytest.fixture
def runner(settings_here: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    monkeypatch.setenv("WANWORKS_DEVICE", "cpu:0")
    monkeypatch.setattr(run, "_warm_models", None)
    # Traced by the real compiler, without half a minute of generating code.
    monkeypatch.setattr(compiling, "_BACKEND", {"backend": "eager"})
    compiling._compiled.cache_clear()
    device = discovery.this_device()
    progress = Progress(RestingRedis(settings_here.redis))
    store = open_store(settings_here, lambda: nodes.agreed(database, "store"), create=True)
    works = GenerationHandler(settings_here, database, DEMO, store, progress, working.HERE, device.name)
    benchmarks = BenchmarkHandler(settings_here, database, DEMO, progress, device, works)
    yield Runner(settings_here, database, working.HERE, {GENERATION: works, BENCHMARK: benchmarks}, UNCOUNTED)
    run.free()
    compiling._compiled.cache_clear()


def dispatched(database: Database, new: NewJob) -> str:
    (outcome,) = accepting.accept(database, [new])
    assert isinstance(outcome, Accepted)
    hold(database, *DEMO.model_ids, node=working.HERE.node)
    dispatch.mark_dispatched(database, [(outcome.job.id, working.HERE.device_key)])
    return outcome.job.id


def benchmark(database: Database, runner: Runner, model_id: str, **values: Any) -> dict[str, Any]:
    wanted = new_job(model_id)
    params = BenchmarkParams.model_validate({**wanted.params.model_dump(), **values})
    job_id = dispatched(database, replace(wanted, type=BENCHMARK, params=params))
    assert runner.run(BENCHMARK, job_id)
    job = records.get(database, job_id)
    assert job.status == JobState.SUCCEEDED
    assert job.result is not None
    return job.result


def generate(database: Database, runner: Runner, speed: Speed) -> dict[str, Any]:
    job_id = dispatched(database, new_job("TI2V-5B", request={"speed": speed}))
    assert runner.run(GENERATION, job_id)
    result = records.get(database, job_id).result
    assert result is not None
    tier: dict[str, Any] = result["speed"]
    return tier


def test_a_benchmark_is_kept_and_jobs_say_what_it_found(
    runner: Runner, database: Database, client: TestClient, settings_here: Settings
) -> None:
    assert generate(database, runner, "exact")["quality"] == "exact"
    before = generate(database, runner, "balanced")
    assert (before["quality"], before["measured"]) == ("not measured", None)
    shown = client.get("/api/v1/wan-models/tiers/TI2V-5B").json()
    assert [(tier["tier"], tier["measured"]) for tier in shown["tiers"]] == [
        ("exact", []), ("balanced", []), ("fast", []),
    ]  # fmt: skip

    result = benchmark(database, runner, "TI2V-5B", runs=1)
    assert [one["tier"] for one in result["tiers"]] == ["balanced", "fast"]
    balanced = result["tiers"][0]
    assert balanced["quality"] == "close"
    assert balanced["ssim_min"] > 0.99
    assert balanced["speedup"] == pytest.approx(result["exact_seconds"] / balanced["seconds"])
    with database.read() as session:
        assert session.exec(select(func.count()).select_from(Use)).one() == 2, "a benchmark is no use of the model"
    assert [path.name for path in (settings_here.home / "benchmarks").iterdir()] == [".lock"], "its frames are removed"

    after = generate(database, runner, "balanced")
    assert after["quality"] == "close"
    assert after["measured"]["ssim_mean"] == balanced["ssim_mean"]
    shown = client.get("/api/v1/wan-models/tiers/TI2V-5B").json()
    (measured,) = shown["tiers"][1]["measured"]
    assert measured["ssim_mean"] == balanced["ssim_mean"]
    assert measured["device_name"] == discovery.this_device().name
    assert set(measured["libraries"]) == {"torch", "diffusers", "torchao"}


def row(**values: Any) -> TierMeasurement:
    facts: dict[str, Any] = {
        "job_id": "b", "model_id": "T2V-A14B", "speed": "balanced", "device_kind": "cpu", "device_name": "a CPU",
        "quantization": "none", "width": 64, "height": 64, "frames": 9, "steps": 2, "settings": {"compiled": True},
        "libraries": {"torch": "1"}, "runs": 1, "seconds": 1.0, "exact_seconds": 2.0, "ssim_mean": 0.97,
        "ssim_min": 0.93, "measured_at": clock.now(), **values,
    }  # fmt: skip
    return TierMeasurement(**facts)


@pytest.mark.parametrize(
    ("mean", "least", "quality"),
    [(0.95, 0.90, "close"), (0.949, 0.94, "not close"), (0.99, 0.899, "not close"), (1.0, 1.0, "close")],
)
def test_a_tier_is_close_from_a_mean_and_a_minimum_on(mean: float, least: float, quality: str) -> None:
    assert tier_measurements.quality_of("balanced", row(ssim_mean=mean, ssim_min=least)) == quality
    assert tier_measurements.quality_of("balanced", None) == "not measured"
    assert tier_measurements.quality_of("exact", None) == "exact"


def test_a_measurement_holds_for_what_it_was_made_with(database: Database) -> None:
    tier_measurements.record(database, "b", [row()])
    asked: dict[str, Any] = {
        "model_id": "T2V-A14B", "speed": "balanced", "device_name": "a CPU", "quantization": "none",
        "settings": {"compiled": True}, "libraries": {"torch": "1"},
    }  # fmt: skip
    assert tier_measurements.matching(database, **asked) is not None
    for other in (
        {"model_id": "I2V-A14B"}, {"speed": "fast"}, {"device_name": "another"}, {"quantization": "int8"},
        {"settings": {"compiled": False}}, {"libraries": {"torch": "2"}},
    ):  # fmt: skip
        assert tier_measurements.matching(database, **{**asked, **other}) is None
    tier_measurements.record(database, "b", [row(ssim_mean=0.5)])
    (kept,) = tier_measurements.of_model(database, "T2V-A14B")
    assert kept.ssim_mean == 0.5, "a repeated attempt replaces what the one before has stored"


def test_few_measurements_of_a_kind_are_kept(database: Database) -> None:
    for place in range(tier_measurements.KEPT + 2):
        tier_measurements.record(database, f"b-{place}", [row(job_id=f"b-{place}", ssim_mean=place / 10)])
    tier_measurements.record(
        database, "other", [row(job_id="other", libraries={"torch": "2"}), row(job_id="other", steps=3)]
    )
    assert tier_measurements.drop_surplus(database) == 2
    assert tier_measurements.drop_surplus(database) == 0
    with database.read() as session:
        kept = session.exec(select(TierMeasurement.job_id).order_by(TierMeasurement.job_id)).all()  # type: ignore[arg-type]
    assert kept == ["b-2", "b-3", "b-4", "other", "other"]


def test_what_a_killed_benchmark_left_is_removed_by_the_next_process(
    settings_here: Settings, request: pytest.FixtureRequest
) -> None:
    left = settings_here.home / "benchmarks" / "job.1" / "exact-0.npy"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x")
    request.getfixturevalue("runner")
    assert [path.name for path in (settings_here.home / "benchmarks").iterdir()] == [".lock"]
