"""The handler of generation jobs: builds the context from the job's row, and the result from the outcome."""

import hashlib
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shared.catalogue.job_types import GENERATION, GenerationParams
from shared.catalogue.models import Catalogue
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import BadInput, DeviceFailed, ModelUnavailable, NotFound, StoreFull
from shared.insight import tier_measurements
from shared.jobs import records
from shared.jobs.attempts import Claimant
from shared.jobs.usage.durations import PhaseTimes, phase_times
from shared.messaging.previews import Previews
from shared.messaging.progress import Progress, RestingRedis
from shared.models import memory_plan, replicas
from shared.settings import Settings
from shared.states import Phase
from shared.storage.store import Store
from shared.stored_names import LOADED_MODEL_KEY
from shared.telemetry.metrics import Meters
from workers.attempts.ahead import Ahead, Turn
from workers.attempts.handover import Handovers
from workers.attempts.heartbeat import Heartbeat
from workers.attempts.persisting import persist
from workers.generation import manifest
from workers.generation import run as generation
from workers.generation.begun import Begun, decoded, decoded_after
from workers.generation.checkpoints import AttemptRow, Checkpoints
from workers.generation.context import GenerationContext, Report
from workers.generation.finishing.ending import Ending
from workers.generation.finishing.leaving import Leaving
from workers.generation.gang.gathering import gathered
from workers.generation.link import Link
from workers.generation.lora_copies import LoraCopies
from workers.generation.read_ahead import read_ahead
from workers.generation.reporting.previews import Publisher
from workers.generation.reporting.publishing import ProgressSender
from workers.generation.reporting.reporter import Reporter
from workers.generation.seats import Member

if TYPE_CHECKING:
    pass

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
        ahead: Ahead | None = None,
        meters: Meters | None = None,
    ) -> None:
        """With `handovers`, another process finishes the jobs; without, this one does. With `ahead` too, the next job
        begins on the device as soon as the last frame is decoded.
        """
        self._settings = settings
        self._database = database
        self._catalogue = catalogue
        self._store = store
        self._progress = progress
        self._claimant = claimant
        self._device_name = device_name
        self._handovers = handovers
        self._ahead = ahead
        self._kind = "cpu" if (claimant.device or "").startswith("cpu-") else "cuda"
        self._ending = Ending(store, device_name)
        self._checkpoints = Checkpoints(settings.home)
        self._loras = LoraCopies(settings, store)
        # A connection of their own: a slow one must not make progress rest.
        self._previews = Previews(RestingRedis(settings.redis))
        self._meters = meters
        self._device = ThreadPoolExecutor(1, "device")
        self._lock = threading.Lock()
        self._begun: Begun | None = None
        self._compiled: set[tuple[object, ...]] = set()  # what this process has compiled for
        self._generations: dict[str, int] = {}  # of the files that the loaded models come from
        self._reported_models: list[dict[str, Any]] = []
        self._phase_times: dict[tuple[object, ...], tuple[float, PhaseTimes]] = {}

    def before_claim(self, job_id: str) -> None:
        """Fetch the LoRAs of a job that is about to be claimed, so that it does not hold the device meanwhile."""
        if self._settings.store_url is None:
            return  # they are read in place
        job = records.get(self._database, job_id)
        if job.type == GENERATION and not job.mock and job.params.get("loras"):
            self._loras.paths(GenerationParams.model_validate(job.params).lora_files)

    def run(self, job: Job, heartbeat: Heartbeat) -> dict[str, Any] | None:
        store = self._store if self._settings.checkpoints_in_store else None
        row = AttemptRow(self._database, job, heartbeat, store, self._checkpoints.file(job.id))
        begun = self._take(job)
        if begun is not None and not self._may_go_on(begun):
            self._drop(begun)
            begun = None
        if begun is None:
            self.drop_stale()
            begun = self._prepared(job, job.attempt, gathered(self._database, job, heartbeat.check))
            begun.decode = partial(decoded, begun)
        if self._ahead is not None:
            self._ahead.holds(job.id, begun.turn)
        try:
            return self._carried_on(job, heartbeat, begun, row)
        finally:
            begun.link.abandon()
            begun.turn.free_device(decoded=False)

    def _may_go_on(self, begun: "Begun") -> bool:
        """Return whether what was begun is still of the right files. Drop it if the database does not say."""
        try:
            return not self._is_stale(replicas.generations(self._database, self._settings.node))
        except BaseException:
            self._drop(begun)  # its thread would wait for the attempt, and keep the device
            raise

    def _carried_on(self, job: Job, heartbeat: Heartbeat, begun: "Begun", row: AttemptRow) -> dict[str, Any] | None:
        params, entry = begun.context.params, begun.context.entry
        heartbeat.expect_work(memory_plan.work_factor(entry, params.width, params.height, params.frames))
        self._store.ask()  # so that no video is made that could not be stored
        leaving = self._leaving(job, params.frames)
        previews = Publisher(self._previews, self._meters, job.id, job.attempt)
        with ProgressSender(self._settings, self._database, self._progress, job, heartbeat.cancel) as send:
            reporter = Reporter(send, self._measured(job, params), heartbeat)
            with leaving or nullcontext():
                keep = leaving.frames.add if leaving is not None else None
                report = row.watched(self._watched(reporter, begun.turn))
                with previews:
                    begun.link.bind(report, heartbeat.check, keep, row, previews)
                    made, frames = begun.decode()
                if _compiles(params):
                    self._compiled.add(_shape(params))
                made = replace(made, speed=self._tier(params, made.speed))
                if leaving is not None and leaving.leave(made, heartbeat, reporter, self.report_loaded):
                    begun.turn.end()
                    return None
            folder = self._store.attempt_dir(job.id, job.attempt)
            return self._ending.complete(job, made, frames, folder, heartbeat, reporter)

    def _prepared(self, job: Job, attempt: int, gang: tuple[Member, ...] = ()) -> "Begun":
        """Return what the device needs to know of the job. `gang`: its other devices. Raises JobFailed."""
        params = GenerationParams.model_validate(job.params)
        entry = self._catalogue.get(params.model_id)
        snapshot = None if job.mock else replicas.snapshot_dir(self._settings.models_dir, entry)
        if snapshot is None and not job.mock:
            raise ModelUnavailable(f"{job.model_id} is not on node {self._settings.node}")
        checkpointed = not gang and not job.mock
        if checkpointed:
            self._checkpoints.fetch(self._store, job, self._settings.node)
        link = Link()
        context = GenerationContext(
            job_id=job.id,
            attempt=attempt,
            params=params,
            entry=entry,
            settings=self._settings,
            mock=job.mock,
            snapshot=snapshot,
            image=self._picture("image", job.id, params, attempt),
            last_image=self._picture("last_image", job.id, params, attempt),
            output_dir=None,
            report=link.report,
            check=link.check,
            lora_snapshot=replicas.lora_dir(self._settings.models_dir, entry),
            lora_paths=self._loras.paths(params.lora_files),
            gang=gang,
            on_frame=link.frame,
            checkpoint=self._checkpoints.file(job.id) if checkpointed else None,
            asked_to_yield=link.asked_to_yield,
            checkpointed=link.checkpointed,
            on_preview=link.preview if params.preview and not job.mock else None,
            preview_failed=link.preview_failed,
        )
        return Begun(context, link, Turn())

    def _watched(self, report: Report, turn: Turn) -> Report:
        """Return a report that prepares for the next job once this one computes, and looks for it once it decodes."""
        if self._ahead is None or self._handovers is None:
            return report
        ahead, entered = self._ahead, set[Phase]()

        def watched(phase: Phase, step: int | None = None, steps: int | None = None) -> None:
            report(phase, step, steps)
            if phase in entered:
                return
            entered.add(phase)
            if phase is Phase.DENOISING:
                ahead.expect(turn, self._read_ahead)
            elif phase is Phase.DECODING:
                ahead.look(turn, self._begin, self._abandon)

        return watched

    def _read_ahead(self, job: Job) -> None:
        """Read the files of the next job's model into the page cache if the device has not loaded it."""
        if job.type != GENERATION or job.mock:
            return
        params = GenerationParams.model_validate(job.params)
        self._loras.paths(params.lora_files)
        entry = self._catalogue.get(params.model_id)
        snapshot = replicas.snapshot_dir(self._settings.models_dir, entry)
        loaded = {(one["model_id"], one["quantization"]) for one in generation.warm()}
        if snapshot is not None and (entry.weights_id, params.quantization) not in loaded:
            read_ahead(snapshot, entry, params.quantization, self._kind)

    def _begin(self, job: Job, before: Turn) -> bool:
        """Begin a job that is not claimed yet, on the device after the turn before. Return whether it may begin so.

        A gang may not: only the claim gives it its other devices. Neither may a job that has failed before: if it ends
        this process, the job before it would count a failure too. Nor one that would compile, which cannot be stopped.
        """
        if job.type != GENERATION or job.devices > 1 or job.failures:
            return False
        now = replicas.generations(self._database, self._settings.node)
        if self._is_stale(now):
            return False
        begun = self._prepared(job, job.attempt + 1)  # as the claim will number it
        if _compiles(begun.context.params) and _shape(begun.context.params) not in self._compiled:
            return False
        self._generations = now
        begun.decode = self._device.submit(decoded_after, before, begun).result
        with self._lock:
            left, self._begun = self._begun, begun
        if left is not None:
            left.link.abandon()
        return True

    def _take(self, job: Job) -> "Begun | None":
        """Return what was begun of this attempt."""
        with self._lock:
            begun, self._begun = self._begun, None
        if begun is None or (begun.context.job_id, begun.context.attempt) == (job.id, job.attempt):
            return begun
        self._drop(begun)
        return None

    def _abandon(self, job_id: str) -> None:
        """Drop what was begun of this job, unless its attempt has taken it."""
        with self._lock:
            begun = self._begun
            if begun is None or begun.context.job_id != job_id:
                return
            self._begun = None
        self._drop(begun)

    def _drop(self, begun: "Begun") -> None:
        begun.link.abandon()
        failed = None
        try:
            begun.decode()
        except DeviceFailed as error:
            failed = error
        except Exception as error:  # it ends at the next block, or has failed: its attempt will find that again
            log.debug("job %s: what was begun of it ended: %r", begun.context.job_id, error)
        begun.turn.end()
        self._store.release_inputs(begun.context.job_id, begun.context.attempt)
        if failed is not None and self._ahead is not None:
            self._ahead.end_process(str(failed))

    def _leaving(self, job: Job, frames: int) -> Leaving | None:
        """Return the attempt's way to the process that finishes it; None if this process must."""
        if self._handovers is None:
            return None
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
        if job.finished_at is not None:
            self._checkpoints.remove(job.id)
        self._ending.remove_unneeded(job)
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
            nodes.report_loaded(self._database, self._claimant.device_key, loaded)
            self._reported_models = loaded

    def _picture(
        self, field: Literal["image", "last_image"], job_id: str, params: GenerationParams, attempt: int
    ) -> Path | None:
        """Return an input picture. Raises BadInput if it is gone, or is not the frame that the other job has made."""
        name = "input image" if field == "image" else "last image"
        reference: str | None = getattr(params, field)
        if reference is None:
            if getattr(params, f"{field}_of") is not None:
                raise BadInput(f"The {name}, a frame of another job of its flow, was never made.")
            return None
        try:
            file = self._store.input_file(reference, job_id, attempt)
        except NotFound:
            raise BadInput(f"The {name} no longer exists.") from None
        sha256: str | None = getattr(params, f"{field}_sha256")
        if sha256 is not None:
            with file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
                    raise BadInput(f"The {name} is not the frame that the other job of its flow has made.")
        return file

    def drop_stale(self) -> None:
        """Evict models whose files have since been found wrong, repaired or removed."""
        now = replicas.generations(self._database, self._settings.node)
        if self._is_stale(now):
            generation.free()
        self._generations = now

    def _is_stale(self, now: dict[str, int]) -> bool:
        loaded = {entry["model_id"] for entry in generation.warm()}
        return any(self._generations.get(model_id) != now.get(model_id) for model_id in loaded)

    def _measured(self, job: Job, params: GenerationParams) -> PhaseTimes:
        size = (params.width, params.height, params.frames, params.steps, params.work)
        key = (job.model_cache_key, params.model_id, params.speed, params.devices_per_job, *size)
        read_at, times = self._phase_times.get(key, (float("-inf"), None))
        if times is None or time.monotonic() - read_at > _MEASURED_KEEP_SECONDS:
            times = phase_times(self._database, job.model_cache_key, params, self._device_name)
            self._phase_times[key] = (time.monotonic(), times)
        return times


def _compiles(params: GenerationParams) -> bool:
    return params.speed != "exact"


def _shape(params: GenerationParams) -> tuple[object, ...]:
    """Return what decides which graphs a job needs."""
    lora = tuple(sorted(lora.name for lora in params.loras))
    return (params.model_id, params.quantization, params.speed, params.width, params.height, params.frames, lora)
