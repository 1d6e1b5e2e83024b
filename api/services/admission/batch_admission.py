"""Admit the jobs of a batch: all of them, or none. Must not know HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from api.access.caller import Caller
from api.http import body
from api.http.body import ReceivedRequest
from api.services.admission import repeating
from api.services.admission.admission import Admission
from shared.catalogue.job_types import GENERATION, GenerationParams
from shared.errors import FieldError, Forbidden, InvalidField, NotEnoughMemory, WanworksError
from shared.jobs import ids
from shared.jobs.accepting import NewJob

_MOST_ERRORS = 100


class _Entry(BaseModel):
    """One job as it is sent, before its parameters are read."""

    model_config = ConfigDict(extra="forbid")

    type: str = GENERATION
    params: dict[str, Any] = Field()


@dataclass
class _Errors:
    """The errors of all jobs, as far as they are reported."""

    found: list[FieldError]
    more: int = 0

    def add(self, place: int, errors: Sequence[FieldError], *, of_params: bool = True) -> None:
        for one in errors:
            if len(self.found) >= _MOST_ERRORS:
                self.more += 1
                continue
            inside = ("params",) if of_params else ()
            self.found.append(replace(one, loc=("body", "jobs", place, *inside, *one.loc[1:])))

    def check(self) -> None:
        if self.more:
            msg = f"{self.more} more fields are invalid; correct those that are named, and send the batch again"
            self.found.append(FieldError(("body", "jobs"), msg, "too_many_errors"))
        if self.found:
            raise InvalidField(*self.found)


def admit(
    admission: Admission, caller: Caller, entries: Sequence[Any], known: Sequence[FieldError] = ()
) -> list[NewJob]:
    """Return the jobs, in order. Their images are in the store then; `discard` removes them.

    `known`: errors of the batch itself, which are reported together with those of the jobs.

    Raises InvalidField with every invalid field of every job, StoreFull, StoreMismatch and DatabaseUnavailable.
    """
    errors = _Errors([*known])
    requests: list[ReceivedRequest] = []
    admitted: list[NewJob] = []
    job_ids = ids.new_ids(len(entries))
    with admission.for_many():
        for place, (entry, job_id) in enumerate(zip(entries, job_ids, strict=True)):
            if (request := _received(place, entry, caller, errors)) is not None:
                requests.append(request)
                if (new := _checked(admission, caller, place, request, job_id, errors)) is not None:
                    admitted.append(new)
        errors.check()
        return _stored(admission, caller, requests, admitted)


def discard(admission: Admission, jobs: Sequence[NewJob]) -> None:
    """Remove the inputs of jobs that were not created."""
    for new in jobs:
        admission.discard(new)


def _received(place: int, entry: Any, caller: Caller, errors: _Errors) -> ReceivedRequest | None:
    try:
        read = body.validated(entry, _Entry) if isinstance(entry, dict) else None
        if read is None:
            raise InvalidField(FieldError(("body",), "must be a JSON object with `params`", "dict_type"))
        if read.type != GENERATION:
            msg = f"{read.type[:100]!r} is not possible in a batch; allowed: {GENERATION}"
            raise InvalidField(FieldError(("body", "type"), msg, "not_supported"))
    except InvalidField as error:
        errors.add(place, error.errors, of_params=False)
        return None
    try:
        received = repeating.without_count(body.received(read.params), "batch")
        try:
            caller.check_priority(received.request)
        except InvalidField as error:
            received = replace(received, wrong=(*received.wrong, *error.errors))
    except InvalidField as error:
        errors.add(place, error.errors)
        return None
    return received


def _checked(
    admission: Admission, caller: Caller, place: int, request: ReceivedRequest, job_id: str, errors: _Errors
) -> NewJob | None:
    """Return the job without storing anything. Note why it cannot be admitted."""
    try:
        return admission.generation(request, None, caller.limits, only=caller.only, dry_run=True, job_id=job_id)
    except InvalidField as error:
        errors.add(place, error.errors)
    except Forbidden as error:
        errors.add(place, [FieldError(("body", "model_id"), error.message.removeprefix("model_id: "), error.code)])
    except NotEnoughMemory as error:
        errors.add(place, [FieldError(("body",), error.message, error.code)])
    return None


def _stored(
    admission: Admission, caller: Caller, requests: Sequence[ReceivedRequest], admitted: Sequence[NewJob]
) -> list[NewJob]:
    """Store the images, and start the downloads that fallbacks need."""
    jobs: list[NewJob] = []
    try:
        for request, new in zip(requests, admitted, strict=True):
            needs_more = bool(request.pictures) or (
                isinstance(new.params, GenerationParams) and bool(new.params.fallback_applied)
            )
            if needs_more:
                new = admission.generation(request, None, caller.limits, only=caller.only, job_id=new.id)
            jobs.append(caller.owning(new))
    except WanworksError:
        discard(admission, [*jobs, *admitted[len(jobs) : len(jobs) + 1]])
        raise
    return jobs
