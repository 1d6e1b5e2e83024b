"""Sections that read a model from its files: how long loading takes, and what the product adds to a step."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler

from shared.catalogue import models as catalogue
from shared.catalogue.job_types import GenerationParams
from shared.catalogue.models import CatalogueEntry
from shared.catalogue.resolving import resolve
from shared.models.prepared import Form
from tests.gpu.components import Size, released, seconds, synchronize
from tests.gpu.table import Table
from wanworks.requests import GenerationRequest, Quantization
from workers.generation import demo_models
from workers.generation.frames.geometry import plan
from workers.generation.frames.pictures import NO_PICTURES
from workers.generation.pipelines import running
from workers.generation.pipelines.prompts import PromptCache
from workers.generation.pipelines.resuming import Denoising
from workers.generation.pipelines.weights.loading import LoadedModel, load
from workers.models.fetch.layout import RepoCache
from workers.models.preparing.writing import prepare

_MODEL = "TI2V-5B"
_STEPS = 8
_PAIRS = 5


def loading(table: Table, device: torch.device, size: Size) -> None:
    """Compare loading published weights with loading their prepared copies, from the page cache."""
    with tempfile.TemporaryDirectory() as folder:
        snapshot, entry = _published(Path(folder), size), _entry(size)
        kinds: tuple[tuple[Form, Quantization], ...] = (("bf16", "bf16"), ("int8", "int8"))
        for form, quantization in kinds:
            read = partial(_loaded, snapshot, entry, quantization, device)
            read()  # the files come into the page cache
            fresh = seconds(device, read)
            since = time.perf_counter()
            prepare(_cache(snapshot), snapshot, form, 0, report=lambda _: None, check=lambda: None)
            table.row(f"{form}: to write the copy", time.perf_counter() - since, "s")
            read()
            copy = seconds(device, read)
            table.row(f"{form}: load of published fp32 weights, {size.layers} blocks of {_MODEL}", fresh, "s")
            table.row(f"{form}: load of the prepared copy", copy, "s")
            table.row(f"{form}: prepared over published", copy / fresh, at_most=1.0 if size.real else None)


def steps(table: Table, device: torch.device, size: Size) -> None:
    """Compare a step of the product with one of the bare pipeline on the same weights: interleaved, medians."""
    with tempfile.TemporaryDirectory() as folder:
        held = SimpleNamespace(model=load(
            _published(Path(folder), size), _entry(size), "bf16", "none", device, lambda: None
        ))  # fmt: skip
        params = _params(size)
        prompts = PromptCache(10**9)  # both take the prompts from here
        ours, bare = (partial(one, held.model, params, prompts) for one in (_our_seconds, _bare_seconds))
        ours(), bare()
        pairs = [(ours(), bare()) for _ in range(_PAIRS)]
        ratios = sorted(one / other for one, other in pairs)
        table.row(f"a step of the bare pipeline, {params.resolution}", sorted(b for _, b in pairs)[_PAIRS // 2], "s")
        table.row(
            "a step of the product over it, the median of pairs",
            ratios[_PAIRS // 2],
            at_most=1.03 if size.real else None,
        )
        released(held)


def _our_seconds(model: LoadedModel, params: GenerationParams, prompts: PromptCache) -> float:
    signals = running.Signals(enter=lambda *_: None, check=lambda: None)
    run = partial(running._denoise, model, model.pipeline, params, plan(params, model.entry), NO_PICTURES, (),
                  prompts, signals, lambda _: True)  # fmt: skip
    return _timed(model.device, lambda: run(Denoising(), None)) / params.steps


def _bare_seconds(model: LoadedModel, params: GenerationParams, prompts: PromptCache) -> float:
    """Time the library's own call, without the product's callbacks; the hooks on the blocks find nothing to do."""
    pipeline, grid = model.pipeline, plan(params, model.entry)
    pipeline.scheduler = UniPCMultistepScheduler.from_config(model.scheduler_config, flow_shift=params.flow_shift)
    with torch.no_grad():
        texts = (params.prompt, params.negative_prompt or "")
        positive, negative = (running._embedding(model, pipeline, text, prompts) for text in texts)

    def run() -> None:
        with torch.no_grad():
            pipeline(
                prompt_embeds=positive,
                negative_prompt_embeds=negative,
                width=grid.grid_width,
                height=grid.grid_height,
                num_frames=grid.grid_frames,
                num_inference_steps=params.steps,
                guidance_scale=params.guidance_scale,
                generator=torch.Generator("cpu").manual_seed(params.seed),
                output_type="latent",
            )

    return _timed(model.device, run) / params.steps


def _timed(device: torch.device, work: Callable[[], Any]) -> float:
    synchronize(device)
    since = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - since


def _params(size: Size) -> GenerationParams:
    entry = _entry(size)
    resolution, frames = ("1280x704", 121) if size.real else (entry.resolutions[0], 9)
    request = GenerationRequest(
        model_id=_MODEL, prompt="a cat", resolution=resolution, frames=frames, steps=_STEPS, seed=4
    )
    return resolve(request, entry, None)


def _entry(size: Size) -> CatalogueEntry:
    return catalogue.load("default" if size.real else "demo").get(_MODEL)


def _published(folder: Path, size: Size) -> Path:
    """Write the model with fewer blocks, in fp32 as published. Return its snapshot."""
    source = demo_models.REAL if size.real else demo_models.DEMO
    shape = demo_models.reduced(source[_MODEL], {"num_layers": size.layers}, {}, {"num_layers": size.text_layers})
    return demo_models.make_repo(folder, f"{demo_models.OWNER}/{_MODEL}", shape)


def _cache(snapshot: Path) -> RepoCache:
    owner, name = snapshot.parents[1].name.removeprefix("models--").split("--", 1)
    return RepoCache(snapshot.parents[2], f"{owner}/{name}")


def _loaded(snapshot: Path, entry: CatalogueEntry, quantization: Quantization, device: torch.device) -> None:
    released(SimpleNamespace(model=load(snapshot, entry, quantization, "none", device, lambda: None)))
