"""A request with `count`: jobs that differ in their seeds alone. Must not know HTTP."""

from dataclasses import replace

from api.http.body import ReceivedRequest
from shared.catalogue.job_types import GenerationParams
from shared.errors import FieldError
from shared.jobs import ids
from shared.jobs.accepting import NewJob


def repeated(new: NewJob, count: int) -> list[NewJob]:
    """Return the job and those with the seeds after its own. Their pictures are still those of the first."""
    params = new.params
    assert isinstance(params, GenerationParams)
    further = [
        replace(
            new,
            id=job_id,
            params=params.model_copy(update={"seed": params.seed + place}),
            idempotency_key=None,  # that of the first job stands for all
            request_hash=None,
        )
        for place, job_id in enumerate(ids.new_ids(count - 1), start=1)
    ]
    return [new, *further]


def without_count(received: ReceivedRequest, where: str) -> ReceivedRequest:
    """Return the request with an error if it asks for several jobs. `where`: in what it is one of many."""
    if received.request.count == 1:
        return received
    msg = f"{received.request.count} is not possible in a {where}; allowed: 1. List a job for each seed instead"
    return replace(received, wrong=(*received.wrong, FieldError(("body", "count"), msg, "not_supported")))
