"""The handler of benchmarks: run each speed tier on this device, and compare its frames with those of `exact`.

Prompts, seeds and the picture are fixed, so that figures of different devices and versions can be compared.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

from shared import clock
from shared.catalogue.benchmarks import PROMPTS
from shared.catalogue.job_types import BenchmarkParams, GenerationParams
from shared.catalogue.models import Catalogue, CatalogueEntry
from shared.database.engine import Database
from shared.database.tables import Job, TierMeasurement
from shared.errors import ModelUnavailable
from shared.insight import tier_measurements
from shared.messaging.progress import Progress
from shared.models import memory_plan, replicas
from shared.settings import Settings
from shared.states import Phase
from shared.storage.scratch import Scratch
from wanworks.requests import Speed
from workers.attempts.heartbeat import Heartbeat
from workers.devices.discovery import Device
from workers.generation import manifest
from workers.generation import run as generation
from workers.generation.context import Decoded, GenerationContext
from workers.generation.frames.similarity import Similarity, compare
from workers.generation.job import GenerationHandler

_TIMED = (Phase.ENCODING, Phase.DENOISING, Phase.DECODING)
_FIRST_SEED = 20_000


class BenchmarkHandler:
    """Runs the benchmarks of one device."""

    at_most: int | None = None

    def __init__(
        self,
        settings: Settings,
        database: Database,
        catalogue: Catalogue,
        progress: Progress,
        device: Device,
        generations: GenerationHandler,
    ) -> None:
        self._settings = settings
        self._database = database
        self._catalogue = catalogue
        self._progress = progress
        self._device = device
        self._generations = generations
        self._scratch = Scratch(settings.home / "benchmarks")
        self._scratch.sweep()  # the process before this one may have been killed during a benchmark

    def run(self, job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
        params = BenchmarkParams.model_validate(job.params)
        entry = self._catalogue.get(params.model_id)
        heartbeat.expect_work(memory_plan.work_factor(entry, params.width, params.height, params.frames))
        if replicas.snapshot_dir(self._settings.models_dir, entry) is None:
            raise ModelUnavailable(f"{job.model_id} is not on node {self._settings.node}")
        self._generations.drop_stale()
        name = f"{job.id}.{job.attempt}"
        folder = self._scratch.fresh(name)
        try:
            runs = _Runs(self._settings, self._progress, job, heartbeat, params, entry, folder)
            exact = runs.of("exact")
            compared = [(speed, runs.of(speed)) for speed in params.tiers if speed != "exact"]
            rows = [self._row(job, params, speed, found, exact) for speed, found in compared]
        finally:
            self._scratch.drop(name)
        tier_measurements.record(self._database, job.id, rows)
        return {
            "model_id": params.model_id,
            "device_name": self._device.name,
            "quantization": params.quantization,
            "resolution": params.resolution,
            "frames": params.frames,
            "steps": params.steps,
            "exact_seconds": exact.seconds,
            "tiers": [
                {
                    "tier": row.speed,
                    "quality": tier_measurements.quality_of(speed, row),
                    "used": row.settings,
                    "notes": found.notes,
                    **(tier_measurements.figures(row) or {}),
                }
                for row, (speed, found) in zip(rows, compared, strict=True)
            ],
        }

    def undo(self, job: Job) -> None:
        """Do nothing: the videos were in a temporary folder."""

    def after(self, job: Job) -> None:
        self._generations.report_loaded()

    def _row(self, job: Job, params: BenchmarkParams, speed: Speed, found: "_Tier", exact: "_Tier") -> TierMeasurement:
        pairs = zip(found.videos, exact.videos, strict=True)
        compared = [compare(numpy.load(one, mmap_mode="r"), numpy.load(other, mmap_mode="r")) for one, other in pairs]
        return TierMeasurement(
            job_id=job.id,
            model_id=params.model_id,
            speed=speed,
            device_kind=self._device.kind,
            device_name=self._device.name,
            quantization=params.quantization,
            width=params.width,
            height=params.height,
            frames=params.frames,
            steps=params.steps,
            settings=found.used,
            libraries=manifest.deciding_versions(),
            runs=params.runs,
            seconds=found.seconds,
            exact_seconds=exact.seconds,
            measured_at=clock.now(),
            **summary(compared),
        )


def summary(compared: Sequence[Similarity]) -> dict[str, Any]:
    """Return the means and minima over all frames. PSNR is infinite for equal frames, so it counts the others."""
    ssim = [value for one in compared for value in one.ssim]
    psnr = [value for one in compared for value in one.psnr if not math.isinf(value)]
    return {
        "ssim_mean": statistics.fmean(ssim),
        "ssim_min": min(ssim),
        "psnr_mean": statistics.fmean(psnr) if psnr else None,
        "psnr_min": min(psnr, default=None),
    }


class _Tier:
    """What the runs of one tier have made."""

    def __init__(self, videos: list[Path], outcomes: Sequence[Decoded]) -> None:
        self.videos = videos
        self.seconds = statistics.fmean(
            sum(outcome.timings.get(phase, 0.0) for phase in _TIMED) for outcome in outcomes
        )
        last = outcomes[-1].speed or {}
        self.used: dict[str, Any] = last["used"]
        self.notes = list(dict.fromkeys(note for outcome in outcomes for note in outcome.notes))


class _Runs:
    """The runs of one benchmark, one after another."""

    def __init__(
        self,
        settings: Settings,
        progress: Progress,
        job: Job,
        heartbeat: Heartbeat,
        params: BenchmarkParams,
        entry: CatalogueEntry,
        folder: Path,
    ) -> None:
        self._settings = settings
        self._progress = progress
        self._job = job
        self._heartbeat = heartbeat
        self._params = params
        self._entry = entry
        self._folder = folder
        self._done = 0
        self._total = (params.runs + 1) * (1 + sum(speed != "exact" for speed in params.tiers))
        self._image = _picture(folder, params) if entry.image == "required" else None

    def of(self, speed: Speed) -> _Tier:
        """Run a tier once without counting it, as it loads and compiles, and then with each prompt."""
        self._generate(speed, 0, self._entry.min_steps, lambda _frames: None)
        videos, outcomes = [], []
        for number in range(self._params.runs):
            path = self._folder / f"{speed}-{number}.npy"
            outcomes.append(self._generate(speed, number, self._params.steps, partial(_keep, path)))
            videos.append(path)
        return _Tier(videos, outcomes)

    def _generate(self, speed: Speed, number: int, steps: int, keep: Callable[[Any], None]) -> Decoded:
        snapshot = replicas.snapshot_dir(self._settings.models_dir, self._entry)
        params = GenerationParams.model_validate(
            {
                **self._params.model_dump(include=set(GenerationParams.model_fields)),
                "prompt": PROMPTS[number % len(PROMPTS)],
                "seed": _FIRST_SEED + number,
                "steps": steps,
                "speed": speed,
            }
        )
        context = GenerationContext(
            job_id=self._job.id,
            attempt=self._job.attempt,
            params=params,
            entry=self._entry,
            settings=self._settings,
            mock=False,
            snapshot=snapshot,
            image=self._image,
            output_dir=None,
            report=self._report,
            check=self._heartbeat.check,
            lora_snapshot=replicas.lora_dir(self._settings.models_dir, self._entry),
        )
        made, frames = generation.decode(context)
        keep(frames)
        self._done += 1
        return made

    def _report(self, phase: Phase, step: int | None = None, steps: int | None = None) -> None:
        within = step / steps if phase is Phase.DENOISING and step is not None and steps else 0.0
        percent = round(max(self._heartbeat.percent, 99.0 * (self._done + 0.9 * within) / self._total), 1)
        self._heartbeat.moved(phase, percent, step)
        event = {
            "kind": "progress", "phase": phase, "step": step, "steps": steps, "percent": percent, "eta_seconds": None,
            "attempt": self._job.attempt,
        }  # fmt: skip
        if self._progress.report(self._job.id, event):
            self._heartbeat.cancel()


def _keep(path: Path, frames: Sequence[numpy.ndarray]) -> None:
    numpy.save(path, numpy.stack(frames))


def _picture(folder: Path, params: GenerationParams) -> Path:
    """Write the picture from which every run starts: two gradients with a disc."""
    rows, columns = numpy.mgrid[0 : params.height, 0 : params.width].astype(numpy.float32)
    rows, columns = rows / params.height, columns / params.width
    disc = 255.0 * ((rows - 0.5) ** 2 + (columns - 0.5) ** 2 < 0.06)
    pixels = numpy.stack([255 * rows, 255 * columns, disc], axis=-1).astype(numpy.uint8)
    path = folder / "picture.png"
    Image.fromarray(pixels).save(path)
    return path
