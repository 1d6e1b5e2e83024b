"""Guidance for each expert, and the timestep of TI2V-5B, against the library's own pipelines."""

from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline

from shared.catalogue.job_types import GenerationParams
from shared.catalogue.resolving import resolve
from tests.support.models.generating import CATALOGUE, Studio, snapshots
from wanworks.requests import GenerationRequest
from workers.generation.frames.geometry import plan
from workers.generation.frames.pictures import NO_PICTURES
from workers.generation.manifest import ENGINE
from workers.generation.pipelines import running
from workers.generation.pipelines.prompts import PromptCache
from workers.generation.pipelines.resuming import Denoising
from workers.generation.pipelines.weights.loading import LoadedModel, load

STEPS = 4


class Passes:
    """Counts the forward passes of each expert."""

    def __init__(self, pipeline: Any) -> None:
        self.high = self.low = 0
        pipeline.transformer.register_forward_pre_hook(self._high)
        if pipeline.transformer_2 is not None:
            pipeline.transformer_2.register_forward_pre_hook(self._low)

    def _high(self, *_: object) -> None:
        self.high += 1

    def _low(self, *_: object) -> None:
        self.low += 1

    def taken(self) -> tuple[int, int]:
        found, self.high, self.low = (self.high, self.low), 0, 0
        return found


def asked(model_id: str, **request: Any) -> GenerationParams:
    fields = {"resolution": "64x64", "frames": 9, "steps": STEPS, "seed": 7, "flow_shift": 5.0, **request}
    fields = {"prompt": "a cat", "negative_prompt": "rain", **fields}
    return resolve(GenerationRequest(model_id=model_id, **fields), CATALOGUE.get(model_id), None)


def ours(model: LoadedModel, params: GenerationParams) -> torch.Tensor:
    signals, denoising = running.Signals(lambda *_: None, lambda: None), Denoising()
    steps = plan(params, model.entry)
    running.run(model, params, steps, NO_PICTURES, (), PromptCache(10**6), signals, lambda _size: True, denoising)
    assert denoising.finished is not None
    return denoising.finished


def stock(pipeline: WanPipeline, params: GenerationParams) -> torch.Tensor:
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, flow_shift=params.flow_shift)
    result = pipeline(
        prompt=params.prompt,
        negative_prompt=params.negative_prompt,
        width=params.width,
        height=params.height,
        num_frames=params.frames,
        num_inference_steps=params.steps,
        guidance_scale=params.guidance_scale,
        guidance_scale_2=params.guidance_scale_2,
        generator=torch.Generator("cpu").manual_seed(params.seed),
        output_type="latent",
    )
    latents: torch.Tensor = result.frames
    return latents


def of_the_library(model_id: str) -> WanPipeline:
    pipeline = WanPipeline.from_pretrained(snapshots()[model_id], local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    entry = CATALOGUE.get("T2V-A14B")
    return load(snapshots()["T2V-A14B"], entry, "none", "none", torch.device("cpu"), lambda: None)


@pytest.fixture(scope="module")
def library() -> WanPipeline:
    return of_the_library("T2V-A14B")


@pytest.mark.parametrize(
    ("scales", "passes"),
    [
        ((3.5, 3.0), (4, 4)),  # with this shift two of four steps are the high-noise expert's
        ((3.5, 1.0), (4, 2)),
        ((1.0, 1.0), (2, 2)),
        ((3.5, 0.5), (4, 4)),
    ],
)
def test_an_expert_with_guidance_1_runs_one_pass_with_the_same_result(
    model: LoadedModel, library: WanPipeline, scales: tuple[float, float], passes: tuple[int, int]
) -> None:
    params = asked("T2V-A14B", guidance_scale=scales[0], guidance_scale_2=scales[1])
    counted = Passes(model.pipeline)
    mine = ours(model, params)
    assert counted.taken() == passes
    theirs = stock(library, params)
    if scales[1] == 1.0 and scales[0] > 1:
        assert (mine - theirs).abs().max() <= 1e-5
    else:
        assert torch.equal(mine, theirs)


def test_guidance_of_the_low_noise_expert_counts_without_that_of_the_other(model: LoadedModel) -> None:
    counted = Passes(model.pipeline)
    without = ours(model, asked("T2V-A14B", guidance_scale=1.0, guidance_scale_2=1.0))
    counted.taken()
    params = asked("T2V-A14B", guidance_scale=1.0, guidance_scale_2=3.5)
    second = ours(model, params)
    assert counted.taken() == (2, 4)
    assert not torch.equal(without, second)
    other = ours(model, params.model_copy(update={"negative_prompt": "a dog"}))
    assert not torch.equal(second, other), "the negative prompt is used by the low-noise expert"


def test_guidance_switched_off_by_the_first_scale_alone_is_off_for_both() -> None:
    assert asked("T2V-A14B", guidance_scale=1.0).guidance_scale_2 == 1.0
    assert asked("T2V-A14B", guidance_scale=2.0).guidance_scale_2 == 3.0


def test_ti2v_from_text_gives_the_transformer_one_timestep_for_all_tokens() -> None:
    entry = CATALOGUE.get("TI2V-5B")
    model = load(snapshots()["TI2V-5B"], entry, "none", "none", torch.device("cpu"), lambda: None)
    shapes: list[int] = []
    hook = model.pipeline.transformer.register_forward_pre_hook(
        lambda _module, _inputs, named: shapes.append(named["timestep"].ndim), with_kwargs=True
    )
    params = asked("TI2V-5B")
    mine = ours(model, params)
    hook.remove()
    assert set(shapes) == {1}
    assert (mine - stock(of_the_library("TI2V-5B"), params)).abs().max() <= 1e-5
    assert model.image_pipeline.config.expand_timesteps, "with an image the first frame has its own timestep"


def test_the_manifest_names_the_engine(studio: Studio) -> None:
    assert studio.generate("TI2V-5B").outcome.manifest["engine"] == ENGINE == 2
