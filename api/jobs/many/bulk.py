"""Do something to all jobs that match a filter: at once, or as a job where there are many."""

from functools import partial

import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import Caller, caller_of, note_owner
from api.context import Context
from api.http import headers
from api.http.body import read_json
from api.http.responses import json_response
from api.jobs.handlers import owner_of
from api.operation import Answer, Operation
from api.schemas.jobs.bulk import BulkRequest, BulkResult
from api.services.bulk.actions import Action
from shared.catalogue.job_types import BULK, BulkParams
from shared.jobs import accepting, bulk, ids
from shared.jobs.accepting import Accepted, NewJob
from shared.jobs.bulk import Selection, Tally
from shared.states import Priority, Scope

AT_ONCE = 200  # with more jobs than this it becomes a job
_SHOWN = 20
_ATTEMPTS = 100  # each is an interruption of a web process
_EVERYONE = "*"  # no key has this id, so that the request is audited


async def act(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    body = await read_json(request, BulkRequest)
    return await anyio.to_thread.run_sync(partial(_act, context, request, caller, body, key))


def _act(context: Context, request: Request, caller: Caller, body: BulkRequest, key: str | None) -> Response:
    if body.priority is not None:
        caller.check_ceiling(body.priority)
    filters = body.filter.model_dump(exclude={"all", "key"})
    only = owner_of(context, caller, body.filter.key, "body")
    # Later jobs did not exist yet, so they are not meant.
    which = Selection(only=only, upto=ids.new_id(), **filters)
    action = Action(body.action, which, body.priority, of_nodes=caller.may(Scope.ADMIN))
    if body.dry_run:
        first = bulk.following(context.database, which, None, _SHOWN)
        matched = bulk.count(context.database, which)
        fit = bulk.count_fit(context.database, body.action, which, priority=body.priority, of_nodes=action.of_nodes)
        return json_response(_result(body, Tally(matched), ids=[job.id for job in first], would_change=fit))
    note_owner(request, _EVERYONE)
    few = bulk.count(context.database, which, most=AT_ONCE + 1)
    if few > AT_ONCE:
        return _as_job(context, caller, body, action, key)
    tally = Tally(few)
    while (further := context.bulk_actions.step(action, tally)) is not None:
        tally = further
    return json_response(_result(body, tally))


def _as_job(context: Context, caller: Caller, body: BulkRequest, action: Action, key: str | None) -> Response:
    """Create the job that carries it out. It counts as one queued job, but no limit of the key refuses it."""
    params = BulkParams(
        action=body.action, filter=bulk.filter_of(action.which), priority=body.priority, of_nodes=action.of_nodes
    )
    stored = body.model_dump_json(exclude_unset=True)
    new = NewJob(
        BULK, params, Priority.HIGH, max_failures=_ATTEMPTS, retry_backoff_seconds=0.0, owner=caller.key_id,
        idempotency_key=caller.own_key(key), request_hash=accepting.digest(stored) if key is not None else None,
    )  # fmt: skip
    (outcome,) = accepting.accept(context.database, [new])
    if not isinstance(outcome, Accepted):
        raise outcome
    context.bulk_runner.wake()
    matched = bulk.count(context.database, action.which)
    job_id = outcome.job.id
    extra = {"Location": f"/api/v1/jobs/{job_id}"}
    if outcome.replayed:
        extra["Idempotency-Replayed"] = "true"
    return json_response(_result(body, Tally(matched), job_id=job_id), 202, extra)


def _result(
    body: BulkRequest,
    tally: Tally,
    *,
    ids: list[str] | None = None,
    job_id: str | None = None,
    would_change: int | None = None,
) -> BulkResult:
    return BulkResult(
        dry_run=body.dry_run,
        action=body.action,
        matched=tally.matched,
        would_change=would_change,
        changed=tally.changed,
        skipped=tally.skipped,
        detail=tally.detail,
        ids=ids or [],
        job_id=job_id,
    )


OPERATIONS = (
    Operation(
        "POST", "/api/v1/jobs/bulk", act, "bulkJobs", "Cancel, retry, delete or reorder all jobs that match a filter",
        answers=(
            Answer(200, "What was done; of a dry run, what would be.", BulkResult),
            Answer(
                202, f"More than {AT_ONCE} jobs match, so a job of the type `bulk` carries it out.", BulkResult,
                headers=("Location",), at_times=("Idempotency-Replayed",),
            ),
        ),
        problems=(400, 413, 415, 503), headers=("Idempotency-Key",), body=BulkRequest, scope=Scope.SUBMIT,
        description="It acts on the caller's own jobs that exist when the request comes; with `admin`, on those of "
        "all keys, or of the key in the filter. All limits of the keys hold: a retry beyond one is left out. It is "
        "recorded in the audit.",
    ),
)  # fmt: skip
