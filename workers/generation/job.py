"""The handler of generation jobs: builds the context from the job's row, and the result from the outcome."""

import logging
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from shared.catalogue.job_types import GenerationParams
from shared.catalogue.models import Catalogue
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import BadInput, ModelUnavailable, NotFound, StoreFull
from shared.insight import tier_measurements
from shared.jobs.attempts import Claimant
from shared.jobs.durations import PhaseTimes, phase_times
from shared.messaging.progress import Progress
from shared.models import memory_plan, replicas
from shared.settings import Settings
from shared.storage.store import Store
from shared.stored_names import LOADED_MODEL_KEY
from workers.attempts.handover import Handovers
from workers.attempts.heartbeat import Heartbeat
from workers.attempts.persisting import persist
from workers.generation import manifest
from workers.generation import run as generation
from workers.generation.context import GenerationContext
from workers.generation.finishing.ending import Ending
from workers.generation.finishing.leaving import Leaving
from workers.generation.gang.gathering import gathered
from workers.generation.publishing import sender
from workers.generation.reporter import Reporter

log = logging.getLogger("wanworks.generation")

_MEASURED_KEEP_SECONDS = 30.0


class GenerationHandler:
    """Runs the generations of one device."""

    at_most: int | None = None

    def __init__(
        self,
        settings: Settings,
        database: Database,
        catalogue: Catalogue,
        store: Store,
        progress: Progress,
        claimant: Claimant,
        device_name: str,
        handovers: Handovers | None = None,
    ) -> None:
        """With `handovers`, another process finishes the jobs; without, this one does."""
        self._settings = settings
        self._database = database
        self._catalogue = catalogue
        self._store = store
        self._progress = progress
        self._claimant = claimant
        self._device_name = device_name
        self._handovers = handovers
        self._ending = Ending(store, device_name)
        self._generations: dict[str, int] = {}  # of the files that the loaded models come from
        self._reported_models: list[dict[str, Any]] = []
        self._phase_times: dict[tuple[str, str, int, int, int, str, int], tuple[float, PhaseTimes]] = {}

    def run(self, job: Job, heartbeat: Heartbeat) -> dict[str, Any] | None:
        params = GenerationParams.model_validate(job.params)
        entry = self._catalogue.get(params.model_id)
        heartbeat.expect_work(memory_plan.work_factor(entry, params.width, params.height, params.frames))
        snapshot = None if job.mock else replicas.snapshot_dir(self._settings.models_dir, entry)
        if snapshot is None and not job.mock:
            raise ModelUnavailable(f"{job.model_id} is not on node {self._settings.node}")
        self.drop_stale()
        reporter = Reporter(
            send=sender(self._settings, self._database, self._progress, job),
            measured=self._measured(job, params),
            heartbeat=heartbeat,
        )
        leaving = self._leaving(job, params.frames)
        context = GenerationContext(
            job_id=job.id,
            attempt=job.attempt,
            params=params,
            entry=entry,
            settings=self._settings,
            mock=job.mock,
            snapshot=snapshot,
            image=self._image(params.image, job.attempt) if params.image else None,
            output_dir=self._store.attempt_dir(job.id, job.attempt) if leaving is None else None,
            report=reporter,
            check=heartbeat.check,
            lora_snapshot=replicas.lora_dir(self._settings.models_dir, entry),
            gang=gathered(self._database, job, heartbeat.check),
            on_frame=(lambda _index, _frame: None) if leaving is None else leaving.frames.add,
        )
        with leaving or nullcontext():
            made, frames = generation.decode(context)
            made = replace(made, speed=self._tier(params, made.speed))
            if leaving is not None and leaving.leave(made, heartbeat, reporter, self.report_loaded):
                return None
        folder = context.output_dir or self._store.attempt_dir(job.id, job.attempt)
        return self._ending.complete(job, made, frames, folder, heartbeat, reporter)

    def _leaving(self, job: Job, frames: int) -> Leaving | None:
        """Return the attempt's way to the process that finishes it; None if this process must."""
        if self._handovers is None:
            return None
        self._store.ask()
        try:
            return Leaving(self._settings, self._database, self._store, self._handovers, job, frames)
        except StoreFull as error:
            log.warning("job %s: the device will wait until it is finished: %s", job.id, error)
            return None

    def _tier(self, params: GenerationParams, speed: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the speed tier that the job used, with what this installation has measured of it."""
        if speed is None:
            return None
        matching = partial(
            tier_measurements.matching,
            self._database,
            params.model_id,
            params.speed,
            self._device_name,
            params.quantization,
            speed["used"],
            manifest.deciding_versions(),
        )
        # The frames are decoded: a database that is away for a moment must not cost them.
        measured = persist(self._settings, matching) if params.speed != "exact" else None
        facts = {name: speed[name] for name in ("tier", "used", "as_in_catalogue")}
        return {
            **facts,
            "quality": tier_measurements.quality_of(params.speed, measured),
            "measured": tier_measurements.figures(measured),
        }

    def undo(self, job: Job) -> None:
        """Remove the attempt's files, unless another process may be writing them."""
        if self._handovers is None or not self._handovers.has(job.id, job.attempt):
            self._ending.undo(job)

    def after(self, job: Job) -> None:
        """Remove the files of a deleted job, and record the loaded models if they have changed."""
        self._ending.remove_deleted(job)
        self.report_loaded()

    def report_loaded(self) -> None:
        """Record the loaded models if they have changed."""
        loaded = [
            {
                **entry,
                LOADED_MODEL_KEY: f"{entry['model_id']}:{entry['quantization']}",
                "generation": self._generations.get(entry["model_id"]),
            }
            for entry in generation.warm()
        ]
        if loaded != self._reported_models:
            nodes.device_beat(self._database, self._claimant.device_key, loaded)
            self._reported_models = loaded

    def _image(self, reference: str, attempt: int) -> Path:
        try:
            return self._store.input_file(reference, attempt)
        except NotFound:
            raise BadInput("The input image no longer exists.") from None

    def drop_stale(self) -> None:
        """Evict models whose files have since been found wrong, repaired or removed."""
        now = replicas.generations(self._database, self._settings.node)
        loaded = {entry["model_id"] for entry in generation.warm()}
        if any(self._generations.get(model_id) != now.get(model_id) for model_id in loaded):
            generation.free()
        self._generations = now

    def _measured(self, job: Job, params: GenerationParams) -> PhaseTimes:
        name = self._device_name
        size = (params.width, params.height, params.frames)
        key = (job.model_cache_key, name, *size, params.model_id, job.devices)
        read_at, times = self._phase_times.get(key, (float("-inf"), None))
        if times is None or time.monotonic() - read_at > _MEASURED_KEEP_SECONDS:
            times = phase_times(self._database, *key)
            self._phase_times[key] = (time.monotonic(), times)
        return times
