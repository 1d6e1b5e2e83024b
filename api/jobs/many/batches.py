"""The batch routes: submit, list, show and cancel batches, and get all files of one."""

import json
from collections.abc import Sequence
from typing import Any, Literal, cast

import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import Caller, caller_of, note_owner
from api.context import Context
from api.http import headers
from api.http.body import read_fields, validated
from api.http.query import JOB_ID
from api.http.responses import json_response
from api.jobs.handlers import publish_cancel
from api.jobs.many import batch_archive
from api.operation import Answer, Operation
from api.schemas.jobs import batches as schemas
from api.schemas.jobs.batches import BatchEnvelope, BatchesQuery, BatchRequest
from api.services.admission import batch_admission, gpu_limits
from api.services.admission.request_checks import refused_webhook
from shared import clock
from shared.database.tables import Batch as Row
from shared.errors import InvalidField, LimitReached, NotFound, StoreFull
from shared.jobs import accepting, batches, ids
from shared.jobs.batches import Accepted, NewBatch
from shared.jobs.ending import batch_ends
from shared.states import Scope

# A thousand jobs with the longest prompts in the usual encodings.
LIMIT_BYTES = 64 * 10**6


async def create_batch(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    fields = await read_fields(request, LIMIT_BYTES)
    # A few at a time, because each takes memory and a processor for a second.
    accepted = await anyio.to_thread.run_sync(_create, context, caller, fields, key, limiter=context.batches)
    batch = accepted.batch
    location = {"Location": f"/api/v1/batches/{batch.id}"}
    shown = await anyio.to_thread.run_sync(_shown, context, batch)
    if accepted.replayed:
        return json_response(shown, 200, {**location, "Idempotency-Replayed": "true"})
    return json_response(shown, 202, location)


def list_batches(context: Context, request: Request, query: BatchesQuery) -> Response:
    page = batches.page(context.database, only=caller_of(request).only, limit=query.limit, after=query.after)
    last = page.batches[-1].id if page.has_more else None
    data = [schemas.BatchSummary(**one) for one in _summaries(context, page.batches)]
    return json_response(schemas.BatchPage(data=data, has_more=page.has_more, next=last))


def get_batch(context: Context, request: Request, query: BaseModel) -> Response:
    return json_response(_shown(context, _visible(context, request)))


def cancel_batch(context: Context, request: Request, query: BaseModel) -> Response:
    batch = _visible(context, request)
    note_owner(request, batch.owner)
    batch, stopped = batches.cancel(context.database, batch.id, only=caller_of(request).only)
    publish_cancel(context, *stopped)
    return json_response(_shown(context, batch), 202)


async def get_archive(context: Context, request: Request, query: BaseModel) -> Response:
    batch = await anyio.to_thread.run_sync(_visible, context, request, limiter=context.reads)
    return await batch_archive.respond(context, request, batch, lambda: _summaries(context, [batch])[0])


def _create(context: Context, caller: Caller, fields: dict[str, Any], key: str | None) -> Accepted:
    body = validated(fields, BatchEnvelope)
    new = NewBatch(
        id=ids.new_id(),
        name=body.name,
        owner=caller.key_id,
        webhook_url=body.webhook_url,
        idempotency_key=caller.own_key(key),
        request_hash=accepting.digest(json.dumps(fields, sort_keys=True)),
    )
    if (row := batches.replayed(context.database, new)) is not None:
        return Accepted(row, replayed=True)
    context.storage.check_room()
    jobs = batch_admission.admit(context.admission, caller, body.jobs, _of_the_batch(context, body))
    try:
        gpu_limits.check_several(context.database, caller.limits, jobs)
        accepted = batches.accept(context.database, new, jobs)
    except (InvalidField, LimitReached, StoreFull):
        batch_admission.discard(context.admission, jobs)
        raise
    # After other errors the batch may exist, so its images stay. If it does not, the sweep removes them.
    if accepted.replayed:
        batch_admission.discard(context.admission, jobs)
    else:
        context.waker.wake()
    return accepted


def _of_the_batch(context: Context, body: BatchEnvelope) -> Sequence[Any]:
    return refused_webhook(body.webhook_url, context.settings) if body.webhook_url is not None else ()


def _visible(context: Context, request: Request) -> Row:
    batch_id = str(request.path_params["id"])
    if not JOB_ID.fullmatch(batch_id):
        raise NotFound("batch", batch_id)
    return batches.get(context.database, batch_id, only=caller_of(request).only)


def _shown(context: Context, batch: Row) -> schemas.Batch:
    members = batches.members(context.database, batch.id)
    jobs = [schemas.BatchJobState(id=one.id, status=one.status.value) for one in members]
    return schemas.Batch(**_summaries(context, [batch])[0], jobs=jobs)


def _summaries(context: Context, rows: Sequence[Row]) -> list[dict[str, Any]]:
    counts = batches.counts(context.database, [row.id for row in rows if row.finished_at is None])
    return [_summary(row, counts.get(row.id, {}), context.settings.public_path) for row in rows]


def _summary(row: Row, states: dict[str, int], public_path: str) -> dict[str, Any]:
    """Return the batch with the counts of its row, which deleted jobs do not change.

    Deleted jobs that still run count as running.
    """
    running = 0 if row.finished_at is not None else min(row.unended, states.get("running", 0))
    queued = min(row.unended - running, states.get("queued", 0)) if row.finished_at is None else 0
    running = row.unended - queued
    counts = schemas.BatchCounts(
        queued=queued, running=running, succeeded=row.succeeded, failed=row.failed, cancelled=row.cancelled
    )
    ended = batch_ends.end_of(row)
    status = ended.value if ended is not None else "queued" if queued == row.total else "running"
    return {
        "id": row.id,
        "name": row.name,
        "status": cast(Literal["queued", "running", "succeeded", "failed", "cancelled"], status),
        "total": row.total,
        "counts": counts,
        "percent": 100.0 * (row.total - row.unended) / row.total,
        "created_at": clock.iso(row.created_at) or "",
        "cancel_requested_at": clock.iso(row.cancel_at),
        "finished_at": clock.iso(row.finished_at),
        "artifacts_url": f"{public_path}/api/v1/batches/{row.id}/artifacts.zip",
    }


OPERATIONS = (
    Operation(
        "POST", "/api/v1/batches", create_batch, "createBatch", "Submit many jobs at once",
        answers=(
            Answer(202, "The batch.", schemas.Batch, headers=("Location",)),
            Answer(
                200, "The batch that was created earlier with this Idempotency-Key.", schemas.Batch,
                headers=("Location", "Idempotency-Replayed"),
            ),
        ),
        problems=(400, 413, 415, 503, 507), headers=("Idempotency-Key",), body=BatchRequest, scope=Scope.SUBMIT,
        description=f"Up to {batches.MOST_JOBS:,} jobs, at most {LIMIT_BYTES // 10**6} MB. They are accepted in one "
        "transaction or not at all; a refusal names the invalid fields of all jobs, as `jobs.17.params.frames`.",
    ),
    Operation(
        "GET", "/api/v1/batches", list_batches, "listBatches", "List batches, newest first",
        answers=(Answer(200, "A page of batches.", schemas.BatchPage),), problems=(503,), query=BatchesQuery,
        scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/batches/{id}", get_batch, "getBatch", "One batch",
        answers=(Answer(200, "The batch.", schemas.Batch),), problems=(404, 503), scope=Scope.READ,
    ),
    Operation(
        "POST", "/api/v1/batches/{id}/cancel", cancel_batch, "cancelBatch", "Cancel the jobs of a batch",
        answers=(Answer(202, "The batch. Its running jobs stop soon.", schemas.Batch),), problems=(404, 503),
        description="Jobs that have ended stay as they are. Repeating it has no further effect.", scope=Scope.SUBMIT,
    ),
    Operation(
        "GET", "/api/v1/batches/{id}/artifacts.zip", get_archive, "getBatchArtifacts",
        "Get all files of a batch as one archive",
        answers=(Answer(200, "A zip archive without compression.", media_type="application/zip"),),
        problems=(404, 503), scope=Scope.READ,
        description="It has a folder for each job that has succeeded, named by its id, and `manifest.json`, which "
        "lists the states of all jobs. Before the batch has ended, it has what there is so far. If a file is deleted "
        "while the archive is sent, the connection ends early.",
    ),
)  # fmt: skip
