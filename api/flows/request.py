"""Turn a requested flow into jobs: every job is checked as it would be alone, and the flow as a whole."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from api.access.caller import Caller
from api.context import Context
from api.flows import graph
from api.flows.graph import Place
from api.http.body import ReceivedRequest, received, validated
from api.http.errors import invalid
from api.jobs import node_jobs
from api.schemas.jobs.flows import MAX_JOBS, FlowJobRequest, FlowRequest, ImageFrom
from api.schemas.jobs.node_jobs import DownloadRequest, IntegrityCheckRequest, PrepareRequest
from api.schemas.models.cleanup import CleanupRequest
from api.services.admission import repeating
from api.services.admission.request_checks import refused_webhook
from shared.catalogue.job_types import DOWNLOAD, GENERATION, FrameOf, GenerationParams
from shared.errors import FieldError, Forbidden, InvalidField, NotEnoughMemory, NotFound, RequestError
from shared.jobs import ids
from shared.jobs.accepting import NewJob
from shared.jobs.flows.accepting import NewFlow, NewNode
from shared.states import Scope
from wanworks.requests import WebhookUrl

_BODIES: Mapping[str, tuple[type[BaseModel], Callable[[Context, Any], Sequence[NewJob]]]] = {
    "download": (DownloadRequest, node_jobs.downloads),
    "integrity-check": (IntegrityCheckRequest, node_jobs.integrity_checks),
    "cleanup": (CleanupRequest, node_jobs.cleanups),
    "prepare": (PrepareRequest, node_jobs.preparations),
}
_PICTURES = ("image", "last_image")
_WEBHOOK: TypeAdapter[str | None] = TypeAdapter(WebhookUrl)


@dataclass
class _Read:
    """A job of the request, as far as it is valid."""

    place: Place
    type: str | None
    params: dict[str, Any] | None
    on_failure: str = "skip"
    generation: ReceivedRequest | None = None
    job: NewJob | None = None


def admitted(context: Context, fields: dict[str, Any], caller: Caller) -> NewFlow:
    """Return the requested flow. The images of its jobs are in the store then; `discard` removes them.

    Raises InvalidField with every invalid field of every job, Forbidden, NotEnoughMemory, Conflict, StoreFull.
    """
    wrong = _schema_errors(fields)
    jobs = fields.get("jobs")
    if not isinstance(jobs, list) or not 1 <= len(jobs) <= MAX_JOBS:
        raise InvalidField(*wrong)
    wrong += _wrong_webhook(context, fields)
    reads = [_read(index, raw, wrong) for index, raw in enumerate(jobs)]
    wrong += graph.wrong_fields([read.place for read in reads])
    refusals: list[RequestError] = []
    for read in reads:
        try:
            _check(context, read, caller)
        except InvalidField as error:
            wrong += [_of_params(read.place.index, one) for one in error.errors]
        except NotFound as error:
            wrong.append(_params_error(read.place.index, "model_id", error.message, "unknown"))
        except RequestError as error:
            refusals.append(_named(read, error))
    wrong += _wrong_frames(reads) + _downloads_twice(reads)
    if wrong:
        raise InvalidField(*wrong)
    if refusals:  # what the key may not do first
        raise next((one for one in refusals if isinstance(one, Forbidden)), refusals[0])
    return _made(context, FlowRequest.model_validate(fields), reads, caller)


def discard(context: Context, new: NewFlow) -> None:
    """Remove the images of a flow that was not created from the store."""
    for node in new.nodes:
        context.admission.discard(node.job)


def _schema_errors(fields: dict[str, Any]) -> list[FieldError]:
    try:
        FlowRequest.model_validate(fields)
    except ValidationError as error:
        return list(invalid(error, "body", FlowRequest).errors)
    return []


def _wrong_webhook(context: Context, fields: dict[str, Any]) -> list[FieldError]:
    try:
        url = _WEBHOOK.validate_python(fields.get("webhook_url"))
    except ValidationError:
        return []  # the schema has said so
    return [] if url is None else list(refused_webhook(url, context.settings))


def _read(index: int, raw: Any, wrong: list[FieldError]) -> _Read:
    """Return what is valid of a job; the errors of the schema are known. Adds those of its pictures."""
    if not isinstance(raw, dict):
        return _Read(Place(index, None, (), {}, False), None, None)
    kept = dict(raw)
    try:
        FlowJobRequest.model_validate(raw)
    except ValidationError as error:
        for one in error.errors():
            kept.pop(str(one["loc"][0]) if one["loc"] else "", None)
    names = kept.get("depends_on", ())
    type = kept.get("type", "generation" if "type" not in raw else None)
    params = dict(kept["params"]) if isinstance(kept.get("params"), dict) else None
    given = [field for field in _PICTURES if type == GENERATION and params and isinstance(params.get(field), dict)]
    frames = {}
    for field in given:
        assert params is not None
        try:
            frames[field] = ImageFrom.model_validate(params.pop(field))
        except ValidationError as error:
            wrong += [_of_params(index, one, field) for one in invalid(error, "body", ImageFrom).errors]
    place = Place(index, kept.get("name"), tuple(names), frames, type in (GENERATION, None))
    read = _Read(place, type, params, kept.get("on_failure", "skip"))
    if params is not None and type == GENERATION:
        try:
            generation = repeating.without_count(received(params), "flow")
            if "image" in given and generation.request.fit == "auto":
                msg = "'auto' is not possible with a frame of another job, which has the size of that job; give its "
                msg += "size as `resolution`, or use 'cover' or 'contain'"
                wrong.append(_params_error(index, "fit", msg, "not_supported"))
            read.generation = replace(
                generation,
                image_left_out=generation.image_left_out or "image" in given,
                last_image_left_out=generation.last_image_left_out or "last_image" in given,
            )
        except InvalidField as error:
            wrong += [_of_params(index, one) for one in error.errors]
    return read


def _check(context: Context, read: _Read, caller: Caller) -> None:
    """Check the job as its own route would, and keep it. Stores nothing and starts no download."""
    if read.generation is not None:
        found = read.generation
        try:
            caller.check_priority(found.request)
        except InvalidField as error:
            found = replace(found, wrong=(*found.wrong, *error.errors))
        read.job = context.admission.generation(found, None, caller.limits, only=caller.only, dry_run=True)
        return
    if read.params is None or read.type is None or read.type not in _BODIES:
        return
    caller.require(Scope.ADMIN)
    model, build = _BODIES[read.type]
    body = validated(read.params, model)
    jobs = build(context, body)
    if len(jobs) != 1:
        raise InvalidField.of("node", "is required in a flow, because several nodes are online; name one", "missing")
    if "priority" in body.model_fields_set:
        caller.check_ceiling(getattr(body, "priority"))  # noqa: B009
    read.job = jobs[0]


def _wrong_frames(reads: Sequence[_Read]) -> list[FieldError]:
    """Return an error for each frame by number that the other job's video does not have."""
    made = {read.place.name: read.job for read in reads if read.job is not None}
    wrong = []
    for read in reads:
        for field, taken in read.place.frames.items():
            job = made.get(taken.job)
            if job is None or not isinstance(job.params, GenerationParams):
                continue
            if isinstance(taken.frame, int) and taken.frame >= job.params.frames:
                allowed = f"first, last, 0 to {job.params.frames - 1}"
                msg = f"{taken.frame} is not a frame of {taken.job!r}; allowed: {allowed}"
                wrong.append(FieldError(("body", "jobs", read.place.index, "params", field, "frame"), msg, "no_frame"))
    return wrong


def _downloads_twice(reads: Sequence[_Read]) -> list[FieldError]:
    first: dict[tuple[Any, Any], int] = {}
    wrong = []
    for read in reads:
        if read.job is None or read.job.type != DOWNLOAD:
            continue
        what = (getattr(read.job.params, "model_id", None), getattr(read.job.params, "node", None))
        if what in first:
            msg = f"jobs.{first[what]} downloads the same model to the same node; one download at a time is allowed"
            wrong.append(_params_error(read.place.index, "model_id", msg, "duplicate"))
        first.setdefault(what, read.place.index)
    return wrong


def _made(context: Context, request: FlowRequest, reads: Sequence[_Read], caller: Caller) -> NewFlow:
    """Return the flow. Its images are stored, and fallbacks are carried out, which may start downloads."""
    flow_id = ids.new_id()
    kept: dict[str, list[Any]] = {}
    for read in reads:
        for taken in read.place.frames.values():
            if taken.frame not in kept.setdefault(taken.job, []):
                kept[taken.job].append(taken.frame)
    nodes: list[NewNode] = []
    try:
        for read in reads:
            job = read.job
            assert job is not None
            assert read.place.name is not None
            frames = read.place.frames
            if read.generation is not None:
                job = context.admission.generation(read.generation, None, caller.limits, only=caller.only)
                changes: dict[str, Any] = {"keep_frames": tuple(kept.get(read.place.name, ()))}
                for field, taken in frames.items():
                    changes |= {field: None, f"{field}_of": FrameOf(job=taken.job, frame=taken.frame)}
                job = replace(job, params=job.params.model_copy(update=changes))
            names = read.place.all_names
            owned = replace(caller.owning(job), flow_id=flow_id, depends=bool(names))
            first, last = (frames[field].model_dump() if field in frames else None for field in _PICTURES)
            nodes.append(NewNode(read.place.name, owned, names, first, last, read.on_failure))
    except BaseException:
        discard(context, NewFlow(flow_id, tuple(nodes)))
        raise
    return NewFlow(
        flow_id,
        tuple(nodes),
        name=request.name,
        owner=caller.key_id,
        webhook_url=request.webhook_url,
        labels=request.metadata,
    )


def _of_params(index: int, error: FieldError, *within: str) -> FieldError:
    """Return the error of a field of a job's own body as one of the flow's body."""
    return FieldError(("body", "jobs", index, "params", *within, *error.loc[1:]), error.msg, error.type)


def _params_error(index: int, field: str, msg: str, kind: str) -> FieldError:
    return FieldError(("body", "jobs", index, "params", field), msg, kind)


def _named(read: _Read, error: RequestError) -> RequestError:
    """Return the refusal of one job, with the job's place and name in the message."""
    message = f"jobs.{read.place.index} ({read.place.name}): {error.message}"
    if isinstance(error, NotEnoughMemory):
        return NotEnoughMemory(message, error.missing, error.alternatives)
    return type(error)(message)
