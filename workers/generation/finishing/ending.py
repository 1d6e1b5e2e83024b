"""What every end of a generation has in common, whichever process of the worker reaches it."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy

from shared.catalogue.job_types import GenerationParams
from shared.database.tables import Job
from shared.errors import Unavailable
from shared.states import Phase
from shared.storage.store import Store
from workers.attempts.heartbeat import Heartbeat
from workers.generation.context import Decoded, Outcome
from workers.generation.finishing import files
from workers.generation.reporting.reporter import Reporter

log = logging.getLogger("wanworks.generation")


class Ending:
    """Makes files of frames, stores them, and removes them if they are not wanted."""

    def __init__(self, store: Store, device_name: str) -> None:
        self._store = store
        self._device_name = device_name

    def complete(
        self,
        job: Job,
        made: Decoded,
        frames: Sequence[numpy.ndarray],
        folder: Path,
        heartbeat: Heartbeat,
        reporter: Reporter,
        *,
        shown_as: Phase | None = None,
    ) -> dict[str, Any]:
        """Make and store the files, and return the job's result. `shown_as` is the phase that is reported.

        Raises what `finish` and `Store.keep` raise.
        """

        def report(phase: Phase, step: int | None = None, steps: int | None = None) -> None:
            reporter(shown_as or phase, step, steps)

        with nullcontext() if shown_as is None else heartbeat.span.part("muxing"):
            keep = GenerationParams.model_validate(job.params).keep_frames
            outcome = files.finish(made, frames, folder, heartbeat.check, report, keep)
        names = [artifact.name for artifact in outcome.artifacts]
        with heartbeat.span.part("storing"):
            self._store.keep(job.id, job.attempt, names, heartbeat.check, lambda: report(Phase.MUXING))
        heartbeat.check()
        return _result(outcome, job.mock, self._device_name)

    def undo(self, job: Job) -> None:
        """Remove the files of an unsuccessful attempt."""
        try:
            self._store.drop_attempt(job.id, job.attempt)
        except Unavailable as error:
            log.warning("job %s: the sweep will remove the files of attempt %d: %s", job.id, job.attempt, error)

    def remove_unneeded(self, job: Job) -> None:
        """Remove an ended job's checkpoints from the store, and all its files if it was deleted while it ran."""
        if job.finished_at is None:
            return
        try:
            if job.deleted:
                self._store.drop_job(job.id)
            elif job.checkpoint_stored_attempt is not None:
                self._store.drop_checkpoints(job.id)
        except Unavailable as error:
            log.warning("job %s: the sweep or retention will remove its files: %s", job.id, error)


def _result(outcome: Outcome, mock: bool, device_name: str) -> dict[str, Any]:
    return {
        "artifacts": [asdict(artifact) for artifact in outcome.artifacts],
        "width": outcome.width,
        "height": outcome.height,
        "frames": outcome.frames,
        "fps": outcome.fps,
        "duration_seconds": outcome.frames / outcome.fps,
        "seed": outcome.seed,
        "timings": outcome.timings,
        "peak_vram_mb": outcome.peak_vram_mb,
        "quality": asdict(outcome.quality),
        "warm": outcome.warm,
        "profile": outcome.profile,
        "device_name": device_name,
        "mock": mock,
        "loras": list(outcome.loras),
        "prompt_tokens": outcome.prompt_tokens,
        "speed": outcome.speed,
        "resumed_from_step": outcome.resumed_from_step,
        "notes": list(outcome.notes),
        "manifest": outcome.manifest,
    }
