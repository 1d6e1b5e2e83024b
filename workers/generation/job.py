"""The handler of generation jobs: builds the context from the job's row, and the result from the outcome."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shared.catalogue.job_types import GenerationParams
from shared.catalogue.models import Catalogue
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import BadInput, ModelUnavailable, NotFound, StoreFull, Unavailable
from shared.insight import tier_measurements
from shared.jobs import webhooks
from shared.jobs.attempts import Claimant
from shared.jobs.durations import PhaseTimes, phase_times
from shared.jobs.records import new_id
from shared.messaging.progress import Progress
from shared.models import memory_plan, replicas
from shared.settings import Settings
from shared.states import Phase
from shared.storage.store import Store
from shared.stored_names import LOADED_MODEL_KEY
from workers.attempts.heartbeat import Heartbeat
from workers.generation import manifest
from workers.generation import run as generation
from workers.generation.context import GenerationContext, Outcome
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
    ) -> None:
        self._settings = settings
        self._database = database
        self._catalogue = catalogue
        self._store = store
        self._progress = progress
        self._claimant = claimant
        self._device_name = device_name
        self._generations: dict[str, int] = {}  # of the files that the loaded models come from
        self._reported_models: list[dict[str, Any]] = []
        self._phase_times: dict[tuple[str, str, int, int, int, str], tuple[float, PhaseTimes]] = {}

    def run(self, job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
        params = GenerationParams.model_validate(job.params)
        entry = self._catalogue.get(params.model_id)
        heartbeat.expect_work(memory_plan.work_factor(entry, params.width, params.height, params.frames))
        snapshot = None if job.mock else replicas.snapshot_dir(self._settings.models_dir, entry)
        if snapshot is None and not job.mock:
            raise ModelUnavailable(f"{job.model_id} is not on node {self._settings.node}")
        self.drop_stale()
        reporter = Reporter(
            send=self._sender(job),
            measured=self._measured(job, params),
            heartbeat=heartbeat,
        )
        output_dir = self._store.attempt_dir(job.id, job.attempt)
        context = GenerationContext(
            job_id=job.id,
            attempt=job.attempt,
            params=params,
            entry=entry,
            settings=self._settings,
            mock=job.mock,
            snapshot=snapshot,
            image=self._image(params.image, job.attempt) if params.image else None,
            output_dir=output_dir,
            report=reporter,
            check=heartbeat.check,
            lora_snapshot=replicas.lora_dir(self._settings.models_dir, entry),
        )
        outcome = generation.generate(context)
        names = [artifact.name for artifact in outcome.artifacts]
        with heartbeat.span.part("storing"):
            self._store.keep(job.id, job.attempt, names, heartbeat.check, lambda: reporter(Phase.MUXING))
        heartbeat.check()
        return _result(outcome, job.mock, self._device_name, self._tier(params, outcome))

    def _sender(self, job: Job) -> Callable[[dict[str, Any]], bool]:
        """Return a function that publishes an event, and periodically adds a progress message for the job's webhook."""
        sent_at = time.monotonic()

        def send(event: dict[str, Any]) -> bool:
            nonlocal sent_at
            event = {**event, "attempt": job.attempt}
            if job.webhook_progress and time.monotonic() - sent_at > self._settings.webhook_progress_seconds:
                sent_at = time.monotonic()
                progress = {name: event[name] for name in ("percent", "phase", "step", "steps", "eta_seconds")}
                try:
                    webhooks.add_progress(self._database, job, f"msg_{new_id()}", progress)
                except (Unavailable, StoreFull) as error:
                    log.warning("job %s: the progress message for its webhook cannot be stored: %s", job.id, error)
            return self._progress.report(job.id, event)

        return send

    def _tier(self, params: GenerationParams, outcome: Outcome) -> dict[str, Any] | None:
        """Return the speed tier that the job used, with what this installation has measured of it."""
        if outcome.speed is None:
            return None
        measured = (
            tier_measurements.matching(
                self._database,
                params.model_id,
                params.speed,
                self._device_name,
                params.quantization,
                outcome.speed["used"],
                manifest.deciding_versions(),
            )
            if params.speed != "exact"
            else None
        )
        facts = {name: outcome.speed[name] for name in ("tier", "used", "as_in_catalogue")}
        return {
            **facts,
            "quality": tier_measurements.quality_of(params.speed, measured),
            "measured": tier_measurements.figures(measured),
        }

    def undo(self, job: Job) -> None:
        try:
            self._store.drop_attempt(job.id, job.attempt)
        except Unavailable as error:
            log.warning("job %s: the sweep will remove the files of attempt %d: %s", job.id, job.attempt, error)

    def after(self, job: Job) -> None:
        """Remove the files of a deleted job, and record the loaded models if they have changed."""
        if job.deleted and job.finished_at is not None:
            try:
                self._store.drop_job(job.id)
            except Unavailable as error:
                log.warning("job %s: retention will remove its files: %s", job.id, error)
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
        key = (job.model_cache_key, self._device_name, params.width, params.height, params.frames, params.model_id)
        read_at, times = self._phase_times.get(key, (float("-inf"), None))
        if times is None or time.monotonic() - read_at > _MEASURED_KEEP_SECONDS:
            times = phase_times(self._database, *key)
            self._phase_times[key] = (time.monotonic(), times)
        return times


def _result(outcome: Outcome, mock: bool, device_name: str, tier: dict[str, Any] | None) -> dict[str, Any]:
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
        "speed": tier,
        "notes": list(outcome.notes),
        "manifest": outcome.manifest,
    }
