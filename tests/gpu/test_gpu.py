"""Tests that need a GPU: pinning, overhead, cancelling, running out of memory, profiles, the driver's readings."""

import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from shared.errors import Cancelled, OutOfMemory
from shared.states import Phase
from tests.gpu.conftest import SIZE, Recorder, Reduced
from tests.support.models.generating import Studio, decoded
from workers.devices import discovery, readings
from workers.devices.discovery import Device
from workers.generation import run

pytestmark = pytest.mark.gpu


def test_a_worker_sees_its_own_device_alone(device: Device, record: Recorder) -> None:
    script = "import torch; print(torch.cuda.device_count(), torch.cuda.get_device_properties(0).uuid)"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": device.cuda_visible_devices}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    count, uuid = done.stdout.split()
    assert int(count) == 1
    assert device.uuid.removeprefix("GPU-") == uuid or device.uuid.startswith("MIG-")
    record("devices that a pinned process sees", float(count), at_most=1)


def test_warm_against_cold(studio: Studio, model: Reduced, record: Recorder) -> None:
    cold, warm = (_timed(studio, model) for _ in range(2))
    assert not cold[0].outcome.warm
    assert warm[0].outcome.warm
    video = decoded(warm[0].video)
    assert (video.width, video.height, len(video.frames)) == (832, 480, 17)
    assert cold[0].sha256 == warm[0].sha256, "the same seed must give the same frames"
    name = f"{model.entry.model_id}, {model.layers} layers, 832x480, 17 frames, 4 steps"
    record(f"cold job, {name}", cold[1], "s")
    record(f"warm job, {name}", warm[1], "s", at_most=cold[1])
    run.free()
    assert _timed(studio, model)[0].sha256 == cold[0].sha256, "also after a fresh load"


def _timed(studio: Studio, model: Reduced, **request: object) -> tuple:  # type: ignore[type-arg]
    since = time.perf_counter()
    asked = {**SIZE, **request}
    made = studio.generate(model.entry.model_id, entry=model.entry, snapshot=model.snapshot, **asked)
    return made, time.perf_counter() - since


def test_step_overhead_over_the_bare_pipeline(studio: Studio, model: Reduced, record: Recorder) -> None:
    import torch
    from diffusers import UniPCMultistepScheduler, WanPipeline

    run.preload()
    types = {"default": torch.bfloat16, "vae": torch.float32}
    bare = WanPipeline.from_pretrained(model.snapshot, dtype=types, local_files_only=True).to("cuda")
    bare.set_progress_bar_config(disable=True)
    defaults = model.entry.defaults
    size = {"frames": 33, "steps": 6}

    def bare_seconds() -> float:
        bare.scheduler = UniPCMultistepScheduler.from_config(bare.scheduler.config, flow_shift=defaults.flow_shift)
        with torch.no_grad():
            positive, negative = bare.encode_prompt("a cat on the moon", "", max_sequence_length=512)
        torch.cuda.synchronize()
        since = time.perf_counter()
        bare(
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            width=832,
            height=480,
            num_frames=size["frames"],
            num_inference_steps=size["steps"],
            guidance_scale=defaults.guidance_scale,
            guidance_scale_2=defaults.guidance_scale_2,
            generator=torch.Generator("cpu").manual_seed(7),
            output_type="latent",
        )
        torch.cuda.synchronize()
        return time.perf_counter() - since

    def our_seconds() -> float:
        outcome = _timed(studio, model, **size)[0].outcome
        return float(outcome.timings[Phase.DENOISING])

    our_seconds()
    bare_seconds()
    pairs = [(our_seconds(), bare_seconds()) for _ in range(5)]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    record(f"bare step, {model.entry.model_id}", theirs / size["steps"], "s")
    record(f"step time over the bare pipeline's, {model.entry.model_id}", ours / theirs, at_most=1.01)


@pytest.mark.parametrize("where", [Phase.DENOISING, Phase.DECODING])
def test_a_cancel_frees_the_device_within_a_step(
    studio: Studio, two_experts: Reduced, record: Recorder, where: Phase
) -> None:
    import torch

    longer = {"frames": 49, "steps": 8}
    whole = _timed(studio, two_experts, **longer)[0].outcome
    step = whole.timings[Phase.DENOISING] / longer["steps"]
    asked, cancelled_at = threading.Event(), [0.0]

    def cancel_later() -> None:
        cancelled_at[0] = time.perf_counter()
        asked.set()

    def report(phase: Phase, done: int | None = None, count: int | None = None) -> None:
        if phase is where and done == 2 and not asked.is_set():  # in the middle of the next step or chunk
            threading.Timer(step / 2 if where is Phase.DENOISING else 0.0, cancel_later).start()

    def check() -> None:
        if asked.is_set():
            raise Cancelled

    with pytest.raises(Cancelled):
        studio.generate(
            "T2V-A14B",
            entry=two_experts.entry,
            snapshot=two_experts.snapshot,
            report=report,
            check=check,
            **{**SIZE, **longer},
        )
    torch.cuda.synchronize()
    latency = time.perf_counter() - cancelled_at[0]
    record(f"cancel while {where.value}, to an idle device", latency, "s", at_most=round(step + 0.25, 3))
    again = _timed(studio, two_experts)[0]
    assert again.outcome.warm


def test_out_of_memory_is_answered_with_a_leaner_layout(
    studio: Studio, two_experts: Reduced, record: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    # Space for little more than the weights: everything resident cannot run in it, streaming can.
    _timed(studio, two_experts)
    models = run._warm_models
    assert models is not None
    weights = run.warm()[0]["memory_mb"] * 1e6
    cap = (weights + 0.3e9) / torch.cuda.mem_get_info()[1]
    with monkeypatch.context() as patch:
        # The plan must not know of the cap, or it would choose a leaner layout at once.
        patch.setattr(type(models), "_free", lambda _self: 1e12)
        torch.cuda.set_per_process_memory_fraction(cap)
        made, seconds = _timed(studio, two_experts)
    assert made.outcome.profile in ("text-offload", "offload", "stream")
    assert any(note.startswith("Ran out of memory under full") for note in made.outcome.notes)
    record(f"out of memory (capped at {weights / 1e9 + 0.3:.1f} GB): job made under `{made.outcome.profile}`, the "
           "failed try included", seconds, "s")  # fmt: skip
    run.free()
    torch.cuda.set_per_process_memory_fraction(0.3e9 / torch.cuda.mem_get_info()[1])
    with pytest.raises(OutOfMemory):
        _timed(studio, two_experts)
    torch.cuda.set_per_process_memory_fraction(1.0)
    left = torch.cuda.memory_allocated() / 1e6
    record("device memory still held after a job that ran out of it under every layout", left, "MB", at_most=100)


def test_every_profile_and_its_peak_memory(
    tmp_path: Path, studio: Studio, model: Reduced, record: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks: dict[str, float] = {}
    for quantization, prefix in (("none", ""), ("int8", "int8-")):
        for profile in ("full", "text-offload", "offload", "stream"):
            run.free()
            monkeypatch.setattr(run, "_warm_models", None)
            chosen = Studio(tmp_path / f"{quantization}-{profile}", memory_profile=profile)
            first = _timed(chosen, model, quantization=quantization)[0]
            made, seconds = _timed(chosen, model, quantization=quantization)
            name = f"{prefix}{profile}"
            assert made.outcome.profile == name
            assert first.sha256 == made.sha256
            assert made.outcome.peak_vram_mb is not None
            peaks[name] = made.outcome.peak_vram_mb
            record(f"{model.entry.model_id}, `{name}`: peak memory", made.outcome.peak_vram_mb / 1000, "GB")
            record(f"{model.entry.model_id}, `{name}`: warm job", seconds, "s")
    assert peaks["full"] > peaks["offload"] > peaks["stream"]
    assert peaks["full"] >= peaks["text-offload"] > peaks["offload"]
    assert peaks["int8-full"] < peaks["full"]
    assert peaks["int8-stream"] <= peaks["stream"] * 1.05


@pytest.mark.parametrize("profile", ["full", "text-offload", "offload", "stream"])
def test_a_lora_comes_and_goes_under_every_profile(
    tmp_path: Path, studio: Studio, two_experts: Reduced, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    import torch
    from safetensors.torch import save_file

    monkeypatch.setattr(run, "_warm_models", None)
    chosen = Studio(tmp_path / profile, memory_profile=profile)
    name = "diffusion_model.blocks.0.self_attn.q"
    random = torch.Generator().manual_seed(5)
    down = torch.randn(16, 5120, generator=random) * 0.05
    up = torch.randn(5120, 16, generator=random) * 0.05
    save_file(
        {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, chosen.settings.loras_dir / "style.safetensors"
    )
    plain = _timed(chosen, two_experts)[0]
    styled = _timed(chosen, two_experts, loras=[{"name": "style"}])[0]
    after = _timed(chosen, two_experts)[0]
    assert styled.sha256 != plain.sha256
    assert after.sha256 == plain.sha256


def test_a_cancelled_job_leaves_a_streaming_model_whole(
    tmp_path: Path, studio: Studio, two_experts: Reduced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_warm_models", None)
    chosen = Studio(tmp_path / "stream", memory_profile="stream")
    plain = _timed(chosen, two_experts)[0]
    stopped = threading.Event()

    def report(phase: Phase, done: int | None = None, count: int | None = None) -> None:
        if (phase, done) == (Phase.DENOISING, 1):
            stopped.set()

    def check() -> None:
        if stopped.is_set():
            raise Cancelled

    with pytest.raises(Cancelled):
        chosen.generate(
            "T2V-A14B", entry=two_experts.entry, snapshot=two_experts.snapshot, report=report, check=check, **SIZE
        )
    assert _timed(chosen, two_experts)[0].sha256 == plain.sha256


def test_the_driver_reads_what_a_job_does(
    studio: Studio, two_experts: Reduced, device: Device, record: Recorder
) -> None:
    gauge, read = readings.gauge(device), []

    def report(phase: Phase, done: int | None = None, count: int | None = None) -> None:
        if phase is Phase.DENOISING and done:
            read.append(gauge.read())

    studio.generate("T2V-A14B", entry=two_experts.entry, snapshot=two_experts.snapshot, report=report, **SIZE)
    last = read[-1]
    assert last.memory_used_mb is not None
    assert last.memory_used_mb >= run.warm()[0]["memory_mb"]
    assert last.temperature_celsius is None or 0 < last.temperature_celsius < 120
    assert discovery.free_memory_mb(device) < device.memory_mb
    for name, unit in (
        ("utilization_percent", "%"),
        ("memory_used_mb", "MB"),
        ("temperature_celsius", "degrees Celsius"),
        ("power_watts", "W"),
    ):
        value = getattr(last, name)
        record(f"NVML while denoising: {name}", "not measured" if value is None else value, unit if value else "")
