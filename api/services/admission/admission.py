"""Admit jobs: check a parsed request against the catalogue, the LoRA files and the disk.

Must not know HTTP. An admitted job must still be committed (`group_commit.py`) before the client gets a response.
"""

import hashlib
import logging
import secrets
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from api.access import key_limits
from api.http import images
from api.http.body import ReceivedRequest
from api.services.admission import repeating, request_checks, retry_rules
from api.services.admission.fallbacks import Fallbacks
from api.services.admission.lora_names import LoraNames
from api.services.admission.memory_check import MemoryCheck
from api.services.storage import Storage
from shared.access.keys import Limits
from shared.catalogue.job_types import BULK, GENERATION, JOB_TYPES, FrameOf, GenerationParams
from shared.catalogue.models import Catalogue, CatalogueEntry
from shared.catalogue.resolving import resolve
from shared.database.tables import Job
from shared.errors import Conflict, FieldError, Forbidden, InvalidField, NotFound, Unavailable, WanworksError
from shared.jobs import ids
from shared.jobs.accepting import NewJob
from shared.models.memory_plan import Needs
from shared.settings import Settings
from shared.states import JOB_ENDS, JobState, Priority
from wanworks.requests import MAX_SEED, GenerationRequest

log = logging.getLogger("wanworks.admission")

_INPUT_NAMES = {"image": "image.png", "last_image": "last-image.png"}
_UNLIMITED = Limits()


class Admission:
    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        storage: Storage,
        fallbacks: Fallbacks,
        memory: MemoryCheck,
        loras: LoraNames,
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._storage = storage
        self._fallbacks = fallbacks
        self._memory = memory
        self._loras = loras

    def is_quick(self, received: ReceivedRequest) -> bool:
        """Return whether `generation` does no I/O for this request, so that it may run on the event loop."""
        request = received.request
        if received.pictures or request.loras or request.fallback:
            return False
        if request.devices_per_job is None or request.devices_per_job > 1:
            named = (one for one in self._catalogue.entries if one.model_id == request.model_id)
            if request.devices_per_job or any(one.devices_per_job > 1 for one in named):
                return False
        return self._memory.is_quick(request.model_id, request.quantization)

    def generation(
        self,
        received: ReceivedRequest,
        key: str | None,
        limits: Limits = _UNLIMITED,
        *,
        dry_run: bool = False,
        job_id: str | None = None,
        only: str | None = None,
    ) -> NewJob:
        """Return the requested job. Its pictures are already in the store; `discard` removes them.

        `limits`: of the caller's key. `dry_run`: check everything, but store nothing and start no download. `job_id`:
        the id of the job, if it is chosen already. `only`: the key whose LoRAs it may use, besides shared ones; None:
        all.

        Raises InvalidField with every invalid field, Forbidden, NotEnoughMemory, StoreFull, StoreMismatch or
        DatabaseUnavailable.
        """
        request = received.request
        job_id = job_id or ids.new_id()
        try:
            params = self._checked(received, job_id, limits, only)
        except InvalidField as error:
            known = {one.loc[1] for one in error.errors if len(one.loc) > 1}
            raise InvalidField(*error.errors, *request_checks.wrong_pictures(received, known)) from None
        new = self._new_job(job_id, request, params, request.priority, request.metadata, limits, dry_run=dry_run)
        if dry_run:
            self._storage.check_room()
        if received.pictures:
            try:
                self._keep(job_id, received.pictures, dry_run=dry_run)
            finally:
                images.give_memory_back()
        return new if key is None else replace(new, idempotency_key=key, request_hash=received.digest())

    def repeated(self, new: NewJob, count: int, *, dry_run: bool = False) -> list[NewJob]:
        """Return the admitted job and those with the seeds after its own, each with pictures of its own in the store.

        Raises NotFound, StoreFull and StoreUnavailable; nothing is left then, or the sweep removes it.
        """
        jobs = repeating.repeated(new, count)
        if dry_run or not isinstance(new.params, GenerationParams) or not new.params.has_inputs:
            return jobs
        made = [new]
        try:
            for job in jobs[1:]:
                names = {field: name for field, name in _INPUT_NAMES.items() if getattr(new.params, field) is not None}
                references = {
                    field: self._storage.store().copy_input(getattr(new.params, field), job.id, name)
                    for field, name in names.items()
                }
                made.append(replace(job, params=job.params.model_copy(update=references)))
        except WanworksError:
            for job in (*made, *jobs[len(made) : len(made) + 1]):
                self.discard(job)
            raise
        return made

    def for_many(self) -> AbstractContextManager[None]:
        """Return a context in which many jobs are admitted by one thread, which share what is read for them."""
        return self._fallbacks.for_many()

    def retry(
        self,
        job: Job,
        key: str | None,
        limits: Limits = _UNLIMITED,
        *,
        in_flow: bool = False,
        new_seed: bool = False,
    ) -> NewJob:
        """Return a repetition of an ended job, under the limits of the caller's key.

        `in_flow`: it takes the job's place in its flow; else it belongs to none, and has the same input picture.
        `new_seed`: another seed is drawn.

        Raises Conflict if it has not ended or is not possible any more, and Forbidden if the limits refuse it.
        """
        if job.status not in JOB_ENDS:
            raise Conflict(f"The job is {job.status}. Only jobs that have ended can be retried.")
        if job.type == BULK:
            raise Conflict("An action on many jobs cannot be retried. Send its request again.")
        if new_seed and job.type != GENERATION:
            raise Conflict("The job has no seed: only generations can be repeated with a new one.")
        again = self._generation_again
        new = again(job, limits, in_flow=in_flow) if job.type == GENERATION else self._node_work_again(job)
        request = f"retry:{job.id}"
        if new_seed:
            new = replace(new, params=new.params.model_copy(update={"seed": secrets.randbelow(MAX_SEED + 1)}))
            request = f"{request}:new_seed"
        return replace(new, retry_of=job.id, idempotency_key=key, request_hash=request if key else None)

    def remix(self, job: Job, prompt: str, key: str | None, limits: Limits = _UNLIMITED) -> NewJob:
        """Return a job with another prompt and the same settings, seed and image. Raises Conflict without a video."""
        if job.status != JobState.SUCCEEDED:
            raise Conflict(f"The job is {job.status}. Only jobs that have succeeded can be remixed.")
        new = self._generation_again(job, limits)
        params = new.params.model_copy(update={"prompt": prompt, "remixed_from": job.id})
        digest = hashlib.sha256(f"remix:{job.id}:{prompt}".encode()).hexdigest()
        return replace(new, params=params, idempotency_key=key, request_hash=digest if key is not None else None)

    def _generation_again(self, job: Job, limits: Limits, *, in_flow: bool = False) -> NewJob:
        params = GenerationParams.model_validate(job.params)
        awaited = _awaited(params) if in_flow else {}
        if not in_flow:
            params = _without_flow(params)
        if gone := self._loras.gone(params.lora_files):
            raise Conflict(f"The job cannot be repeated, because its LoRAs were removed: {', '.join(gone)}")
        key_limits.check_model(limits, params.model_id)
        if wrong := key_limits.wrong_fields(limits, params):
            raise Forbidden("; ".join(f"{one.loc[-1]}: {one.msg}" for one in wrong))
        job_id = ids.new_id()
        try:
            # They count for its needs, and come later.
            params = params.model_copy(update={field: _reference(job_id, field) for field in awaited})
            new = self._new_job(job_id, None, params, list(Priority)[job.priority], job.labels, limits)
            new = replace(
                new,
                webhook_url=job.webhook_url,
                webhook_progress=job.webhook_progress,
                max_failures=job.max_failures,
                retry_backoff_seconds=job.retry_backoff_seconds,
            )
            changes: dict[str, Any] = {}
            for field in _INPUT_NAMES:
                if field in awaited:
                    changes |= {field: None, f"{field}_sha256": None}
                elif (reference := getattr(params, field)) is not None:
                    self._storage.check_room()
                    changes[field] = self._storage.store().copy_input(reference, job_id, _INPUT_NAMES[field])
            new = replace(new, params=new.params.model_copy(update=changes))
        except NotFound as error:
            raise Conflict(f"The job cannot be repeated, because its {error.kind} does not exist any more") from None
        return new

    def _node_work_again(self, job: Job) -> NewJob:
        if (job_type := JOB_TYPES.get(job.type)) is None:
            raise Conflict(
                f"This version does not know jobs of type {job.type}, so it cannot retry one. Upgrade the server."
            )
        # The hub is asked again which commit to fetch.
        params = {name: value for name, value in job.params.items() if name != "sha"}
        return NewJob(
            type=job.type,
            params=job_type.params.model_validate(params),
            priority=list(Priority)[job.priority],
            metadata=job.labels,
            max_failures=job.max_failures,
            retry_backoff_seconds=job.retry_backoff_seconds,
            min_vram_mb=job.min_vram_mb,
            min_ram_mb=job.min_ram_mb,
            memory_needs=job.memory_needs,
            bandwidth_mbps=job.bandwidth_mbps,
        )

    def discard(self, new: NewJob) -> None:
        """Remove the inputs of a job that was not created from the store."""
        if isinstance(new.params, GenerationParams) and new.params.has_inputs:
            try:
                self._storage.store().drop_job(new.id)
            except Unavailable as error:
                log.warning("the input of a refused job could not be removed; the sweep will remove it: %s", error)

    def _keep(self, job_id: str, pictures: Mapping[str, bytes], *, dry_run: bool) -> None:
        """Store the pictures: all of them or none."""
        self._storage.check_room()
        wrong: list[FieldError] = []
        normal = {}
        for field, content in pictures.items():
            try:
                normal[field] = images.normalise(content, field)
            except InvalidField as error:
                wrong += error.errors
        if wrong:
            raise InvalidField(*wrong)
        for field, content in normal.items() if not dry_run else ():
            self._storage.store().put_input(job_id, _INPUT_NAMES[field], content)

    def _entry(self, model_id: str) -> CatalogueEntry:
        try:
            return self._catalogue.get(model_id)
        except NotFound:
            offered = ", ".join(self._catalogue.model_ids)
            raise InvalidField.of(
                "model_id", f"there is no model {model_id!r}; available: {offered}", "unknown"
            ) from None

    def _checked(self, received: ReceivedRequest, job_id: str, limits: Limits, only: str | None) -> GenerationParams:
        """Return the parameters with defaults filled in, and with the names that the pictures will have in the store.

        Raises InvalidField with every invalid field, and Forbidden for a model that the key may not use.
        """
        request = received.request
        wrong = [*received.wrong, *retry_rules.wrong_fields(self._settings, request)]
        lora_files, unknown = self._loras.files(request.loras, only)
        wrong += unknown
        if request.webhook_url is not None:
            wrong += request_checks.refused_webhook(request.webhook_url, self._settings)
        wrong += request_checks.impossible_times(request)
        named = {one.loc[1:2] for one in received.wrong}
        try:
            entry = self._entry(request.model_id)
            has_image = received.image is not None or received.image_left_out
            has_last = received.last_image is not None or received.last_image_left_out
            key_limits.check_model(limits, entry.model_id)
            params = resolve(
                request,
                entry,
                _reference(job_id, "image") if has_image else None,
                self._settings.default_speed,
                last_image=_reference(job_id, "last_image") if has_last else None,
                picture=request_checks.shape_of_the_image(received),
            )
            wrong += [one for one in key_limits.wrong_fields(limits, params) if one.loc[1:2] not in named]
        except InvalidField as error:
            raise InvalidField(*wrong, *(one for one in error.errors if one.loc[1:2] not in named)) from None
        if wrong:
            raise InvalidField(*wrong)
        return params.model_copy(update={"lora_files": lora_files}) if lora_files else params

    def _new_job(
        self,
        job_id: str,
        request: GenerationRequest | None,
        params: GenerationParams,
        priority: Priority,
        metadata: dict[str, str],
        limits: Limits,
        *,
        dry_run: bool = False,
    ) -> NewJob:
        permits = partial(key_limits.permits, limits)
        params, mock = self._fallbacks.apply(request, params, priority, permits, dry_run=dry_run)
        needs, vram, ram = "", 0, 0
        if not mock:
            needs = self._memory.check(request, params)
            vram, ram = Needs.read(needs).least_mb
        return NewJob(
            type=GENERATION,
            params=params,
            priority=priority,
            min_vram_mb=vram,
            min_ram_mb=ram,
            memory_needs=needs,
            id=job_id,
            mock=mock,
            metadata=metadata,
            max_failures=retry_rules.attempts(self._settings, request),
            retry_backoff_seconds=request.retry_backoff_seconds if request is not None else None,
            webhook_url=request.webhook_url if request is not None else None,
            webhook_progress=request is not None and request.webhook_progress,
            start_after=_seconds(request.start_after) if request is not None else None,
            start_before=_seconds(request.start_before) if request is not None else None,
        )


def _without_flow(params: GenerationParams) -> GenerationParams:
    """Return the parameters of a job outside of its flow. Raises Conflict if it never got one of its pictures."""
    changes: dict[str, Any] = {"keep_frames": ()}
    for field, taken in _awaited(params).items():
        if getattr(params, field) is None:
            raise Conflict(
                f"The job never got its picture, a frame of the job {taken.job!r} of its flow; retry the flow"
            )
        changes |= {f"{field}_of": None, f"{field}_sha256": None}
    return params.model_copy(update=changes)


def _awaited(params: GenerationParams) -> dict[str, FrameOf]:
    """Return the frames of other jobs that are its pictures, by field."""
    taken = {"image": params.image_of, "last_image": params.last_image_of}
    return {field: frame for field, frame in taken.items() if frame is not None}


def _reference(job_id: str, field: str) -> str:
    """Return the name that the picture has in the store."""
    return f"{job_id}/{_INPUT_NAMES[field]}"


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
