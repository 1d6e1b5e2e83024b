"""What may become a job: a well-formed request held against the catalogue, this installation's files and its disk.

Knows nothing of HTTP. What it lets through still has to be committed (`api/commits.py`) before anybody is told.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

from api import images
from api.body import Asked
from api.fallback_admission import Fallbacks
from api.storage import Storage
from shared import jobs
from shared.catalogue import Catalogue, CatalogueEntry
from shared.errors import Conflict, FieldError, InvalidField, NotFound
from shared.job_types import GENERATION, JOB_TYPES, GenerationParams, GenerationRequest, Lora, settle
from shared.jobs import NewJob
from shared.settings import Settings
from shared.states import JOB_ENDS, JobState, Priority
from shared.tables import Job

_INPUT_NAME = "image.png"
_SHOWN_LORAS = 20


class Admission:
    def __init__(self, settings: Settings, catalogue: Catalogue, storage: Storage, fallbacks: Fallbacks) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._storage = storage
        self._fallbacks = fallbacks

    @staticmethod
    def is_quick(asked: Asked) -> bool:
        """Whether `generation` looks at nothing but memory, and so may run on the event loop."""
        return asked.image is None and not asked.request.loras and not asked.request.fallback

    def generation(self, asked: Asked, key: str | None) -> NewJob:
        """The job that this request asks for, its image already in the store (`discard` takes it out again).

        Raises InvalidField naming each field that cannot be, StoreFull, StoreMismatch, DatabaseUnavailable.
        """
        request = asked.request
        entry = self._entry(request.model_id)
        job_id = jobs.new_id()
        params = self._settled(request, entry, f"{job_id}/{_INPUT_NAME}" if asked.image is not None else None)
        new = self._new_job(job_id, request, params, request.priority, request.metadata)
        if asked.image is not None:
            try:
                self._keep(job_id, asked.image)
            finally:
                images.give_memory_back()
        return replace(new, idempotency_key=key, request_hash=asked.digest() if key is not None else None)

    def retry(self, job: Job, key: str | None) -> NewJob:
        """The same again. Raises Conflict where the job has not ended or cannot be made any more."""
        if job.status not in JOB_ENDS:
            raise Conflict(f"The job is {job.status}; only one that has ended can be retried")
        new = self._generation_again(job) if job.type == GENERATION else self._node_work_again(job)
        return replace(new, retry_of=job.id, idempotency_key=key, request_hash=f"retry:{job.id}" if key else None)

    def remix(self, job: Job, prompt: str, key: str | None) -> NewJob:
        """The same with another prompt: its size, length, seed and picture. Raises Conflict where it made no video."""
        if job.status != JobState.SUCCEEDED:
            raise Conflict(f"The job is {job.status}; only one that has succeeded can be remixed")
        new = self._generation_again(job)
        params = new.params.model_copy(update={"prompt": prompt, "remixed_from": job.id})
        digest = hashlib.sha256(f"remix:{job.id}:{prompt}".encode()).hexdigest()
        return replace(new, params=params, idempotency_key=key, request_hash=digest if key is not None else None)

    def _generation_again(self, job: Job) -> NewJob:
        params = GenerationParams.model_validate(job.params)
        job_id = jobs.new_id()
        try:
            new = self._new_job(job_id, None, params, list(Priority)[job.priority], job.labels)
            new = replace(new, webhook_url=job.webhook_url, webhook_progress=job.webhook_progress)
            if params.image is not None:
                self._storage.check_room()
                image = self._storage.store().copy_input(params.image, job_id)
                new = replace(new, params=new.params.model_copy(update={"image": image}))
        except NotFound as error:
            raise Conflict(f"The job's {error.kind} is not there any more") from None
        return new

    def _node_work_again(self, job: Job) -> NewJob:
        if (job_type := JOB_TYPES.get(job.type)) is None:
            raise Conflict(f"A job of type {job.type} cannot be retried by this version, which does not know the type")
        # Which commit the hub names is asked anew.
        asked = {name: value for name, value in job.params.items() if name != "sha"}
        return NewJob(
            type=job.type,
            params=job_type.params.model_validate(asked),
            priority=list(Priority)[job.priority],
            metadata=job.labels,
            max_failures=self._settings.max_failures,
            bandwidth_mbps=job.bandwidth_mbps,
        )

    def discard(self, new: NewJob) -> None:
        """Takes out of the store what was put there for a job that came to nothing."""
        if isinstance(new.params, GenerationParams) and new.params.image is not None:
            self._storage.store().drop_job(new.id)

    def _keep(self, job_id: str, image: bytes) -> None:
        self._storage.check_room()
        self._storage.store().put_input(job_id, _INPUT_NAME, images.normalise(image))

    def _entry(self, model_id: str) -> CatalogueEntry:
        try:
            return self._catalogue.get(model_id)
        except NotFound:
            offered = ", ".join(self._catalogue.model_ids)
            raise InvalidField.of(
                "model_id", f"there is no model {model_id!r}; offered: {offered}", "unknown"
            ) from None

    def _settled(self, request: GenerationRequest, entry: CatalogueEntry, image: str | None) -> GenerationParams:
        wrong = unknown_loras(self._settings.loras_dir, request.loras) if request.loras else ()
        try:
            params = settle(request, entry, image)
        except InvalidField as error:
            raise InvalidField(*error.errors, *wrong) from None
        if wrong:
            raise InvalidField(*wrong)
        return params

    def _new_job(
        self,
        job_id: str,
        asked: GenerationRequest | None,
        params: GenerationParams,
        priority: Priority,
        metadata: dict[str, str],
    ) -> NewJob:
        params, mock = self._fallbacks.apply(asked, params, priority)
        vram, ram = (0, 0) if mock else self._catalogue.get(params.model_id).needs_mb(params.quantization)
        return NewJob(
            type=GENERATION,
            params=params,
            priority=priority,
            min_vram_mb=vram,
            min_ram_mb=ram,
            id=job_id,
            mock=mock,
            metadata=metadata,
            max_failures=self._settings.max_failures,
            webhook_url=asked.webhook_url if asked is not None else None,
            webhook_progress=asked is not None and asked.webhook_progress,
        )


def unknown_loras(folder: Path, loras: list[Lora]) -> tuple[FieldError, ...]:
    """An error for each LoRA that is neither one file nor a pair of them (`.high`, `.low`) in the folder."""
    files = {path.name for path in folder.glob("*.safetensors")} if folder.is_dir() else set()
    stems = {name.removesuffix(".safetensors") for name in files}
    pairs = {stem.removesuffix(".high") for stem in stems if stem.endswith(".high")}
    there = {stem for stem in stems if not stem.endswith((".high", ".low"))}
    there |= {pair for pair in pairs if f"{pair}.low" in stems}
    shown = ", ".join(sorted(there)[:_SHOWN_LORAS]) or "none"
    return tuple(
        FieldError(("body", "loras", place, "name"), f"there is no LoRA {lora.name!r}; there are: {shown}", "unknown")
        for place, lora in enumerate(loras)
        if lora.name not in there
    )
