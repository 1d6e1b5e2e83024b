"""What may become a job: a well-formed request held against the catalogue, this installation's files and its disk.

Knows nothing of HTTP. What it lets through still has to be committed (`group_commit.py`) before anybody is told.
"""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

from api.http import images
from api.http.body import Asked
from api.services.fallbacks import Fallbacks
from api.services.storage import Storage
from shared.catalogue.job_types import GENERATION, JOB_TYPES, GenerationParams, settle
from shared.catalogue.models import Catalogue, CatalogueEntry
from shared.database.tables import Job
from shared.errors import Conflict, FieldError, InvalidField, NotFound, Unavailable
from shared.jobs import records
from shared.jobs.records import NewJob
from shared.net import outbound
from shared.net.outbound import Allowed
from shared.settings import Settings
from shared.states import JOB_ENDS, JobState, Priority
from wanworks.net.urls import ForbiddenAddress
from wanworks.requests import GenerationRequest, Lora

log = logging.getLogger("wanworks.admission")

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
        job_id = records.new_id()
        try:
            params = self._checked(asked, f"{job_id}/{_INPUT_NAME}")
        except InvalidField as error:
            known = any(one.loc[1:2] == ("image",) for one in error.errors)
            raise InvalidField(*error.errors, *(() if known else _of_the_image(asked))) from None
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
        job_id = records.new_id()
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
            try:
                self._storage.store().drop_job(new.id)
            except Unavailable as error:
                log.warning("the input of a request that made no job is for the sweep to remove: %s", error)

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

    def _checked(self, asked: Asked, image: str) -> GenerationParams:
        """The request settled. `image`: what its input is to be called. Raises InvalidField with all that is wrong."""
        request = asked.request
        wrong = [*asked.wrong]
        if request.loras:
            wrong += unknown_loras(self._settings.loras_dir, request.loras)
        if request.webhook_url is not None:
            wrong += _never_sent(request.webhook_url, self._settings)
        named = {one.loc[1:2] for one in asked.wrong}
        try:
            entry = self._entry(request.model_id)
            params = settle(request, entry, image if asked.image is not None or asked.image_left_out else None)
        except InvalidField as error:
            raise InvalidField(*wrong, *(one for one in error.errors if one.loc[1:2] not in named)) from None
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


def _of_the_image(asked: Asked) -> tuple[FieldError, ...]:
    """What is wrong with the image of a request that is refused in any case: it is told with the rest."""
    if asked.image is None:
        return ()
    try:
        images.normalise(asked.image)
    except InvalidField as error:
        return error.errors
    finally:
        images.give_memory_back()
    return ()


def _never_sent(url: str, settings: Settings) -> tuple[FieldError, ...]:
    """An error for an address that the guard of what goes out will never let through."""
    try:
        outbound.check_askable(url, Allowed.of(settings.outbound_allow))
    except ForbiddenAddress as error:
        msg = f"{error.message}, so nothing would ever be sent there; name a public one"
        return (FieldError(("body", "webhook_url"), msg, error.code),)
    return ()


def unknown_loras(folder: Path, loras: list[Lora]) -> tuple[FieldError, ...]:
    """An error for each LoRA of which the folder has neither a file nor one for high or low noise (`.high`, `.low`)."""
    stems = {path.stem for path in folder.glob("*.safetensors")} if folder.is_dir() else set()
    there = {stem.removesuffix(".high").removesuffix(".low") for stem in stems}
    shown = ", ".join(sorted(there)[:_SHOWN_LORAS]) or "none"
    return tuple(
        FieldError(("body", "loras", place, "name"), f"there is no LoRA {lora.name!r}; there are: {shown}", "unknown")
        for place, lora in enumerate(loras)
        if lora.name not in there
    )
