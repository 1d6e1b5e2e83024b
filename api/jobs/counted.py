"""Accept a generation with `count`: a batch of jobs that differ in their seeds, in one transaction.

The first job carries the idempotency key, so that the key stands for one request, whatever its count.
"""

from collections.abc import Sequence

import anyio.to_thread
from starlette.responses import Response

from api.access.caller import Caller
from api.context import Context
from api.http.responses import json_response
from api.jobs.objects import job_objects
from api.schemas.jobs.counted import CountedJob
from api.services.admission import gpu_limits
from shared.errors import InvalidField, LimitReached, StoreFull
from shared.jobs import batches, ids, records
from shared.jobs.accepting import NewJob
from shared.jobs.batches import Accepted, NewBatch


async def accept(context: Context, jobs: Sequence[NewJob], caller: Caller) -> Response:
    """Store the jobs as a batch, and return the first. Raises LimitReached if the key has no room for all."""
    done = await anyio.to_thread.run_sync(_accepted, context, [caller.owning(one) for one in jobs], caller)
    shown = await anyio.to_thread.run_sync(_shown, context, done)
    location = {"Location": f"/api/v1/batches/{done.batch.id}"}
    if done.replayed:
        return json_response(shown, 200, {**location, "Idempotency-Replayed": "true"})
    return json_response(shown, 202, location)


def _accepted(context: Context, jobs: Sequence[NewJob], caller: Caller) -> Accepted:
    try:
        done = batches.replayed_first(context.database, jobs[0])
        if done is None:
            context.storage.check_room()
            gpu_limits.check_several(context.database, caller.limits, jobs)
            done = batches.accept(context.database, NewBatch(ids.new_id(), owner=caller.key_id), jobs)
    except (InvalidField, LimitReached, StoreFull):
        _discard(context, jobs)
        raise
    # After other errors the jobs may exist, so their pictures stay. If they do not, the sweep removes these.
    if done.replayed:
        _discard(context, jobs)
    else:
        context.waker.wake()
    return done


def _discard(context: Context, jobs: Sequence[NewJob]) -> None:
    for new in jobs:
        context.admission.discard(new)


def _shown(context: Context, done: Accepted) -> CountedJob:
    job_ids = [member.id for member in batches.members(context.database, done.batch.id)]
    first = records.get(context.database, done.first_id)
    return CountedJob(**job_objects(context, [first])[0].model_dump(), job_ids=job_ids)
