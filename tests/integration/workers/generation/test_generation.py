"""The generation handler on the real pipelines, with the tiny random-weight models, on the CPU."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from shared.errors import BadInput, Cancelled, JobFailed, ModelUnavailable
from shared.states import Phase
from tests.integration.workers.generation.stopping import Stop
from tests.support.models.generating import CATALOGUE, Studio, decoded, snapshots
from workers.devices import discovery
from workers.generation import run
from workers.generation.pipelines.warm import WarmModels
from workers.generation.pipelines.weights.loading import load


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

    from workers.generation.frames.geometry import plan
    from workers.generation.frames.pictures import NO_PICTURES
    from workers.generation.pipelines import running
    from workers.generation.pipelines.prompts import PromptCache
    from workers.generation.pipelines.resuming import Denoising

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

    from shared.catalogue.resolving import resolve
    from wanworks.requests import GenerationRequest

    params = resolve(
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
    model = load(snapshots()["T2V-A14B"], entry, "none", "none", torch.device("cpu"), lambda: None)
    signals = running.Signals(lambda *_: None, lambda: None)
    steps, prompts = plan(params, entry), PromptCache(10**6)
    frames = running.run(model, params, steps, NO_PICTURES, (), prompts, signals, lambda _size: True, Denoising())
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
    "variable",
    [
        pytest.param("DIFFUSERS_ATTN_BACKEND=nonsense", marks=pytest.mark.slow),
        pytest.param("HF_HUB_DOWNLOAD_TIMEOUT=soon", marks=pytest.mark.slow),
        "TORCH_LOGS=nonsense",
    ],
)
def test_a_variable_that_a_library_does_not_take_is_named(tmp_path: Path, variable: str) -> None:
    """Each variable fails an import. Runs in its own process, with the runner's error."""
    script = """
import sys
from pathlib import Path
from tests.support.models.generating import Studio
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
from tests.support.models.generating import Studio
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
