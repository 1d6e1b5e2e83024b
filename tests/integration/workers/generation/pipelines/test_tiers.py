"""The speed tiers on the real pipelines with tiny models, on the CPU.

Blocks are traced by the real compiler. Code is generated in the slow runs only, because that takes half a minute.
"""

import functools
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch._dynamo.utils import counters

from shared.catalogue.models import CatalogueEntry, Offload
from shared.catalogue.resolving import resolve
from shared.catalogue.tiers import ByDevice, Tiers, TierSettings
from shared.errors import Cancelled, DatabaseUnavailable
from shared.insight import tier_measurements
from shared.models.memory_plan import Size
from shared.states import Phase
from tests.conftest import lacking
from tests.integration.workers.generation.lora_files import write_lora
from tests.integration.workers.generation.pipelines.test_memory import crowd_out
from tests.integration.workers.generation.stopping import Stop
from tests.support.models.generating import CATALOGUE, Made, Studio, snapshots
from wanworks.requests import GenerationRequest, Quantization, Speed
from workers.attempts import persisting
from workers.devices import discovery
from workers.generation import run
from workers.generation.frames.geometry import plan
from workers.generation.frames.pictures import NO_PICTURES
from workers.generation.job import GenerationHandler
from workers.generation.pipelines import running
from workers.generation.pipelines.prompts import PromptCache
from workers.generation.pipelines.resuming import Denoising
from workers.generation.pipelines.tiers import compiling, warming
from workers.generation.pipelines.tiers.warming import Warming, compile_block
from workers.generation.pipelines.weights import loras
from workers.generation.pipelines.weights.loading import LoadedModel, load

TIERS: tuple[Speed, ...] = ("balanced", "fast")
EXACT = {"attention": "native", "compiled": False, "step_cache": None, "decode": "float32", "channels_last": False}


def with_tier(settings: TierSettings, model_id: str = "T2V-A14B") -> CatalogueEntry:
    """A model whose `fast` has these settings on every device."""
    tiers = Tiers(fast=ByDevice(cpu=settings, cuda=settings))
    return CATALOGUE.get(model_id).model_copy(update={"tiers": tiers})


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of compiled code that this module's tests share. Skips where there is no compiler."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        lacking("no C++ compiler, which torch.compile needs on a CPU")
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        patch.setenv("TRITON_CACHE_DIR", str(folder / "triton"))
        yield folder


@pytest.fixture(params=["traced", pytest.param("compiled", marks=pytest.mark.slow)])
def compiler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The compiler as it is, or without the generation of code: what it has traced is then run eagerly."""
    if request.param == "traced":
        monkeypatch.setattr(compiling, "_BACKEND", {"backend": "eager"})
    else:
        request.getfixturevalue("code")
    compiling.set_up()
    torch.compiler.reset()
    compiling._compiled.cache_clear()
    yield request.param
    torch.compiler.reset()
    compiling._compiled.cache_clear()


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def used(made: Made) -> dict[str, Any]:
    assert made.outcome.speed is not None
    found: dict[str, Any] = made.outcome.speed["used"]
    return found


def test_a_tier_changes_between_jobs_and_exact_stays_what_it_was(studio: Studio, compiler: str) -> None:
    exact = studio.generate("T2V-A14B", speed="exact")
    assert exact.outcome.speed == {"tier": "exact", "used": EXACT, "as_in_catalogue": True, "notes": []}
    for speed in TIERS:
        made = studio.generate("T2V-A14B", speed=speed)
        assert made.outcome.warm, "the weights are not loaded again"
        assert made.outcome.notes == ()
        assert used(made) == CATALOGUE.get("T2V-A14B").tiers.of(speed, "cpu").model_dump()
        assert used(made)["compiled"]
        assert made.outcome.manifest["speed"] == speed
        assert made.outcome.manifest["speed_settings"] == used(made)
        before = graphs()
        assert studio.generate("T2V-A14B", speed=speed).sha256 == made.sha256
        assert graphs() == before
        assert studio.generate("T2V-A14B").sha256 == exact.sha256


@pytest.mark.parametrize("speed", [pytest.param("balanced", marks=pytest.mark.slow), "fast"])
def test_a_cancel_is_answered_within_a_step(studio: Studio, compiler: str, speed: Speed) -> None:
    undisturbed = studio.generate("T2V-A14B", speed=speed, steps=4)
    models = run._warm_models
    assert models is not None
    ran: list[str] = []
    transformers = next(iter(models._models.values())).transformers
    hooks = [
        block.register_forward_hook(lambda *_, at=f"{expert} {number}": ran.append(at))
        for expert, transformer in zip(("high", "low"), transformers, strict=True)
        for number, block in enumerate(transformer.blocks)
    ]

    def check() -> None:
        if ran[-1:] == ["low 0"]:
            raise Cancelled

    with pytest.raises(Cancelled):
        studio.generate("T2V-A14B", speed=speed, steps=4, check=check)
    assert ran[-1] == "low 0", "not one block more"
    for hook in hooks:
        hook.remove()
    again = studio.generate("T2V-A14B", speed=speed, steps=4)
    assert again.outcome.warm
    assert again.sha256 == undisturbed.sha256


@pytest.mark.slow
@pytest.mark.parametrize("phase", [Phase.ENCODING, Phase.DENOISING, Phase.DECODING])
def test_a_cancel_in_any_phase_leaves_nothing_behind(studio: Studio, phase: Phase) -> None:
    entry = with_tier(TierSettings(step_cache=0.5, decode="bfloat16", channels_last=True))
    undisturbed = studio.generate("T2V-A14B", entry=entry, speed="fast")
    stop = Stop(phase, None if phase is Phase.ENCODING else 1)
    with pytest.raises(Cancelled):
        studio.generate("T2V-A14B", entry=entry, speed="fast", prompt="new", report=stop.report, check=stop.check)
    assert stop.seen[-1] == stop.at
    assert studio.generate("T2V-A14B", entry=entry, speed="fast").sha256 == undisturbed.sha256


@pytest.mark.slow
def test_loras_of_one_structure_share_a_graph(studio: Studio, compiler: str) -> None:
    folder = studio.settings.loras_dir
    write_lora(folder / "one.safetensors")
    write_lora(folder / "other.safetensors", scale=0.3)
    plain = studio.generate("T2V-A14B", speed="balanced")
    studio.generate("T2V-A14B", speed="balanced", loras=[{"name": "one"}])
    before = graphs()
    for lora in ({"name": "one", "scale": 0.5}, {"name": "other"}):
        eager = frames_of(studio, loras=[lora])
        compiled = frames_of(studio, loras=[lora], speed="balanced")
        assert numpy.abs(eager.astype(int) - compiled.astype(int)).max() <= 2
    assert graphs() == before, "a change of the LoRA compiles nothing"
    assert studio.generate("T2V-A14B", speed="balanced").sha256 == plain.sha256
    assert graphs() == before


def frames_of(studio: Studio, **request: Any) -> numpy.ndarray:
    kept: list[numpy.ndarray] = []
    studio.generate("T2V-A14B", keep_frames=kept.extend, **request)
    return numpy.stack(kept)


@pytest.mark.slow
def test_another_model_comes_and_goes_and_its_weights_are_freed(studio: Studio, compiler: str) -> None:
    first = studio.generate("T2V-A14B", speed="fast")
    models = run._warm_models
    assert models is not None
    evicted = weakref.ref(next(iter(models._models.values())).transformers[0].blocks[0].attn1.to_q.weight)
    other = studio.generate("TI2V-5B", speed="fast")
    gc.collect()
    assert evicted() is None, "compiled code holds no weights"
    assert studio.generate("T2V-A14B", speed="fast").sha256 == first.sha256
    assert studio.generate("TI2V-5B", speed="fast").sha256 == other.sha256


def test_running_out_of_memory_in_a_step_continues_after_the_last_one(
    studio: Studio, compiler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step cache begins anew, so the frames may differ from those of an undisturbed run."""
    undisturbed = frames_of(studio, speed="fast", steps=4)
    forward = torch.nn.Module._call_impl
    calls = 0

    def failing(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if type(self).__name__ == "WanTransformerBlock":
            calls += 1
            if calls == 7:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "_call_impl", failing)
    monkeypatch.setattr(torch.nn.Module, "__call__", failing)
    kept: list[numpy.ndarray] = []
    made = studio.generate("T2V-A14B", speed="fast", steps=4, keep_frames=kept.extend)
    assert "continued" in made.outcome.notes[0]
    assert "after 1 of 4 steps" in made.outcome.notes[0]
    assert numpy.abs(numpy.stack(kept).astype(int) - undisturbed.astype(int)).mean() < 8


@pytest.mark.slow
def test_running_out_of_memory_in_the_decode_keeps_the_latents(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = with_tier(TierSettings(step_cache=0.5), "TI2V-5B")
    calls = crowd_out(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), largest=1_000_000)
    made = studio.generate("TI2V-5B", entry=entry, speed="fast", resolution="416x240", frames=9)
    assert calls["refused"]
    assert made.outcome.manifest["vae_tiled"]
    assert "after 2 of 2 steps" in made.outcome.notes[0]


class Loaded:
    """A model that is loaded under a layout. On a CPU the weights visit as they do on a GPU."""

    def __init__(self, layout: Offload, quantization: Quantization, entry: CatalogueEntry) -> None:
        self.entry, self.quantization = entry, quantization
        snapshot = snapshots()[entry.model_id]
        self.model: LoadedModel = load(snapshot, entry, quantization, layout, torch.device("cpu"), lambda: None)

    def run(self, studio: Studio, **request: Any) -> numpy.ndarray:
        asked = {"resolution": "64x64", "frames": 9, "steps": 4, "seed": 7, "prompt": "a cat on the moon", **request}
        params = resolve(
            GenerationRequest(model_id=self.entry.model_id, quantization=self.quantization, **asked), self.entry, None
        )
        found = loras.find(params.loras, studio.settings.loras_dir, 2)
        quiet = running.Signals(enter=lambda *_: None, check=lambda: None)
        frames = running.run(
            self.model, params, plan(params, self.entry), NO_PICTURES, found, PromptCache(0), quiet, lambda _size: True,
            Denoising(),
        )  # fmt: skip
        return numpy.stack(frames)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["bf16", "int8", "fp8"])
def test_every_layout_makes_the_same_frames(studio: Studio, compiler: str, quantization: Quantization) -> None:
    write_lora(studio.settings.loras_dir / "one.safetensors")
    entry = with_tier(TierSettings(compiled=True, step_cache=0.2))
    made: dict[str, list[numpy.ndarray]] = {"plain": [], "lora": []}
    layouts: tuple[Offload, ...] = ("none", "group") if compiler == "traced" else ("none", "text", "model", "group")
    for layout in layouts:
        model = Loaded(layout, quantization, entry)
        made["plain"].append(model.run(studio, speed="fast"))
        made["lora"].append(model.run(studio, speed="fast", loras=[{"name": "one"}]))
        made["plain"].append(model.run(studio, speed="fast"))
    for frames in made.values():
        assert all(numpy.array_equal(each, frames[0]) for each in frames)


def test_a_compiler_that_fails_leaves_the_job_running(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = studio.generate("T2V-A14B")

    def broken(*_: Any, **__: Any) -> Any:
        raise torch._dynamo.exc.TorchRuntimeError("no compiler here")

    monkeypatch.setattr(compiling, "_within_limit", broken)
    made = studio.generate("T2V-A14B", speed="balanced")
    assert made.sha256 == exact.sha256
    assert not used(made)["compiled"]
    assert made.outcome.speed is not None
    assert not made.outcome.speed["as_in_catalogue"]
    assert "could not be compiled here, so they ran uncompiled: no compiler here" in made.outcome.notes[0]


@pytest.mark.slow
def test_more_sizes_than_graphs_are_kept(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_BACKEND", {"backend": "eager"})
    monkeypatch.setattr(compiling, "_GRAPHS", 2)
    torch.compiler.reset()
    compiling._compiled.cache_clear()
    made = {frames: studio.generate("TI2V-5B", speed="balanced", frames=frames) for frames in (9, 13, 17, 21)}
    for frames, before in made.items():
        again = studio.generate("TI2V-5B", speed="balanced", frames=frames)
        assert again.sha256 == before.sha256
        assert again.outcome.notes == ()
    compiling._compiled.cache_clear()


def test_a_step_cache_skips_blocks_of_its_own_expert(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models.transformers.transformer_wan import WanTransformerBlock

    computed: list[int] = []
    forward = WanTransformerBlock.forward

    @functools.wraps(forward)  # the library reads the names of its parameters
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        computed.append(id(self))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(WanTransformerBlock, "forward", counted)
    studio.generate("T2V-A14B", steps=6, flow_shift=5.0)
    every = len(computed)
    computed.clear()
    entry = with_tier(TierSettings(step_cache=0.99))
    one = studio.generate("T2V-A14B", entry=entry, speed="fast", steps=6, flow_shift=5.0)
    skipping = len(computed)
    first_blocks, others = every // 2, skipping - every // 2
    assert first_blocks > others >= 4, "at least the first step of each expert is computed in full, both passes"
    computed.clear()
    assert studio.generate("T2V-A14B", entry=entry, speed="fast", steps=6, flow_shift=5.0).sha256 == one.sha256
    assert len(computed) == skipping, "nothing is left of the job before"


def test_a_decode_in_sixteen_bits_is_close_and_leaves_the_vae_as_it_is(studio: Studio) -> None:
    exact = frames_of(studio)
    entry = with_tier(TierSettings(decode="bfloat16", channels_last=True))
    half = frames_of(studio, entry=entry, speed="fast")
    assert not numpy.array_equal(half, exact)
    assert numpy.abs(half.astype(int) - exact.astype(int)).mean() < 2
    assert numpy.array_equal(frames_of(studio), exact)


def test_an_attention_backend_that_the_device_lacks_is_left_out(studio: Studio) -> None:
    made = studio.generate("T2V-A14B", entry=with_tier(TierSettings(attention="_native_cudnn")), speed="fast")
    assert made.sha256 == studio.generate("T2V-A14B").sha256
    assert used(made)["attention"] == "native"
    assert "_native_cudnn does not work on this device, so torch chose one: it needs a GPU" in made.outcome.notes[0]


@pytest.mark.parametrize(
    ("model_id", "each_token"),
    [("T2V-A14B", False), ("TI2V-5B", False), ("TI2V-5B", True)],
)
def test_what_was_compiled_ahead_is_what_a_job_needs(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_id: str, each_token: bool
) -> None:
    """Each token has its own modulation only if the video starts from a picture."""
    picture = None
    if each_token:
        picture = tmp_path / "first.png"
        Image.new("RGB", (64, 64), (200, 80, 20)).save(picture)
    monkeypatch.setattr(compiling, "_BACKEND", {"backend": "eager"})
    torch.compiler.reset()
    compiling._compiled.cache_clear()
    entry = CATALOGUE.get(model_id)
    size = Size.of(entry, 64, 64, 9, image=each_token)
    tier = TierSettings(compiled=True)
    device = torch.device("cpu")
    assert compile_block(entry, snapshots()[model_id], tier, size, device, each_token) is None
    before = graphs()
    made = studio.generate(model_id, picture, speed="balanced")
    assert used(made)["compiled"]
    assert graphs() == before
    compiling._compiled.cache_clear()


def test_compiling_ahead_ends_when_a_job_comes(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    models = snapshots()["T2V-A14B"].parent.parent.parent
    settings = studio.settings.model_copy(update={"models_path": models})
    wanted, compiled = threading.Event(), []

    def compile_one(entry: CatalogueEntry, *_: Any) -> None:
        compiled.append(entry.model_id)
        if len(compiled) == 2:
            wanted.set()

    monkeypatch.setattr(warming, "compile_block", compile_one)
    thread = Warming(settings, CATALOGUE, discovery.this_device(), wanted, threading.Lock).start()
    thread.join(20)
    assert not thread.is_alive()
    assert compiled == ["T2V-A14B", "I2V-A14B"]


@pytest.mark.slow
def test_a_killed_compilation_is_repeated_and_kept(tmp_path: Path, code: Path) -> None:
    script = """
import sys
from pathlib import Path
from tests.support.models.generating import Studio
print(Studio(Path(sys.argv[1])).generate("T2V-A14B", speed="balanced").sha256)
"""
    cache = tmp_path / "cache"
    environment = {**os.environ, "WANWORKS_DEVICE": "cpu:0", "TORCHINDUCTOR_CACHE_DIR": str(cache)}

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, str(tmp_path / name)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    with start("killed") as killed:
        deadline = time.monotonic() + 120
        while not any(cache.rglob("*.cpp")):
            assert killed.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
    made = []
    for name in ("second", "third"):
        with start(name) as process:
            made.append(process.communicate(timeout=300)[0])
        files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.so")}
        assert files
        made.append(str(sorted(files.items())))
    assert made[0] == made[2]
    assert made[1] == made[3], "the third process compiled nothing"


def test_a_database_that_is_away_for_a_moment_costs_no_decoded_frames(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Exception | None] = [None, DatabaseUnavailable()]

    def matching(*_: object) -> None:
        answer = answers.pop()
        if answer is not None:
            raise answer

    monkeypatch.setattr(tier_measurements, "matching", matching)
    monkeypatch.setattr(persisting, "_RETRY_SECONDS", 0.0)
    handler = object.__new__(GenerationHandler)
    handler._settings, handler._database, handler._device_name = studio.settings, None, "d"  # type: ignore[assignment]
    params = resolve(
        GenerationRequest(model_id="T2V-A14B", prompt="a cat", speed="fast"), CATALOGUE.get("T2V-A14B"), None
    )
    found = handler._tier(params, {"tier": "fast", "used": {}, "as_in_catalogue": True})
    assert found is not None
    assert (found["quality"], answers) == ("not measured", [])
