"""The end of a generation, from decoded frames to checked files. It needs no device and must not depend on torch."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy

from shared.catalogue.job_types import Frame
from shared.errors import OutOfMemory
from shared.states import Phase
from workers.generation.context import Decoded, Outcome, Report
from workers.generation.finishing import outputs, playback
from workers.generation.frames.quality import Shape, Watch, judge


def finish(
    made: Decoded,
    frames: Sequence[numpy.ndarray],
    folder: Path,
    check: Callable[[], None],
    report: Report,
    keep: Sequence[Frame] = (),
) -> Outcome:
    """Write the files of a generation into `folder`, play the video, judge its quality, and return the outcome.

    `keep`: frames that are kept as files of their own.

    Raises what `check` raises, BadOutput (broken output, or not as requested), StoreFull, and OutOfMemory.
    """
    began = time.perf_counter()
    report(Phase.MUXING)
    try:
        watch = Watch()
        artifacts = outputs.write(folder, frames, made.fps, made.output_format, made.manifest, check, watch.see, keep)
        found = playback.play(folder / artifacts[0].name)
        quality = judge(watch, Shape(made.width, made.height, made.frames, made.fps), found)
    except MemoryError:
        raise OutOfMemory("The worker ran out of host memory.") from None
    return Outcome(
        artifacts=artifacts,
        width=made.width,
        height=made.height,
        frames=made.frames,
        fps=made.fps,
        seed=made.seed,
        timings={**made.timings, Phase.MUXING.value: round(time.perf_counter() - began, 4)},
        warm=made.warm,
        profile=made.profile,
        peak_vram_mb=made.peak_vram_mb,
        quality=quality,
        manifest=made.manifest,
        resumed_from_step=made.resumed_from_step,
        loras=tuple(made.loras),
        speed=made.speed,
        prompt_tokens=made.prompt_tokens,
        notes=tuple(made.notes),
    )
