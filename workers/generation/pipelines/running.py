"""Run one generation on a loaded model: prompt, denoising, decoding. It must not depend on jobs or files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean

from shared.catalogue.job_types import GenerationParams
from shared.errors import BadOutput
from shared.models import memory_plan
from shared.states import Phase
from workers.generation.frames.geometry import Plan
from workers.generation.frames.pictures import Pictures, fit
from workers.generation.pipelines import decoding
from workers.generation.pipelines.checkpointing import Snapshot, taken
from workers.generation.pipelines.guidance import guides
from workers.generation.pipelines.prompts import PromptCache
from workers.generation.pipelines.resuming import Denoising, ResumableScheduler
from workers.generation.pipelines.tiers.entering import Entered, entered
from workers.generation.pipelines.together import Together, joined
from workers.generation.pipelines.weights import loras
from workers.generation.pipelines.weights.loading import LoadedModel
from workers.generation.pipelines.weights.loras import FoundLora
from workers.generation.seats import Seat

MAX_TOKENS = 512  # the length that the models were trained with


@dataclass(frozen=True)
class Signals:
    """Callbacks of a run to the job."""

    enter: Callable[[Phase, int | None, int | None], None]  # a phase or a step in it begins
    check: Callable[[], None]  # raises to stop
    record: Callable[[str, Any], None] = lambda _name, _fact: None  # a fact for the job's result
    frame: Callable[[int, numpy.ndarray], None] = lambda _index, _frame: None  # a frame is decoded
    latents: Callable[[Denoising], None] = lambda _denoising: None  # after each step; may show them, never raises
    step_ended: Callable[[Callable[[], Snapshot]], None] = lambda _take: None  # may take a checkpoint; raises to stop


def run(
    model: LoadedModel,
    params: GenerationParams,
    plan: Plan,
    pictures: Pictures,
    found: Sequence[FoundLora],
    prompts: PromptCache,
    signals: Signals,
    room: Callable[[int], bool],
    denoising: Denoising,
    seat: Seat | None = None,
) -> list[numpy.ndarray]:
    """Return the frames, each (height, width, 3) uint8, in exactly the requested number and size.

    `room` makes that many bytes available on the device if it can, and returns whether they are. `denoising` is
    continued, and holds what was completed if this raises. `seat`: the place among several devices; only the first
    one decodes, the others return no frames.

    Raises what `signals.check` raises, BadInput for a LoRA that does not fit, BadOutput for frames that are no image,
    and whatever torch raises when memory runs out.
    """
    pipeline: Any = model.image_pipeline if pictures.first is not None else model.pipeline
    model.stops.check = signals.check
    try:
        if denoising.finished is None:
            _denoise(model, pipeline, params, plan, pictures, found, prompts, signals, room, denoising, seat)
        assert denoising.finished is not None
        if seat is not None and seat.rank > 0:
            return []
        with torch.no_grad():
            return _frames(model, denoising.finished, plan, signals, room)
    finally:
        model.stops.clear()
        pipeline.maybe_free_model_hooks()
        pipeline.vae.clear_cache()
        model.placement.bring(None)


def _denoise(
    model: LoadedModel,
    pipeline: Any,
    params: GenerationParams,
    plan: Plan,
    pictures: Pictures,
    found: Sequence[FoundLora],
    prompts: PromptCache,
    signals: Signals,
    room: Callable[[int], bool],
    denoising: Denoising,
    seat: Seat | None,
) -> None:
    """Run all steps that are left."""
    with torch.no_grad(), loras.applied(pipeline, model.dtype, found, model.placement.adopt) as reports:
        signals.record("loras", reports)
        with entered(model, params.speed, denoising.caches) as tier, joined(model, seat) as others:
            denoising.caches = None
            latents = _latents(model, pipeline, params, plan, pictures, prompts, signals, room, denoising, others, tier)
            signals.record("speed", tier.described())
    if not bool(torch.isfinite(latents).all()):
        raise BadOutput("the model produced values that are not finite numbers")
    denoising.finished = latents


def _latents(
    model: LoadedModel,
    pipeline: Any,
    params: GenerationParams,
    plan: Plan,
    pictures: Pictures,
    prompts: PromptCache,
    signals: Signals,
    room: Callable[[int], bool],
    before: Denoising,
    others: Together | None,
    tier: Entered,
) -> torch.Tensor:
    signals.enter(Phase.ENCODING, None, None)
    guided = any(guides(params.guidance_scale, params.guidance_scale_2))
    positive = _embedding(model, pipeline, params.prompt, prompts)
    negative = _embedding(model, pipeline, params.negative_prompt or "", prompts) if guided else None
    signals.record(
        "prompt_tokens",
        {
            "prompt": count_tokens(pipeline.tokenizer, params.prompt),
            "negative_prompt": count_tokens(pipeline.tokenizer, params.negative_prompt or "") if guided else None,
        },
    )
    pipeline.scheduler = ResumableScheduler(**{**model.solver, "flow_shift": params.flow_shift})
    pipeline.scheduler.resume_from = before
    first = before.steps
    generator = torch.Generator("cpu").manual_seed(params.seed)
    if before.random is not None:
        generator.set_state(before.random)
        before.random = None

    def denoising() -> None:
        model.stops.denoising = lambda: None  # the first pass only
        if others is not None:
            model.stops.check = lambda: None  # all stop after the same step
        signals.enter(Phase.DENOISING, first, params.steps)

    def step_ended(_pipeline: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if model.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # so that a reported step is complete
        before.completed(first + index + 1, tensors["latents"], pipeline.scheduler)
        signals.enter(Phase.DENOISING, first + index + 1, params.steps)
        signals.latents(before)
        if others is None:
            signals.step_ended(lambda: taken(before, generator.get_state(), tier.caches()))
            signals.check()
        else:
            others.agree(signals.check)
        return tensors

    model.stops.denoising = denoising
    if pictures.first is not None:
        whole = memory_plan.encode_bytes(model.entry.memory, plan.memory_size(image=True))
        model.pipeline.vae.use_tiling = model.encode_tiled and not room(whole)
    given = {"image": pictures.first, "last_image": pictures.last}
    how = params.fit or "cover"
    picture: dict[str, Any] = {name: fit(one, plan, how) for name, one in given.items() if one is not None}
    if before.latents is not None:
        picture["latents"] = before.latents.to(model.device)
    if first >= params.steps:
        denoising()  # no transformer will run
    result = pipeline(
        **picture,
        prompt_embeds=positive,
        negative_prompt_embeds=negative,
        width=plan.grid_width,
        height=plan.grid_height,
        num_frames=plan.grid_frames,
        num_inference_steps=params.steps,
        guidance_scale=params.guidance_scale,
        guidance_scale_2=params.guidance_scale_2,
        generator=generator,
        callback_on_step_end=step_ended,
        max_sequence_length=MAX_TOKENS,
        output_type="latent",
    )
    model.stops.check = signals.check
    latents: torch.Tensor = result.frames
    return latents


def _embedding(model: LoadedModel, pipeline: Any, text: str, prompts: PromptCache) -> torch.Tensor:
    def encode() -> torch.Tensor:
        made: torch.Tensor = pipeline.encode_prompt(
            prompt=text, do_classifier_free_guidance=False, max_sequence_length=MAX_TOKENS
        )[0]
        return made

    key = (str(model.snapshot), str(model.dtype), text)
    return prompts.embedding(key, encode).to(model.device)


def count_tokens(tokenizer: Any, text: str) -> dict[str, int]:
    """Return how many tokens the text has, including the end mark, and how many the model does not read.

    Counted as the pipelines do: they clean the text first, and truncate it at `MAX_TOKENS`.
    """
    count = len(tokenizer(prompt_clean(text), add_special_tokens=True, truncation=False, verbose=False).input_ids)
    return {"tokens": count, "limit": MAX_TOKENS, "cut": max(0, count - MAX_TOKENS)}


def _frames(
    model: LoadedModel, latents: torch.Tensor, plan: Plan, signals: Signals, room: Callable[[int], bool]
) -> list[numpy.ndarray]:
    signals.enter(Phase.DECODING, None, None)
    vae = model.pipeline.vae
    model.placement.bring(vae)
    # What is free now decides: another program may use the device too.
    tier = model.entry.tiers.of(plan.speed, model.device.type)
    half = tier.decode == "bfloat16"
    whole = memory_plan.decode_bytes(model.entry.memory, plan.memory_size(image=False), half=half)
    tiled = model.decode_tiled or not room(whole)
    signals.record("vae_tiled", tiled)

    def on_chunk(done: int, count: int) -> None:
        signals.enter(Phase.DECODING, done, count)
        signals.check()

    made: list[numpy.ndarray] = []
    decoder = decoding.decoder(vae, half=half, channels_last=tier.channels_last)
    for frame in decoding.frames(decoder, latents.to(model.device), plan.crop, tiled, on_chunk):
        if len(made) < plan.frames:
            signals.frame(len(made), frame)
            made.append(frame)
    return made
