"""Previews: the fitted projection, its cost, and generations that show it."""

import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from shared.errors import Cancelled
from shared.models import prepared
from shared.states import Phase
from tests.integration.workers.generation.stopping import Stop
from tests.support.models.generating import Studio, snapshots
from tests.support.models.prepared_models import own, prepared_at
from workers.generation import run
from workers.generation.context import GenerationContext
from workers.generation.frames.geometry import Plan
from workers.generation.frames.previews import Cells, encoded
from workers.generation.pipelines.previews import fitting, projecting
from workers.generation.pipelines.previews.projecting import Projecting, Projection
from workers.generation.pipelines.resuming import Denoising
from workers.generation.pipelines.tiers import compiling
from workers.generation.seats import Seat

MODEL = "T2V-A14B"


@pytest.fixture(scope="module")
def fitted_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a snapshot whose coefficients were fitted as a preparation does."""
    snapshot = own(tmp_path_factory.mktemp("models"), MODEL)
    made = prepared_at(snapshot, "preview")
    assert [f"{copy.component} {copy.form}" for copy in made.copies] == ["vae preview"]
    assert prepared_at(snapshot, "preview").copies == ()
    return snapshot


@pytest.fixture
def often(studio: Studio) -> Studio:
    studio.settings = studio.settings.model_copy(update={"preview_seconds": 1e-9})
    return studio


@pytest.mark.parametrize(("model_id", "channels"), [(MODEL, 16), pytest.param("TI2V-5B", 48, marks=pytest.mark.slow)])
def test_the_projection_explains_decoded_frames_better_than_the_mean_colour(
    model_id: str, channels: int, record_property: Any
) -> None:
    """R² is 0 for the mean colour. The VAEs of the demo are random, so that it is far from 1."""
    weight, bias, explained = fitting.fitted(snapshots()[model_id] / "vae")
    record_property("r2", explained)
    print(f"{model_id}: R² {explained:.3f}")
    assert 0 < explained <= 1
    assert weight.shape == (channels, 3)
    assert torch.isfinite(weight).all()
    assert torch.isfinite(bias).all()


def test_a_projection_that_explains_nothing_is_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fitting, "r2", lambda _made, _colours: -0.1)
    with pytest.raises(ValueError, match="explains none"):
        fitting.fit(snapshots()[MODEL] / "vae", tmp_path / "out", lambda _done: None)
    assert not (tmp_path / "out").exists()


def test_a_generation_shows_previews_and_makes_the_same_frames(often: Studio, fitted_model: Path) -> None:
    seen: list[Cells] = []
    frames: list[list[numpy.ndarray]] = [[], []]
    often.generate(MODEL, snapshot=fitted_model, steps=4, keep_frames=frames[0].extend)
    often.generate(MODEL, snapshot=fitted_model, steps=4, keep_frames=frames[1].extend, on_preview=seen.append)
    assert numpy.array_equal(numpy.stack(frames[0]), numpy.stack(frames[1])), "a preview changes no bit"
    assert seen
    assert [cells.step for cells in seen] == sorted({cells.step for cells in seen})
    assert {(cells.steps, cells.pixels.shape, cells.pixels.dtype.name) for cells in seen} == {(4, (8, 8, 3), "uint8")}
    with Image.open(BytesIO(encoded(seen[0]))) as image:
        assert (image.format, image.size) == ("WEBP", (64, 64))


def test_the_middle_frame_is_projected_as_it_was_fitted(fitted_model: Path) -> None:
    projection = projecting.read(fitted_model)
    copy = prepared.find(fitted_model, prepared.PREVIEWED, prepared.PREVIEW)
    assert projection is not None
    assert copy is not None
    with safe_open(fitted_model / copy.files[0].path, framework="pt") as file:
        weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
        assert 0 < float(file.metadata()["r2"]) <= 1
    latents = torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = (torch.einsum("chw,cr->hwr", latents[0, :, 1], weight) + bias).clamp(0, 1) * 255
    assert numpy.array_equal(projection.picture(latents), expected.round().to(torch.uint8).numpy())


@pytest.mark.slow
@pytest.mark.parametrize("speed", ["balanced", "fast"])
def test_other_tiers_show_previews(
    often: Studio, fitted_model: Path, speed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "_BACKEND", {"backend": "eager"})  # without the generation of code
    torch.compiler.reset()
    compiling._compiled.cache_clear()
    seen: list[Cells] = []
    often.generate(MODEL, snapshot=fitted_model, steps=3, speed=speed, on_preview=seen.append)
    assert seen


def test_there_are_none_without_coefficients_or_by_setting(often: Studio, fitted_model: Path) -> None:
    seen: list[Cells] = []
    often.generate(MODEL, on_preview=seen.append)
    assert prepared.find(snapshots()[MODEL], prepared.PREVIEWED, prepared.PREVIEW) is None
    often.settings = often.settings.model_copy(update={"preview_seconds": 0.0})
    often.generate(MODEL, snapshot=fitted_model, on_preview=seen.append)
    assert seen == []


def test_a_failing_preview_fails_no_job_and_ends_the_previews(often: Studio, fitted_model: Path) -> None:
    calls: list[str] = []

    def broken(_cells: Cells) -> None:
        calls.append("shown")
        raise RuntimeError("no more")

    often.generate(
        MODEL, snapshot=fitted_model, steps=4, on_preview=broken, preview_failed=lambda: calls.append("counted")
    )
    assert calls == ["shown", "counted"]


def test_latents_of_another_model_fail_as_a_preview_alone(fitted_model: Path) -> None:
    projection = projecting.read(fitted_model)
    assert projection is not None
    with pytest.raises(ValueError, match="48 channels"):
        projection.picture(torch.zeros(1, 48, 3, 4, 4))


def test_a_cancel_is_answered_as_without_previews(often: Studio, fitted_model: Path) -> None:
    stop = Stop(Phase.DENOISING, 2)
    seen: list[Cells] = []
    with pytest.raises(Cancelled):
        often.generate(
            MODEL, snapshot=fitted_model, steps=4, report=stop.report, check=stop.check, on_preview=seen.append
        )
    assert all(cells.step <= 2 for cells in seen)


@pytest.mark.parametrize(("rank", "shows"), [(0, True), (1, False)])
def test_of_a_gang_the_leader_alone_shows_previews(
    often: Studio, fitted_model: Path, tmp_path: Path, rank: int, shows: bool
) -> None:
    seat = Seat(rank, 2, tmp_path / "meeting", lambda: None)
    steps = Plan(64, 64, 9, 64, 64, 9)
    seen: list[Cells] = []

    class Context:
        snapshot, settings, on_preview = fitted_model, often.settings, staticmethod(seen.append)
        preview_failed = staticmethod(lambda: None)
        params = type("Params", (), {"steps": 4})
        seat: Seat

    Context.seat = seat
    context: GenerationContext = Context()  # type: ignore[assignment]
    show = run._projecting(context, steps)
    show(Denoising(1, torch.zeros(1, 16, 3, 8, 8), {"model_outputs": [None, torch.ones(1, 16, 3, 8, 8)]}))
    assert bool(seen) == shows


def test_a_projection_takes_less_than_a_hundredth_of_a_step() -> None:
    """On latents of 1280x704 with 121 frames, against a part of what each step computes: one layer of one block."""
    projection = Projection(torch.randn(48, 3), torch.zeros(3))
    latents = torch.randn(1, 48, 31, 44, 80)
    projection.picture(latents)
    took = min(_seconds(lambda: projection.picture(latents)) for _ in range(5))
    layer, tokens = torch.nn.Linear(3072, 14336, bias=False), 128
    part = min(_seconds(lambda: layer(torch.randn(tokens, 3072))) for _ in range(2))
    step = part * (31 * 22 * 40 / tokens) * 30  # its tokens and blocks
    print(f"projection {took * 1e3:.2f} ms, at least {step:.0f} s for a step: {took / step:.1e}")
    assert took / step < 0.01


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    with torch.no_grad():
        work()
    return time.perf_counter() - began


def test_previews_take_a_hundredth_of_the_time_however_slow_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shown: list[int] = []

    class Slow(Projection):
        def picture(self, latents: torch.Tensor) -> numpy.ndarray:
            now[0] += 0.5
            return numpy.zeros((1, 1, 3), "uint8")

    projecting_ = Projecting(Slow(torch.zeros(1, 3), torch.zeros(3)), 3.0, lambda step, _: shown.append(step), print)
    for step in range(1, 121):
        now[0] += 1.0
        projecting_.step_ended(Denoising(step, torch.zeros(1)))
    assert shown == [3, 53, 103]


def test_a_preview_shows_the_delivered_part_at_most_320_pixels_long() -> None:
    pixels = numpy.zeros((8, 12, 3), "uint8")
    pixels[:, :2] = 255  # of the grid, but cut off
    plan = Plan(1280, 1024, 9, 1920, 1024, 9)
    with Image.open(BytesIO(encoded(Cells(1, 4, pixels, plan)))) as image:
        assert image.size == (320, 256)
        shades = numpy.asarray(image.convert("L"))
    assert shades[:, 40:].max() < 16, "of what is cut off, only the first cell has a soft edge"
