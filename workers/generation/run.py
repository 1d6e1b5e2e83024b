"""Run a generation: from resolved parameters to files, with the models that this process keeps loaded.

It must not depend on the database, Redis or Celery: its input is the context, its output the outcome. Importing this
module loads no torch, so the process that supervises the pool stays small.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from PIL import Image

from shared import garbage
from shared.catalogue.models import MemoryProfile
from shared.errors import BadInput, ConfigurationError, ModelUnavailable, OutOfMemory
from shared.settings import Settings
from shared.states import Phase
from workers.devices import discovery
from workers.generation import device_errors, manifest, outputs, placeholder, playback
from workers.generation.context import GenerationContext, Outcome, Report
from workers.generation.geometry import Plan, plan
from workers.generation.quality import Shape, Watch, judge

if TYPE_CHECKING:
    import numpy

    from workers.generation.pipelines.loras import FoundLora
    from workers.generation.pipelines.warm import WarmModels

log = logging.getLogger(__name__)

_LIBRARY_VARIABLE = re.compile(r"(DIFFUSERS|TRANSFORMERS|HF|TORCH|PYTORCH|USE)_")
_one_at_a_time = threading.Lock()
_warm_models: "WarmModels | None" = None


def generate(context: GenerationContext) -> Outcome:
    """Run one generation and return its outcome.

    Raises what `context.check` raises; ModelUnavailable, BadInput, BadOutput (broken output, or not as requested) and
    OutOfMemory (after one retry under a leaner profile) if the job fails; StoreFull if the disk is full;
    ConfigurationError if a setting is wrong; DeviceFailed if the device no longer works in this process. A MemoryError
    never escapes.
    """
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
    """Return the loaded models: `model_id`, `quantization`, `profile`, `memory_mb`; most recently used last."""
    return _warm_models.loaded() if _warm_models is not None else []


def free() -> None:
    """Evict every model and free its memory. Waits for a running generation."""
    with _one_at_a_time:
        if _warm_models is not None:
            with device_errors.reported(discovery.this_device):
                _warm_models.free()


class _Clock:
    """Measures the phases and reports every change."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._phase: Phase | None = None
        self._since = 0.0
        self._seconds: dict[str, float] = {}

    def enter(self, phase: Phase, step: int | None = None, steps: int | None = None) -> None:
        if phase != self._phase:
            self._close()
            self._phase, self._since = phase, time.perf_counter()
        self._report(phase, step, steps)

    def timings(self) -> dict[str, float]:
        self._close()
        return {phase: round(seconds, 4) for phase, seconds in self._seconds.items()}

    def _close(self) -> None:
        if self._phase is not None:
            spent = time.perf_counter() - self._since
            self._seconds[self._phase.value] = self._seconds.get(self._phase.value, 0.0) + spent
        self._phase = None


def _generated(context: GenerationContext) -> Outcome:
    preload()
    from workers.generation.pipelines import loras
    from workers.generation.pipelines.memory import ran_out

    if context.snapshot is None:
        raise ModelUnavailable(f"The files of {context.entry.model_id} are not on this node.")
    models = _models(context.settings)
    entry, params = context.entry, context.params
    steps = plan(params, entry)
    image = _opened(context.image)
    found = loras.find(params.loras, context.settings.loras_dir, 1 if entry.boundary_ratio is None else 2)
    profile = models.choose(entry, params.quantization)
    notes: list[str] = []
    while True:
        clock = _Clock(context.report)  # a retry's timings are its own
        try:
            return _run(context, models, profile, steps, image, found, clock, tuple(notes))
        except Exception as error:
            if not ran_out(error):
                raise
            log.warning("job %s ran out of memory under %s: %s", context.job_id, profile.name, str(error)[:300])
        # Outside the except block, so that the stack frames that held the tensors are freed.
        models.free()
        profile = _leaner(models, context, profile, notes)


def _leaner(
    models: "WarmModels", context: GenerationContext, profile: MemoryProfile, notes: list[str]
) -> MemoryProfile:
    """Return the profile for a retry. Raises OutOfMemory if there is none, or if this was the retry."""
    from workers.generation.pipelines import profiles

    fitting = context.entry.hardware.fitting(context.params.quantization)
    following = profiles.leaner(fitting, models.device.kind, profile)
    if notes or following is None:
        tried = f" and again under {profile.name}" if notes else f" under {profile.name}, the leanest profile"
        raise OutOfMemory(
            f"{context.entry.model_id} at {context.params.resolution} with {context.params.frames} frames ran out of "
            f"memory on {models.device.name}{tried}."
        )
    notes.append(f"Ran out of memory under the profile {profile.name}; generated under {following.name} instead.")
    return following


def _run(
    context: GenerationContext,
    models: "WarmModels",
    profile: MemoryProfile,
    steps: Plan,
    image: Image.Image | None,
    found: "tuple[FoundLora, ...]",
    clock: _Clock,
    notes: tuple[str, ...],
) -> Outcome:
    from workers.generation.pipelines import running

    params = context.params
    assert context.snapshot is not None
    context.check()
    models.measure_peak()
    model, was_warm = models.get(
        context.entry,
        context.snapshot,
        params.quantization,
        profile,
        context.check,
        lambda: clock.enter(Phase.LOADING),
    )
    facts: dict[str, Any] = {}
    signals = running.Signals(enter=clock.enter, check=context.check, record=facts.__setitem__)
    frames = running.run(model, params, steps, image, found, models.prompts, signals)
    peak = models.peak_mb()
    notes += _remarks(facts)
    described = manifest.of_run(
        context,
        steps,
        models.device,
        dtype=str(model.dtype).removeprefix("torch."),
        profile=profile.name,
        vae_tiled=model.tiled,
        scheduler=model.scheduler_config,
        loras=[lora.described() for lora in found],
        notes=notes,
    )
    return _finish(context, frames, clock, described, was_warm, profile.name, peak, notes, facts)


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
    return (*cut, *partly)


def _mock(context: GenerationContext) -> Outcome:
    clock = _Clock(context.report)
    clock.enter(Phase.DECODING)
    frames = []
    for frame in placeholder.frames(context.params):
        context.check()
        frames.append(frame)
    notes = ("Placeholder output: no model was run.",)
    return _finish(context, frames, clock, manifest.of_test_card(context, notes), False, None, None, notes)


def _finish(
    context: GenerationContext,
    frames: "list[numpy.ndarray]",
    clock: _Clock,
    described: dict[str, Any],
    was_warm: bool,
    profile: str | None,
    peak: float | None,
    notes: tuple[str, ...],
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> Outcome:
    params = context.params
    clock.enter(Phase.MUXING)
    watch = Watch()
    artifacts = outputs.write(
        context.output_dir, frames, params.fps, params.output_format, described, context.check, watch.see
    )
    found = playback.play(context.output_dir / artifacts[0].name)
    quality = judge(watch, Shape(params.width, params.height, params.frames, params.fps), found)
    return Outcome(
        artifacts=artifacts,
        width=params.width,
        height=params.height,
        frames=params.frames,
        fps=params.fps,
        seed=params.seed,
        timings=clock.timings(),
        warm=was_warm,
        profile=profile,
        peak_vram_mb=peak,
        quality=quality,
        manifest=described,
        loras=tuple(facts.get("loras", ())),
        prompt_tokens=facts.get("prompt_tokens"),
        notes=notes,
    )


def _models(settings: Settings) -> "WarmModels":
    """Return this process's set of loaded models; created for the first job."""
    global _warm_models
    if _warm_models is None:
        from workers.generation.pipelines.warm import WarmModels

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
