"""The generation handler on the real pipelines, with the tiny random-weight models, on the CPU."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.catalogue.models import Offload
from shared.errors import BadInput, BadOutput, Cancelled, JobFailed, ModelUnavailable, OutOfMemory
from shared.states import Phase
from tests.support.generating import CATALOGUE, Studio, decoded, snapshots
from workers.devices import discovery
from workers.generation import run
from workers.generation.pipelines import loading
from workers.generation.pipelines.loading import load
from workers.generation.pipelines.placement import place
from workers.generation.pipelines.warm import WarmModels


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    monkeypatch.setenv("WANWORKS_DEVICE", "cpu:0")
    monkeypatch.setattr(run, "_warm_models", None)
    yield Studio(tmp_path)
    run.free()


@pytest.mark.parametrize("output_format", ["mp4", "webm"])
@pytest.mark.parametrize(
    ("model_id", "with_image", "resolution", "frames", "fps"),
    [
        ("T2V-A14B", False, "96x64", 9, 16),
        ("I2V-A14B", True, "64x96", 8, 12),
        ("TI2V-5B", False, "256x144", 10, 24),
        ("TI2V-5B", True, "144x256", 8, 8),
    ],
)
def test_every_architecture_delivers_exactly_the_request(
    studio: Studio, model_id: str, with_image: bool, resolution: str, frames: int, fps: int, output_format: str
) -> None:
    made = studio.generate(
        model_id,
        image=studio.picture() if with_image else None,
        resolution=resolution,
        frames=frames,
        fps=fps,
        output_format=output_format,
    )
    video = decoded(made.video)
    assert f"{video.width}x{video.height}" == resolution
    assert len(video.frames) == frames
    assert video.fps == fps
    assert video.codec == {"mp4": "h264", "webm": "vp9"}[output_format]
    outcome = made.outcome
    assert (f"{outcome.width}x{outcome.height}", outcome.frames, outcome.fps) == (resolution, frames, fps)
    assert set(outcome.timings) == {"loading", "encoding", "denoising", "decoding", "muxing"}
    assert not outcome.warm
    assert outcome.profile == "full"
    assert outcome.peak_vram_mb is None


@pytest.mark.parametrize(
    ("model_id", "resolution", "grid"),
    [("T2V-A14B", "90x58", (96, 64)), ("TI2V-5B", "854x480", (864, 480)), ("TI2V-5B", "480x854", (480, 864))],
)
def test_a_size_off_the_grid_is_delivered_exactly(
    studio: Studio, model_id: str, resolution: str, grid: tuple[int, int]
) -> None:
    entry = CATALOGUE.get(model_id)
    entry = entry.model_copy(update={"resolutions": (*entry.resolutions, "90x58")})
    made = studio.generate(model_id, entry=entry, resolution=resolution, frames=8)
    video = decoded(made.video)
    assert (f"{video.width}x{video.height}", len(video.frames)) == (resolution, 8)
    assert made.outcome.manifest["grid"] == {"width": grid[0], "height": grid[1], "frames": 9}


def test_the_files_match_the_artifacts_and_there_are_no_others(studio: Studio) -> None:
    made = studio.generate("TI2V-5B")
    assert {path.name for path in made.folder.iterdir()} == {artifact.name for artifact in made.outcome.artifacts}
    for artifact in made.outcome.artifacts:
        content = (made.folder / artifact.name).read_bytes()
        assert artifact.bytes == len(content)
        assert artifact.sha256 == hashlib.sha256(content).hexdigest()
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert manifest == made.outcome.manifest
    assert manifest["revision"] == snapshots()["TI2V-5B"].name
    assert manifest["repo"] == "wanworks-demo/TI2V-5B"
    assert manifest["scheduler"]["flow_shift"] == CATALOGUE.get("TI2V-5B").defaults.flow_shift
    assert manifest["libraries"]["torch"].startswith(torch.__version__.split("+")[0])


def test_the_frames_are_those_of_the_bare_pipeline(studio: Studio) -> None:
    """Our chunked decoding and cropping must be bit-identical to diffusers."""
    import numpy
    from diffusers import UniPCMultistepScheduler, WanPipeline

    from workers.generation.geometry import plan
    from workers.generation.pipelines import running
    from workers.generation.pipelines.prompts import PromptCache

    entry = CATALOGUE.get("T2V-A14B")
    pipe = WanPipeline.from_pretrained(snapshots()["T2V-A14B"], local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, flow_shift=9.0)
    bare = pipe(
        prompt="a dog",
        negative_prompt="rain",
        width=96,
        height=64,
        num_frames=13,
        num_inference_steps=3,
        guidance_scale=4.0,
        guidance_scale_2=3.0,
        generator=torch.Generator("cpu").manual_seed(11),
        output_type="np",
    ).frames[0]
    expected = (bare * 255).round().astype("uint8")

    from shared.catalogue.job_types import settle
    from wanworks.requests import GenerationRequest

    params = settle(
        GenerationRequest(
            model_id="T2V-A14B",
            prompt="a dog",
            negative_prompt="rain",
            resolution="96x64",
            frames=13,
            steps=3,
            guidance_scale=4.0,
            guidance_scale_2=3.0,
            flow_shift=9.0,
            seed=11,
        ),
        entry,
        None,
    )
    profile = entry.hardware.profiles[0]
    model = load(snapshots()["T2V-A14B"], entry, "none", profile, torch.device("cpu"), lambda: None)
    signals = running.Signals(lambda *_: None, lambda: None)
    frames = running.run(model, params, plan(params, entry), None, (), PromptCache(10**6), signals)
    assert numpy.array_equal(numpy.stack(frames), expected)


def test_a_seed_gives_the_same_bytes_warm_and_after_a_fresh_load(studio: Studio) -> None:
    first = studio.generate("T2V-A14B")
    warm = studio.generate("T2V-A14B")
    run.free()
    fresh = studio.generate("T2V-A14B")
    other = studio.generate("T2V-A14B", seed=8)
    assert warm.outcome.warm
    assert not fresh.outcome.warm
    assert first.sha256 == warm.sha256 == fresh.sha256
    assert other.sha256 != first.sha256


def test_the_image_and_the_prompts_and_the_shift_each_matter(studio: Studio) -> None:
    picture = studio.picture()
    different = [
        studio.generate("TI2V-5B"),
        studio.generate("TI2V-5B", image=picture),
        studio.generate("TI2V-5B", prompt="a dog"),
        studio.generate("TI2V-5B", negative_prompt="rain"),
        studio.generate("TI2V-5B", flow_shift=2.0),
        studio.generate("TI2V-5B", guidance_scale=1.0),
    ]
    assert len({made.sha256 for made in different}) == len(different)


def test_without_guidance_the_negative_prompt_is_not_used(studio: Studio) -> None:
    plain = studio.generate("T2V-A14B", guidance_scale=1.0)
    negative = studio.generate("T2V-A14B", guidance_scale=1.0, negative_prompt="rain")
    assert plain.sha256 == negative.sha256


class Stop:
    """A cancel that comes when a given phase and step are reported; `late` is what ran after it."""

    def __init__(self, phase: Phase, step: int | None) -> None:
        self.at = (phase, step)
        self.cancelled_at: float | None = None
        self.seen: list[tuple[Phase, int | None]] = []

    def report(self, phase: Phase, step: int | None = None, steps: int | None = None) -> None:
        self.seen.append((phase, step))
        if (phase, step) == self.at:
            self.cancelled_at = time.perf_counter()

    def check(self) -> None:
        if self.cancelled_at is not None:
            raise Cancelled


@pytest.mark.parametrize(
    ("phase", "step"),
    [(Phase.ENCODING, None), (Phase.DENOISING, 0), (Phase.DENOISING, 2), (Phase.DECODING, None), (Phase.DECODING, 1)],
)
def test_a_cancel_is_answered_before_the_next_step_or_chunk(studio: Studio, phase: Phase, step: int | None) -> None:
    undisturbed = studio.generate("I2V-A14B", image=studio.picture(), steps=4)
    stop = Stop(phase, step)
    with pytest.raises(Cancelled):
        studio.generate("I2V-A14B", image=studio.picture(), steps=4, prompt="new", report=stop.report, check=stop.check)
    assert stop.seen[-1] == (phase, step)
    assert not list((studio.home / f"out-{studio.count}").iterdir())
    again = studio.generate("I2V-A14B", image=studio.picture(), steps=4)
    assert again.outcome.warm
    assert again.sha256 == undisturbed.sha256


def test_a_cancel_inside_a_large_decode_ends_within_a_block(studio: Studio) -> None:
    studio.generate("T2V-A14B")
    stop = Stop(Phase.DECODING, 1)
    with pytest.raises(Cancelled):
        studio.generate("T2V-A14B", resolution="256x256", frames=33, report=stop.report, check=stop.check)
    assert stop.cancelled_at is not None
    assert time.perf_counter() - stop.cancelled_at < 1.0


def test_a_cancel_while_the_file_is_written_leaves_no_file(studio: Studio) -> None:
    stop = Stop(Phase.MUXING, None)
    with pytest.raises(Cancelled):
        studio.generate("TI2V-5B", report=stop.report, check=stop.check)
    assert not list((studio.home / "out-1").iterdir())


def test_progress_counts_every_step_and_never_goes_back(studio: Studio) -> None:
    seen: list[tuple[Phase, int | None, int | None]] = []
    studio.generate("T2V-A14B", steps=3, report=lambda phase, step=None, steps=None: seen.append((phase, step, steps)))
    order = list(dict.fromkeys(phase for phase, _, _ in seen))
    assert order == [Phase.LOADING, Phase.ENCODING, Phase.DENOISING, Phase.DECODING, Phase.MUXING]
    assert [entry[1:] for entry in seen if entry[0] is Phase.DENOISING] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [entry[1:] for entry in seen if entry[0] is Phase.DECODING] == [(None, None), (1, 3), (2, 3), (3, 3)]


def test_a_repeated_prompt_skips_the_text_encoder(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import UMT5EncoderModel

    calls = Counter[str]()
    forward = UMT5EncoderModel.forward

    def counted(self: UMT5EncoderModel, *args: object, **kwargs: object) -> object:
        calls["encoded"] += 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(UMT5EncoderModel, "forward", counted)
    first = studio.generate("TI2V-5B", negative_prompt="rain")
    assert calls["encoded"] == 2
    second = studio.generate("TI2V-5B", negative_prompt="rain")
    assert calls["encoded"] == 2
    assert first.sha256 == second.sha256
    studio.generate("TI2V-5B", negative_prompt="snow")
    assert calls["encoded"] == 3


def write_lora(path: Path, width: int = 96, scale: float = 0.5) -> None:
    """A LoRA for the first block's queries, in the published key layout."""
    random = torch.Generator().manual_seed(5)
    name = "diffusion_model.blocks.0.self_attn.q"
    save_file(
        {
            f"{name}.lora_A.weight": torch.randn(4, width, generator=random) * scale,
            f"{name}.lora_B.weight": torch.randn(width, 4, generator=random) * scale,
        },
        path,
    )


def weights_digest(model_id: str) -> str:
    models = run._warm_models
    assert models is not None
    digest = hashlib.sha256()
    for model in models._models.values():
        if model.key.model_id == model_id:
            for transformer in model.transformers:
                for name, tensor in sorted(transformer.state_dict().items()):
                    digest.update(name.encode())
                    digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def test_a_lora_changes_the_picture_and_leaves_no_trace(studio: Studio) -> None:
    plain = studio.generate("T2V-A14B")
    before = weights_digest("T2V-A14B")
    write_lora(studio.settings.loras_dir / "style.v1.safetensors")
    write_lora(studio.settings.loras_dir / "fast.high.safetensors", scale=0.3)
    write_lora(studio.settings.loras_dir / "fast.low.safetensors", scale=0.7)
    on_both = studio.generate("T2V-A14B", loras=[{"name": "style.v1"}])
    weaker = studio.generate("T2V-A14B", loras=[{"name": "style.v1", "scale": 0.25}])
    two = studio.generate("T2V-A14B", loras=[{"name": "style.v1"}, {"name": "fast", "scale": 0.8}])
    assert len({made.sha256 for made in (plain, on_both, weaker, two)}) == 4
    assert weights_digest("T2V-A14B") == before
    assert studio.generate("T2V-A14B").sha256 == plain.sha256
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in studio.settings.loras_dir.iterdir()}
    assert two.outcome.manifest["loras"] == [
        {"name": "style.v1", "scale": 1.0, "files": {"style.v1.safetensors": digests["style.v1.safetensors"]}},
        {
            "name": "fast",
            "scale": 0.8,
            "files": {name: digests[name] for name in ("fast.high.safetensors", "fast.low.safetensors")},
        },
    ]


def test_each_half_of_a_pair_reaches_its_own_expert(studio: Studio) -> None:
    """One file of the pair is there: were it laid on the wrong expert or on none, two of the three would be alike."""
    plain = studio.generate("T2V-A14B", steps=4)
    write_lora(studio.settings.loras_dir / "low.low.safetensors")
    write_lora(studio.settings.loras_dir / "high.high.safetensors")
    low = studio.generate("T2V-A14B", steps=4, loras=[{"name": "low"}])
    high = studio.generate("T2V-A14B", steps=4, loras=[{"name": "high"}])
    assert len({plain.sha256, low.sha256, high.sha256}) == 3


def test_a_lora_that_does_not_fit_fails_the_job_and_nothing_else(studio: Studio) -> None:
    plain = studio.generate("TI2V-5B")
    folder = studio.settings.loras_dir
    write_lora(folder / "wide.safetensors", width=128)
    (folder / "junk.safetensors").write_bytes(b"not safetensors at all")
    save_file({"foreign.weight": torch.ones(2)}, folder / "foreign.safetensors")
    write_lora(folder / "pair.high.safetensors")
    for name in ("wide", "junk", "foreign", "pair", "absent"):
        with pytest.raises(BadInput, match=name):
            studio.generate("TI2V-5B", loras=[{"name": name}])
    again = studio.generate("TI2V-5B")
    assert again.outcome.warm
    assert again.sha256 == plain.sha256


def test_the_result_says_what_of_a_lora_applied(studio: Studio) -> None:
    """A file as DiffSynth saves it, with differences and with keys that the model has no place for."""
    random = torch.Generator().manual_seed(5)
    file = {f"blocks.0.self_attn.q.lora_{half}.default.weight": torch.ones(1) for half in "AB"}
    file = {key: torch.randn(*((4, 96) if "_A" in key else (96, 4)), generator=random) for key in file}
    file |= {"blocks.0.diff_m": torch.randn(1, 6, 96, generator=random), "blocks.1.ffn.0.diff_b": torch.ones(256)}
    save_file({**file, "blocks.9.ffn.0.diff_b": torch.ones(256)}, studio.settings.loras_dir / "synth.safetensors")
    plain = studio.generate("T2V-A14B")
    before = weights_digest("T2V-A14B")
    outcome = studio.generate("T2V-A14B", loras=[{"name": "synth"}]).outcome
    assert outcome.artifacts[0].sha256 != plain.sha256
    told = [(each["expert"], each["keys_applied"], each["keys"], each["format"]) for each in outcome.loras]
    assert told == [("high_noise", 4, 5, "DiffSynth"), ("low_noise", 4, 5, "DiffSynth")]
    assert outcome.loras[0]["not_applied"] == [
        {"key": "blocks.9.ffn.0.diff_b", "reason": "the model has no such module"}
    ]
    assert "1 of 5 keys of synth.safetensors did not apply (high_noise expert)" in outcome.notes[0]
    assert weights_digest("T2V-A14B") == before
    assert studio.generate("T2V-A14B").sha256 == plain.sha256


def write_differences(path: Path) -> None:
    """A LoRA in lightx2v's manner: a pair, and differences of a weight, a bias, a norm and the modulation."""
    write_lora(path)
    name = "diffusion_model.blocks.0"
    random = torch.Generator().manual_seed(6)
    shapes = {"self_attn.q.diff": (96, 96), "self_attn.k.diff": (96, 96), "ffn.2.diff_b": (96,), "norm3.diff": (96,)}
    shapes["diff_m"] = (1, 6, 96)
    added = {f"{name}.{key}": torch.randn(*shape, generator=random) * 0.2 for key, shape in shapes.items()}
    save_file({**load_file(path), **added}, path)


def test_differences_on_an_int8_model(studio: Studio) -> None:
    write_differences(studio.settings.loras_dir / "style.safetensors")
    plain = studio.generate("TI2V-5B", quantization="int8")
    styled = studio.generate("TI2V-5B", quantization="int8", loras=[{"name": "style"}])
    assert styled.sha256 != plain.sha256
    assert [(each["expert"], each["keys_applied"], each["keys"]) for each in styled.outcome.loras] == [("only", 7, 7)]
    assert studio.generate("TI2V-5B", quantization="int8").sha256 == plain.sha256


@pytest.mark.parametrize(("words", "cut"), [(30, 0), (511, 0), (512, 1), (700, 189)])
def test_truncated_tokens_are_reported(studio: Studio, words: int, cut: int) -> None:
    """A token is a word of the demo's vocabulary here; the end mark takes one more."""
    prompt = " ".join(["cat"] * words)
    outcome = studio.generate("TI2V-5B", prompt=prompt, negative_prompt="rain " * 515).outcome
    assert outcome.prompt_tokens == {
        "prompt": {"tokens": words + 1, "limit": 512, "cut": cut},
        "negative_prompt": {"tokens": 516, "limit": 512, "cut": 4},
    }
    notes = "\n".join(outcome.notes)
    assert ("The prompt has" in notes) == bool(cut)
    assert "The negative prompt has 516 tokens, and the model reads 512: the last 4 were cut." in notes


def test_what_is_cut_is_what_changes_nothing(studio: Studio) -> None:
    """Cleaned as the pipeline cleans it: entities and spaces are no tokens."""
    long = "a cat &amp;amp;   a dog " + "fast " * 600
    one, other = studio.generate("TI2V-5B", prompt=long + "red"), studio.generate("TI2V-5B", prompt=long + "blue")
    assert one.sha256 == other.sha256
    tokens = one.outcome.prompt_tokens
    assert tokens is not None
    assert tokens["prompt"]["cut"] > 90
    kept = "fast " * (tokens["prompt"]["tokens"] - tokens["prompt"]["cut"] - 20)
    again = studio.generate("TI2V-5B", prompt=kept + "red").outcome.prompt_tokens
    assert again is not None
    assert again["prompt"]["cut"] == 0


def test_a_negative_prompt_that_is_not_used_has_no_tokens(studio: Studio) -> None:
    outcome = studio.generate("TI2V-5B", guidance_scale=1.0, negative_prompt="rain " * 600).outcome
    assert outcome.prompt_tokens is not None
    assert outcome.prompt_tokens["negative_prompt"] is None
    assert outcome.notes == ()


@pytest.mark.parametrize("threads", ["4,2", "1,1,1", " 2 ", "", "many", "0", "-1", "99999999999999"])
def test_any_omp_num_threads_is_openmps_own_business(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    """A list is for nested levels; what is no number of threads, OpenMP itself ignores."""
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    before = torch.get_num_threads()
    WarmModels(discovery.this_device(), studio.settings)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    "variable", ["DIFFUSERS_ATTN_BACKEND=nonsense", "HF_HUB_DOWNLOAD_TIMEOUT=soon", "TORCH_LOGS=nonsense"]
)
def test_a_variable_that_a_library_does_not_take_is_named(tmp_path: Path, variable: str) -> None:
    """Each variable fails an import. Runs in its own process, with the runner's error."""
    script = """
import sys
from pathlib import Path
from tests.support.generating import Studio
from workers.attempts import runner
try:
    Studio(Path(sys.argv[1])).generate("T2V-A14B", snapshot=Path(sys.argv[1]))
except Exception as error:
    print(runner._failure(error))
"""
    name, _, value = variable.partition("=")
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, name: value, "WANWORKS_DEVICE": "cpu:0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "configuration_error" in done.stdout, done.stderr
    assert "an environment variable with a value that they do not take" in done.stdout
    assert name in done.stdout


def test_int8_is_another_warm_entry_of_the_same_model(tmp_path: Path, studio: Studio) -> None:
    from torchao.utils import TorchAOBaseTensor

    wide = Studio(tmp_path / "wide", warm_models=2)
    exact = wide.generate("T2V-A14B")
    quantized = wide.generate("T2V-A14B", quantization="int8")
    assert wide.generate("T2V-A14B").outcome.warm
    assert wide.generate("T2V-A14B", quantization="int8").outcome.warm
    assert exact.sha256 != quantized.sha256
    assert quantized.outcome.profile == "int8-full"
    listed = {(entry["quantization"], entry["profile"]): entry["memory_mb"] for entry in run.warm()}
    assert set(listed) == {("none", "full"), ("int8", "int8-full")}
    assert listed["int8", "int8-full"] < listed["none", "full"]
    models = run._warm_models
    assert models is not None
    weight = next(iter(models._models.values())).transformers[0].blocks[0].attn1.to_q.weight
    assert not isinstance(weight, TorchAOBaseTensor)
    weight = list(models._models.values())[-1].transformers[0].blocks[0].attn1.to_q.weight
    assert isinstance(weight, TorchAOBaseTensor)


def test_a_lora_on_an_int8_model(studio: Studio) -> None:
    write_lora(studio.settings.loras_dir / "style.safetensors")
    plain = studio.generate("TI2V-5B", quantization="int8")
    styled = studio.generate("TI2V-5B", quantization="int8", loras=[{"name": "style"}])
    assert styled.sha256 != plain.sha256
    assert studio.generate("TI2V-5B", quantization="int8").sha256 == plain.sha256


@pytest.mark.parametrize("quantization", ["fp16", "bf16"])
def test_sixteen_bit_types_run_with_the_vae_in_thirty_two(studio: Studio, quantization: str) -> None:
    made = studio.generate("TI2V-5B", quantization=quantization)
    assert made.outcome.manifest["dtype"] == {"fp16": "float16", "bf16": "bfloat16"}[quantization]
    models = run._warm_models
    assert models is not None
    assert next(iter(models._models.values())).pipeline.vae.dtype is torch.float32


def test_one_model_is_kept_where_there_is_room_for_one(studio: Studio) -> None:
    studio.generate("TI2V-5B")
    studio.generate("T2V-A14B")
    assert [entry["model_id"] for entry in run.warm()] == ["T2V-A14B"]
    assert not studio.generate("TI2V-5B").outcome.warm


def crowd_out(monkeypatch: pytest.MonkeyPatch, error: Exception, largest: int) -> Counter[str]:
    """A device on which no convolution may take more than `largest` numbers, as one with little memory behaves."""
    calls = Counter[str]()
    convolve = torch.nn.functional.conv3d

    def limited(input: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if input.numel() > largest:
            calls["refused"] += 1
            raise error
        return convolve(input, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "conv3d", limited)
    return calls


def test_out_of_memory_is_retried_under_a_leaner_profile(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = crowd_out(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), largest=1_000_000)
    made = studio.generate("TI2V-5B", resolution="416x240", frames=9)
    assert calls["refused"] == 1
    assert made.outcome.profile == "stream"
    assert "under the profile full" in made.outcome.notes[0]
    assert made.outcome.manifest["notes"] == list(made.outcome.notes)
    assert made.outcome.manifest["vae_tiled"]
    video = decoded(made.video)
    assert (video.width, video.height, len(video.frames)) == (416, 240, 9)
    assert [entry["profile"] for entry in run.warm()] == ["stream"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_twice_fails_clearly_and_frees_everything(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with monkeypatch.context() as patch:
        calls = crowd_out(patch, error, largest=0)
        with pytest.raises(OutOfMemory, match="TI2V-5B at 64x64 with 9 frames"):
            studio.generate("TI2V-5B")
        assert calls["refused"] == 2
    assert run.warm() == []
    assert studio.generate("TI2V-5B").outcome.profile == "full"


def test_tiles_show_the_same_picture(tmp_path: Path, studio: Studio) -> None:
    """Tiling may differ at the seams only."""
    import numpy

    whole = studio.generate("TI2V-5B", resolution="416x240", frames=9)
    run.free()
    run._warm_models = None
    tiled = Studio(tmp_path / "tiled", memory_profile="stream").generate("TI2V-5B", resolution="416x240", frames=9)
    assert tiled.outcome.profile == "stream"
    one, other = (numpy.stack(decoded(made.video).frames).astype(float) for made in (whole, tiled))
    assert one.shape == other.shape
    assert numpy.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9
    assert whole.sha256 != tiled.sha256


@pytest.mark.parametrize("offload", ["model", "group"])
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_components_that_take_turns_make_the_same_picture(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, offload: Offload, quantization: str
) -> None:
    """The hooks of the offloading profiles, between the CPU and itself; that memory is saved only a GPU can show."""
    write_differences(studio.settings.loras_dir / "style.safetensors")
    picture = studio.picture()

    def make() -> list[str]:
        jobs = [{"image": picture}, {}, {"loras": [{"name": "style"}]}, {"prompt": "a dog", "image": picture}]
        return [studio.generate("TI2V-5B", quantization=quantization, **job).sha256 for job in jobs]

    resident = make()
    run.free()
    monkeypatch.setattr(loading, "place", lambda _offload, *components: place(offload, *components))
    assert make() == resident
    stop = Stop(Phase.DENOISING, 1)
    with pytest.raises(Cancelled):
        studio.generate("TI2V-5B", quantization=quantization, report=stop.report, check=stop.check)
    assert make() == resident


@pytest.mark.parametrize("broken", ["transformer/config.json", "vae/diffusion_pytorch_model.safetensors"])
def test_files_that_cannot_be_loaded_are_named_as_such(studio: Studio, tmp_path: Path, broken: str) -> None:
    copy = tmp_path / "snapshot"
    for path in snapshots()["TI2V-5B"].rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(snapshots()["TI2V-5B"])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes()[: 40 if str(path).endswith(broken) else None])
    with pytest.raises(ModelUnavailable):
        studio.generate("TI2V-5B", snapshot=copy)
    (copy / broken).unlink()
    with pytest.raises(ModelUnavailable):
        studio.generate("TI2V-5B", snapshot=copy)
    assert run.warm() == []


def test_another_revision_replaces_the_warm_one(studio: Studio, tmp_path: Path) -> None:
    copy = tmp_path / "other-revision"
    copy.symlink_to(snapshots()["TI2V-5B"])
    studio.generate("TI2V-5B")
    made = studio.generate("TI2V-5B", snapshot=copy)
    assert not made.outcome.warm
    assert len(run.warm()) == 1


def test_values_that_are_no_numbers_fail_the_job(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import UniPCMultistepScheduler

    step = UniPCMultistepScheduler.step
    monkeypatch.setattr(
        UniPCMultistepScheduler,
        "step",
        lambda self, output, *args, **kwargs: step(self, output * float("nan"), *args, **kwargs),
    )
    with pytest.raises(BadOutput):
        studio.generate("TI2V-5B")


@pytest.mark.parametrize("size", ["64x64", "96x64", "256x256"])
@pytest.mark.parametrize("model_id", ["T2V-A14B", "I2V-A14B", "TI2V-5B"])
def test_what_the_demo_models_make_may_be_delivered(studio: Studio, model_id: str, size: str) -> None:
    """Random weights make noise of varying brightness: valid frames of low quality."""
    image = studio.picture() if model_id == "I2V-A14B" else None
    quality = studio.generate(model_id, image=image, resolution=size).outcome.quality
    assert all(quality.checks.values())
    assert 0.1 < quality.score < 1.0
    assert quality.measures.frozen_share == 0.0
    assert quality.measures.sharpness > 1.0
    assert quality.measures.contrast > 10


@pytest.mark.parametrize("size", ["64x64", "256x144", "1280x720"])
def test_a_mock_may_be_delivered(tmp_path: Path, size: str) -> None:
    quality = Studio(tmp_path).generate("T2V-A14B", mock=True, resolution=size).outcome.quality
    assert all(quality.checks.values())
    assert quality.score > 0.5


def dazzle(monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """A VAE whose output is changed as by broken weights."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanDecoder3d

    forward = WanDecoder3d.forward
    monkeypatch.setattr(WanDecoder3d, "forward", lambda self, *args, **kwargs: change(forward(self, *args, **kwargs)))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda picture: torch.full_like(picture, -1.0), "every frame is black"),
        (lambda picture: picture * 0.001, "every frame is of one flat colour"),
        (lambda picture: torch.full_like(picture, float("nan")), "values that are not finite numbers"),
        (lambda picture: picture / 0.0, "values that are not finite numbers"),
    ],
)
def test_output_that_shows_nothing_is_not_delivered(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor], fault: str
) -> None:
    with monkeypatch.context() as patch:
        dazzle(patch, change)
        with pytest.raises(BadOutput, match=fault):
            studio.generate("T2V-A14B")
    assert studio.generate("T2V-A14B").outcome.quality.score > 0.1, "the model itself goes on"


def test_a_still_is_delivered_with_a_low_score(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[torch.Tensor] = []

    def still(picture: torch.Tensor) -> torch.Tensor:
        first.append(picture[:, :, :1])
        return first[0].expand_as(picture)

    dazzle(monkeypatch, still)
    quality = studio.generate("T2V-A14B").outcome.quality
    assert (quality.score, quality.checks["not_frozen"]) == (0.0, False)


def test_an_unreadable_image_is_bad_input(studio: Studio, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(studio.picture().read_bytes()[:100])
    with pytest.raises(BadInput):
        studio.generate("TI2V-5B", image=broken)


def test_a_model_that_is_not_here_is_unavailable(studio: Studio, tmp_path: Path) -> None:
    with pytest.raises(JobFailed) as caught:
        studio.generate("TI2V-5B", snapshot=tmp_path / "nowhere")
    assert caught.value.code == "model_unavailable"
    assert caught.value.retryable


def test_a_mock_is_labelled_and_loads_no_torch(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from tests.support.generating import Studio
studio = Studio(Path(sys.argv[1]))
made = studio.generate("T2V-A14B", mock=True, resolution="256x144", frames=10, fps=12)
assert "torch" not in sys.modules and "diffusers" not in sys.modules
assert made.outcome.manifest["mock"] is True
assert made.outcome.profile is None and not made.outcome.warm
assert made.outcome.notes == ("Placeholder output: no model was run.",)
print(made.video)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    video = decoded(Path(done.stdout.strip()))
    assert (video.width, video.height, len(video.frames), video.fps) == (256, 144, 10, 12)
