"""Run a generation: from resolved parameters to frames, with the models that this process keeps loaded.

It must not depend on the database, Redis or Celery: its input is the context, its output the outcome. Importing this
module loads no torch, so the process that supervises the pool stays small.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from PIL import Image

from shared import garbage
from shared.catalogue.models import Catalogue
from shared.errors import BadInput, ConfigurationError, ModelUnavailable, OutOfMemory
from shared.models.memory_plan import Plan as MemoryPlan
from shared.models.memory_plan import Size, profile_name
from shared.settings import Settings
from shared.states import Phase
from workers.devices import discovery
from workers.generation import device_errors, manifest
from workers.generation.context import Decoded, GenerationContext, Outcome
from workers.generation.finishing import files
from workers.generation.frames import placeholder
from workers.generation.frames.geometry import Plan, plan
from workers.generation.frames.pictures import Pictures
from workers.generation.frames.previews import Cells
from workers.generation.gang.group import Group
from workers.generation.reporting.phase_clock import PhaseClock

if TYPE_CHECKING:
    import numpy

    from workers.generation.pipelines.resuming import Denoising
    from workers.generation.pipelines.warm import WarmModels
    from workers.generation.pipelines.weights.loras import FoundLora

log = logging.getLogger(__name__)

_LIBRARY_VARIABLE = re.compile(r"(DIFFUSERS|TRANSFORMERS|HF|TORCH|PYTORCH|USE)_")
_one_at_a_time = threading.Lock()
_wanted = threading.Event()  # a job has come, so compiling ahead ends
_warm_models: "WarmModels | None" = None


def generate(context: GenerationContext) -> Outcome:
    """Run one generation, write its files into `context.output_dir` and return its outcome.

    Raises what `decode` and `files.finish` raise.
    """
    assert context.output_dir is not None
    made, frames = decode(context)
    return files.finish(made, frames, context.output_dir, context.check, context.report)


def decode(context: GenerationContext) -> "tuple[Decoded, list[numpy.ndarray]]":
    """Run one generation until its frames are decoded. The device is free then.

    Raises what `context.check` raises; ModelUnavailable, BadInput, BadOutput (no picture) and OutOfMemory (if no leaner
    plan is left) if the job fails; ConfigurationError if a setting is wrong; DeviceFailed if the device no longer works
    in this process. A MemoryError never escapes.
    """
    _wanted.set()
    try:
        with _one_at_a_time:
            if context.mock:
                return _mock(context)
            with device_errors.reported(discovery.this_device):
                return _generated(context)
    except MemoryError:
        raise OutOfMemory("The worker ran out of host memory.") from None


@cache
def preload() -> None:
    """Import the libraries of a generation, so that the first job does not wait for it. Idempotent.

    Raises ConfigurationError if the libraries refuse to load, as they do for some values of their environment
    variables.
    """
    try:
        from workers.generation.pipelines.chatter import hush

        hush()
        from workers.generation.pipelines import running, warm

        _ = running, warm
        garbage.freeze()  # the libraries are a million objects that are never freed
    except (ImportError, ValueError, RuntimeError, KeyError, TypeError) as error:
        log.error("the libraries that run models cannot be loaded", exc_info=error)
        set_here = ", ".join(sorted(name for name in os.environ if _LIBRARY_VARIABLE.match(name))) or "none"
        raise ConfigurationError(
            "The libraries that run models do not load on this worker; its log says why. The usual cause is an "
            "environment variable with a value that they do not take. Of those that they read, these are set: "
            f"{set_here}."
        ) from error


def warm() -> list[dict[str, Any]]:
    """Return the loaded models: `model_id`, `quantization`, `profile`, `memory_mb`, `host_mb`; the latest last."""
    return _warm_models.loaded() if _warm_models is not None else []


def compile_ahead(settings: Settings, catalogue: Catalogue) -> None:
    """Compile for the default sizes of the models on this node, in the background. `compile_at_start` decides whether.

    The first job goes first: what is not compiled yet is compiled when a job needs it.
    """
    device = discovery.this_device()
    if settings.compile_at_start == "off" or (settings.compile_at_start == "auto" and device.kind == "cpu"):
        return
    from workers.generation.pipelines.tiers.warming import Warming

    def turn() -> AbstractContextManager[object]:
        return _one_at_a_time

    Warming(settings, catalogue, device, _wanted, turn).start()


def free() -> None:
    """Evict every model and free its memory. Waits for a running generation."""
    with _one_at_a_time:
        if _warm_models is not None:
            with device_errors.reported(discovery.this_device):
                _warm_models.free()


def _generated(context: GenerationContext) -> "tuple[Decoded, list[numpy.ndarray]]":
    preload()
    from workers.generation.pipelines.memory.freeing import ran_out
    from workers.generation.pipelines.resuming import Denoising
    from workers.generation.pipelines.weights import loras

    if context.snapshot is None:
        raise ModelUnavailable(f"The files of {context.entry.model_id} are not on this node.")
    if context.gang:
        with Group(context, context.gang) as group:
            return _generated(replace(context, gang=(), seat=group.seat))
    models = _models(context.settings)
    entry, params = context.entry, context.params
    steps = plan(params, entry)
    pictures = Pictures(_opened(context.image), _opened(context.last_image))
    stored = [(file, context.lora_paths.get(file.sha256)) for file in params.lora_files]
    found = loras.find(params.loras, context.settings.loras_dir, 1 if entry.boundary_ratio is None else 2, stored)
    if entry.lora is not None:
        found = (loras.of_preset(entry, context.lora_snapshot), *found)
    size = steps.memory_size(image=context.image is not None, loras=loras.bytes_by_expert(found))
    chosen = models.choose(entry, params.quantization, size, context.check)
    run = _Run(context, models, steps, pictures, found, PhaseClock(context.report), Denoising())
    while True:
        try:
            return _run(run, chosen)
        except Exception as error:
            if not ran_out(error):
                raise
            if context.seat is not None:
                raise _together_out_of_memory(context, chosen) from error
            log.warning("job %s ran out of memory under %s: %s", context.job_id, chosen.name, str(error)[:300])
        # Outside the except block, so that the stack frames that held the tensors are freed.
        chosen = _after_running_out(run, chosen, size)


@dataclass
class _Run:
    """One generation: what stays the same if it continues under another plan."""

    context: GenerationContext
    models: "WarmModels"
    steps: Plan
    pictures: Pictures
    found: "tuple[FoundLora, ...]"
    clock: "PhaseClock"
    denoising: "Denoising"  # completed steps are never repeated
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    was_warm: bool | None = None  # when it began
    resumed_from_step: int | None = None


def _after_running_out(run: _Run, chosen: MemoryPlan, size: Size) -> MemoryPlan:
    """Return the plan to continue under: the same without other models, else a leaner one. Raises OutOfMemory."""
    models, params, entry = run.models, run.context.params, run.context.entry
    done = f"after {run.denoising.steps} of {params.steps} steps"
    run.denoising.to_host()
    if models.evict_others(entry.weights_id, params.quantization):
        run.notes.append(f"Ran out of memory {done}; continued after the other loaded models were evicted.")
        return chosen
    models.ran_out(entry, params.quantization, size, chosen)
    tiles_help = run.denoising.finished is not None or (run.pictures.first is not None and run.denoising.steps == 0)
    following = models.leaner(entry, params.quantization, size, chosen, tiles_help=tiles_help)
    name = profile_name(params.quantization, chosen.layout)
    if following is None:
        models.free()
        raise OutOfMemory(
            f"{entry.model_id} at {params.resolution} with {params.frames} frames ran out of memory on "
            f"{models.device.name} {done}, under {name}, and no leaner layout is left."
        )
    if following.layout != chosen.layout:
        models.free_models()
        how = f"under {profile_name(params.quantization, following.layout)}"
    else:
        how = "with tiles"
    run.notes.append(f"Ran out of memory under {name} {done}; continued {how}.")
    return following


def _together_out_of_memory(context: GenerationContext, chosen: MemoryPlan) -> OutOfMemory:
    """Return the error of a gang. It does not continue under a leaner plan, because all of it would have to."""
    params = context.params
    return OutOfMemory(
        f"{context.entry.model_id} at {params.resolution} with {params.frames} frames ran out of memory on one of "
        f"{params.devices_per_job} devices, under {profile_name(params.quantization, chosen.layout)}."
    )


def _run(run: _Run, chosen: MemoryPlan) -> "tuple[Decoded, list[numpy.ndarray]]":
    from workers.generation.pipelines import checkpointing, running

    context, models, params = run.context, run.models, run.context.params
    assert context.snapshot is not None
    context.check()
    models.measure_peak()
    began = time.monotonic()
    model, was_warm = models.get(
        context.entry,
        context.snapshot,
        params.quantization,
        chosen,
        context.check,
        lambda: run.clock.enter(Phase.LOADING),
    )
    if not was_warm:
        seconds = time.monotonic() - began
        log.info("job %s: %s is loaded after %.1f s (%s)", context.job_id, context.entry.model_id, seconds, chosen.name)
    run.was_warm = was_warm if run.was_warm is None else run.was_warm
    signals = running.Signals(
        enter=run.clock.enter, check=context.check, record=run.facts.__setitem__, frame=context.on_frame
    )
    signals = replace(signals, latents=_projecting(context, run.steps))
    with ExitStack() as ending:
        if context.checkpoint is not None and context.seat is None:
            made_by = checkpointing.made_by(context, model, models.device, chosen.name, run.found)
            keeper = checkpointing.Keeper(context, made_by)
            ending.callback(keeper.close)
            signals = replace(signals, step_ended=keeper.step_ended)
            if run.denoising.steps == 0 and run.denoising.finished is None and keeper.restore(run.denoising):
                run.resumed_from_step = run.denoising.steps
        frames = running.run(
            model,
            params,
            run.steps,
            run.pictures,
            run.found,
            models.prompts,
            signals,
            lambda size: models.room(size, model),
            run.denoising,
            context.seat,
        )
    peak = models.peak_mb()
    notes = (*run.notes, *_remarks(run.facts))
    described = manifest.of_run(
        context,
        run.steps,
        models.device,
        dtype=str(model.dtype).removeprefix("torch."),
        profile=model.key.profile,
        vae_tiled=run.facts["vae_tiled"],
        scheduler=model.scheduler_config,
        loras=[lora.described() for lora in run.found],
        tier=run.facts["speed"],
        notes=notes,
        resumed_from_step=run.resumed_from_step,
    )
    facts = {**run.facts, "resumed_from_step": run.resumed_from_step}
    return _decoded(context, frames, run.clock, described, run.was_warm, model.key.profile, peak, notes, facts)


def _projecting(context: GenerationContext, steps: Plan) -> "Callable[[Denoising], None]":
    """Return what shows previews after steps; only the leader of a gang shows them."""
    from workers.generation.pipelines.previews import projecting

    assert context.snapshot is not None
    seconds, on_preview = context.settings.preview_seconds, context.on_preview
    is_leader = context.seat is None or context.seat.rank == 0
    projection = projecting.read(context.snapshot) if on_preview is not None and seconds > 0 and is_leader else None
    if projection is None or on_preview is None:
        return lambda _denoising: None
    count = context.params.steps

    def show(step: int, pixels: "numpy.ndarray") -> None:
        on_preview(Cells(step, count, pixels, steps))

    return projecting.Projecting(projection, seconds, show, context.preview_failed).step_ended


def _remarks(facts: dict[str, Any]) -> tuple[str, ...]:
    """Return sentences about the parts of the request that did not reach the model."""
    names = {"prompt": "prompt", "negative_prompt": "negative prompt"}
    counts = [(names[name], count) for name, count in facts.get("prompt_tokens", {}).items() if count and count["cut"]]
    cut = [
        f"The {name} has {count['tokens']} tokens, and the model reads {count['limit']}: the last {count['cut']} "
        "were cut."
        for name, count in counts
    ]
    partly = [
        f"The LoRA {lora['name']!r} was applied partially: {lora['keys_not_applied']} of {lora['keys']} keys of "
        f"{lora['file']} did not apply ({lora['expert']} expert). Result.loras lists them."
        for lora in facts.get("loras", ())
        if lora["keys_not_applied"]
    ]
    tier = facts["speed"]["notes"] if "speed" in facts else ()
    return (*cut, *partly, *tier)


def _mock(context: GenerationContext) -> "tuple[Decoded, list[numpy.ndarray]]":
    clock = PhaseClock(context.report)
    clock.enter(Phase.DECODING)
    frames: list[numpy.ndarray] = []
    for frame in placeholder.frames(context.params):
        context.check()
        context.on_frame(len(frames), frame)
        frames.append(frame)
    notes = ("Placeholder output: no model was run.",)
    return _decoded(context, frames, clock, manifest.of_test_card(context, notes), False, None, None, notes)


def _decoded(
    context: GenerationContext,
    frames: "list[numpy.ndarray]",
    clock: PhaseClock,
    described: dict[str, Any],
    was_warm: bool,
    profile: str | None,
    peak: float | None,
    notes: tuple[str, ...],
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> "tuple[Decoded, list[numpy.ndarray]]":
    params = context.params
    made = Decoded(
        width=params.width,
        height=params.height,
        frames=params.frames,
        fps=params.fps,
        seed=params.seed,
        output_format=params.output_format,
        timings=clock.timings(),
        warm=was_warm,
        profile=profile,
        peak_vram_mb=peak,
        manifest=described,
        loras=list(facts.get("loras", ())),
        speed=facts.get("speed"),
        prompt_tokens=facts.get("prompt_tokens"),
        notes=list(notes),
        resumed_from_step=facts.get("resumed_from_step"),
    )
    return made, frames


def _models(settings: Settings) -> "WarmModels":
    """Return this process's set of loaded models; created for the first job."""
    global _warm_models
    from workers.generation.pipelines.tiers import compiling
    from workers.generation.pipelines.warm import WarmModels

    compiling.set_up()
    if _warm_models is None:
        _warm_models = WarmModels(discovery.this_device(), settings)
    return _warm_models


def _opened(path: Path | None) -> Image.Image | None:
    if path is None:
        return None
    try:
        image = Image.open(path)
        image.load()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput("The input image cannot be read.") from error
    return image
