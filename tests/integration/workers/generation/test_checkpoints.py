"""A generation that stops after a step continues from its checkpoint with the bytes of an undisturbed run."""

import json
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from shared.catalogue.models import CatalogueEntry
from shared.catalogue.tiers import ByDevice, Tiers, TierSettings
from shared.errors import Preempted
from shared.states import Phase
from tests.integration.workers.generation.lora_files import write_lora
from tests.support.models.generating import CATALOGUE, Made, Studio
from workers.generation import run
from workers.generation.checkpoints import Checkpoints
from workers.generation.context import GenerationContext
from workers.generation.pipelines import checkpointing

STEPS = 4


class Interrupted:
    """Runs a request until it is asked to yield after a step, and then again in a process that has nothing loaded."""

    def __init__(self, studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
        self.studio = studio
        self.file = Checkpoints(studio.home).file("job")
        self.written: list[int] = []
        self.reached = 0
        self._monkeypatch = monkeypatch
        self._decode = run.decode

    def until(self, step: int, model_id: str, **request: Any) -> None:
        with pytest.raises(Preempted):
            self._generate(model_id, lambda: self.reached >= step, **request)
        assert self.written[-1] == step
        run.free()

    def rest(self, model_id: str, **request: Any) -> Made:
        return self._generate(model_id, lambda: False, **request)

    def _generate(self, model_id: str, asked: Callable[[], bool], **request: Any) -> Made:
        def decode(context: GenerationContext) -> Any:
            more = {"checkpoint": self.file, "asked_to_yield": asked, "checkpointed": self.written.append}
            return self._decode(replace(context, **more))

        self.reached = 0
        self._monkeypatch.setattr(run, "decode", decode)
        try:
            return self.studio.generate(model_id, report=self._report, steps=STEPS, **request)
        finally:
            self._monkeypatch.setattr(run, "decode", self._decode)

    def _report(self, phase: Phase, step: int | None = None, steps: int | None = None) -> None:
        if phase is Phase.DENOISING:
            self.reached = step or 0


@pytest.fixture
def interrupted(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> Interrupted:
    return Interrupted(studio, monkeypatch)


def check(interrupted: Interrupted, model_id: str, steps: tuple[int, ...], **request: Any) -> None:
    whole = interrupted.studio.generate(model_id, steps=STEPS, **request)
    assert whole.outcome.resumed_from_step is None
    run.free()
    for step in steps:
        interrupted.until(step, model_id, **request)
        rest = interrupted.rest(model_id, **request)
        assert rest.outcome.resumed_from_step == rest.outcome.manifest["resumed_from_step"] == step
        assert rest.sha256 == whole.sha256
        interrupted.file.unlink()


def test_two_experts_continue_before_at_and_after_the_boundary(interrupted: Interrupted) -> None:
    check(interrupted, "T2V-A14B", (2, 3, 4))


@pytest.mark.slow
@pytest.mark.parametrize("image", [False, True])
def test_the_small_model_continues(interrupted: Interrupted, image: bool) -> None:
    check(interrupted, "TI2V-5B", (2,), image=interrupted.studio.picture() if image else None)


@pytest.mark.slow
def test_a_model_with_an_image_continues(interrupted: Interrupted) -> None:
    check(interrupted, "I2V-A14B", (2, 3), image=interrupted.studio.picture())


@pytest.mark.slow
def test_a_lora_continues(interrupted: Interrupted) -> None:
    write_lora(interrupted.studio.settings.loras_dir / "style.safetensors")
    check(interrupted, "T2V-A14B", (3,), loras=[{"name": "style", "scale": 0.8}])


@pytest.mark.slow
def test_int8_weights_continue(interrupted: Interrupted) -> None:
    check(interrupted, "T2V-A14B", (2,), quantization="int8")


def _cached(threshold: float) -> CatalogueEntry:
    used = TierSettings(step_cache=threshold)
    return CATALOGUE.get("T2V-A14B").model_copy(update={"tiers": Tiers(fast=ByDevice(cpu=used, cuda=used))})


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.05, 0.5])
def test_a_step_cache_continues_with_what_it_held(interrupted: Interrupted, threshold: float) -> None:
    check(interrupted, "T2V-A14B", (1, 2, 3), entry=_cached(threshold), speed="fast")


def test_the_file_is_private_and_a_damaged_or_foreign_one_is_ignored(
    interrupted: Interrupted, caplog: pytest.LogCaptureFixture
) -> None:
    whole = interrupted.studio.generate("T2V-A14B", steps=STEPS)
    interrupted.until(2, "T2V-A14B")
    file = interrupted.file
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in file.parent.iterdir()] == [file.name]
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["checkpoint"])
    assert header["steps"] == 2
    good = file.read_bytes()
    flipped = bytearray(good)
    flipped[-40] ^= 1
    renamed = good.replace(b'\\"job_id\\": \\"job\\"', b'\\"job_id\\": \\"jxb\\"')
    assert renamed != good
    for damaged in (good[:-100], bytes(flipped), b"", b"x" * 1000, renamed):
        file.write_bytes(damaged)
        made = interrupted.rest("T2V-A14B")
        assert made.outcome.resumed_from_step is None
        assert made.sha256 == whole.sha256
    assert "its checkpoint is ignored" in caplog.text
    file.write_bytes(good)
    assert interrupted.rest("T2V-A14B", seed=8).outcome.resumed_from_step is None
    assert "because these differ: ['asked', 'params']" in caplog.text


def test_the_interval_decides_and_a_full_disk_costs_only_the_checkpoint(
    interrupted: Interrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = interrupted.studio
    interrupted.rest("T2V-A14B")
    assert interrupted.written == [], "it took less than a minute"
    studio.settings = studio.settings.model_copy(update={"checkpoint_seconds": 1e-6})
    monkeypatch.setattr(checkpointing, "_SHARE", 1e9)
    interrupted.rest("T2V-A14B")
    assert interrupted.written
    interrupted.written.clear()
    interrupted.file.unlink()
    studio.settings = studio.settings.model_copy(update={"min_free_disk_mb": 10**9})
    interrupted.rest("T2V-A14B")
    assert (interrupted.written, interrupted.file.exists()) == ([], False)


def test_a_write_that_is_not_wanted_any_more_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    file, stop = Checkpoints(tmp_path).file("job"), threading.Event()
    for steps in (1, 2):
        snapshot = checkpointing.Snapshot(steps, {"latents": torch.full((3,), float(steps))})
        assert checkpointing.write(file, snapshot, {}, "job", 1, 0, stop.is_set) is (steps == 1)
        stop.set()
    found = checkpointing.read(file, {}, "job")
    assert found is not None
    assert found.steps == 1
    assert [each.name for each in file.parent.iterdir()] == [file.name]
