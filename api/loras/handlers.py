"""The routes of the library of LoRAs."""

from collections.abc import Mapping
from typing import Any

import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import Caller, caller_of, note_owner
from api.context import Context
from api.http import headers
from api.http.body import read_json
from api.http.responses import json_response
from api.jobs.handlers import ACCEPTED
from api.jobs.node_jobs import accepted, keyed, live_nodes
from api.jobs.objects import job_objects
from api.loras.uploads import Received, received
from api.operation import Answer, Operation
from api.schemas import loras as schemas
from api.schemas.loras import FetchRequest, LoraChange, UploadQuery
from shared import clock
from shared.access import keys
from shared.catalogue.job_types import LORA_FETCH, LoraFetchParams
from shared.database.tables import StoredLora
from shared.errors import Conflict, InvalidField, UnsupportedMedia
from shared.jobs.accepting import NewJob
from shared.models.loras import folder, header, library
from shared.models.loras.library import NewFile
from shared.net import outbound
from shared.net.outbound import Allowed
from shared.states import Priority, Scope
from wanworks.net.urls import ForbiddenAddress

_TYPES = ("application/octet-stream", "application/x-safetensors")


def list_loras(context: Context, request: Request, query: BaseModel) -> Response:
    caller = caller_of(request)
    rows = library.visible(context.database, caller.only)
    known = {row.name for row in rows}
    names = _key_names(context)
    shown = [_shown(row, caller, names) for row in rows]
    shown += [_of_folder(name) for name in folder.names(context.settings.loras_dir) if name not in known]
    return json_response(schemas.Loras(data=sorted(shown, key=lambda one: one.name)))


def get_lora(context: Context, request: Request, query: BaseModel) -> Response:
    caller = caller_of(request)
    return json_response(_shown(_visible(context, request), caller, _key_names(context)))


async def upload_lora(context: Context, request: Request, query: UploadQuery) -> Response:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in _TYPES:
        raise UnsupportedMedia("The content type must be application/octet-stream, and the body the file itself")
    caller, settings = caller_of(request), context.settings
    await anyio.to_thread.run_sync(_check_name, context, query.name, query.expert, caller.key_id)
    spare = settings.min_free_disk_mb * 10**6
    async with received(request, settings.home / "uploads", settings.lora_max_mb * 10**6, spare) as file:
        row = await anyio.to_thread.run_sync(_add, context, query, file, caller)
    shown = await anyio.to_thread.run_sync(lambda: _shown(row, caller, _key_names(context)))
    return json_response(shown, 201, {"Location": f"/api/v1/loras/{row.id}"})


async def fetch_lora(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    body = await read_json(request, FetchRequest)
    return await anyio.to_thread.run_sync(_fetch, context, body, key, caller)


async def change_lora(context: Context, request: Request, query: BaseModel) -> Response:
    body = await read_json(request, LoraChange)
    return await anyio.to_thread.run_sync(_change, context, request, body)


def remove_lora(context: Context, request: Request, query: BaseModel) -> Response:
    row = _own(context, request)
    library.remove(context.database, row.id)
    return Response(status_code=204)


def _check_name(context: Context, name: str, expert: Any, owner: str | None) -> None:
    """Refuse a name that cannot be used before its file is sent."""
    if name in folder.names(context.settings.loras_dir):
        raise Conflict(f"The operator's folder of LoRAs has one named {name!r}; choose another name")
    library.check_name(context.database, name, expert, owner)


def _add(context: Context, query: UploadQuery, file: Received, caller: Caller) -> StoredLora:
    with file.path.open("rb") as content:
        described = header.read(content, file.bytes)
    context.storage.store().put_lora(file.sha256, file.path, lambda: None)
    new = NewFile(query.expert, file.sha256, file.bytes, described, "upload", "")
    return library.add(context.database, query.name, new, owner=caller.key_id, description=query.description)


def _fetch(context: Context, body: FetchRequest, key: str | None, caller: Caller) -> Response:
    _check_name(context, body.name, body.expert, caller.key_id)
    if body.url is not None:
        try:
            outbound.check_askable(body.url, Allowed.of(context.settings.outbound_allow))
        except ForbiddenAddress as error:
            raise InvalidField.of("url", f"{error.message}; give a public URL", error.code) from None
    node = live_nodes(context)[0]
    params = LoraFetchParams(node=node, with_token=caller.may(Scope.ADMIN), **body.model_dump())
    new = keyed(body, [NewJob(LORA_FETCH, params, Priority.NORMAL, max_failures=context.settings.max_failures)], key)
    (made,) = accepted(context, new, caller)
    extra = {"Location": f"/api/v1/jobs/{made.job.id}", **({"Idempotency-Replayed": "true"} if made.replayed else {})}
    return json_response(job_objects(context, [made.job])[0], 200 if made.replayed else 202, extra)


def _change(context: Context, request: Request, body: LoraChange) -> Response:
    row, caller, names = _own(context, request), caller_of(request), _key_names(context)
    changes: dict[str, Any] = body.model_dump(exclude_none=True)
    if body.shared_with is not None:
        ids = {name: key_id for key_id, name in names.items()}
        if unknown := [name for name in body.shared_with if name not in ids]:
            raise InvalidField.of("shared_with", f"there is no key named {unknown[0]!r}", "unknown")
        changes["shared_with"] = [ids[name] for name in body.shared_with]
    return json_response(_shown(library.change(context.database, row.id, changes), caller, names))


def _visible(context: Context, request: Request) -> StoredLora:
    return library.get(context.database, request.path_params["id"], caller_of(request).only)


def _own(context: Context, request: Request) -> StoredLora:
    """Return the LoRA if the caller may change it: its owner, or an administrator. Raises NotFound and Forbidden."""
    row, caller = _visible(context, request), caller_of(request)
    note_owner(request, row.owner)
    if row.owner != caller.key_id:
        caller.require(Scope.ADMIN)
    return row


def _key_names(context: Context) -> dict[str, str]:
    """Return the names of the keys that are not revoked, by id."""
    return {key.id: key.name for key in keys.every(context.database) if key.revoked_at is None}


def _shown(row: StoredLora, caller: Caller, key_names: Mapping[str, str]) -> schemas.Lora:
    may_change = row.owner == caller.key_id or caller.may(Scope.ADMIN)
    return schemas.Lora(
        id=row.id,
        name=row.name,
        description=row.description,
        source="library",
        files=[schemas.LoraFile.model_validate(file) for file in row.files],
        bytes=sum(file["bytes"] for file in row.files),
        mine=row.owner == caller.key_id,
        owner=key_names.get(row.owner) if row.owner is not None else None,
        shared=row.shared,
        shared_with=[key_names[one] for one in row.shared_with if one in key_names] if may_change else [],
        created_at=clock.iso(row.created_at),
    )


def _of_folder(name: str) -> schemas.Lora:
    return schemas.Lora(
        id=None, name=name, description="", source="folder", files=[], bytes=None, mine=False, owner=None, shared=True,
        shared_with=[], created_at=None,
    )  # fmt: skip


OPERATIONS = (
    Operation(
        "GET", "/api/v1/loras", list_loras, "listLoras", "List the LoRAs that requests may name",
        answers=(Answer(200, "By name.", schemas.Loras),), problems=(503,), tag="loras", scope=Scope.READ,
    ),
    Operation(
        "POST", "/api/v1/loras", upload_lora, "uploadLora", "Upload a LoRA",
        answers=(Answer(201, "The LoRA, with what its file's header tells.", schemas.Lora, headers=("Location",)),),
        problems=(400, 409, 413, 415, 503, 507), query=UploadQuery, tag="loras", scope=Scope.SUBMIT,
        description="The body is the file itself: safetensors, at most `WANWORKS_LORA_MAX_MB`. A file of a pair is "
        "sent with `expert`. The same file again changes nothing; files are never overwritten.", takes_file=True,
    ),
    Operation(
        "POST", "/api/v1/loras/fetch", fetch_lora, "fetchLora", "Fetch a LoRA from the hub or a URL",
        answers=ACCEPTED, problems=(400, 409, 413, 415, 503, 507), headers=("Idempotency-Key",), body=FetchRequest,
        description="Runs as a job. The installation's token for the hub serves keys with `admin` only.", tag="loras",
        scope=Scope.SUBMIT,
    ),
    Operation(
        "GET", "/api/v1/loras/{id}", get_lora, "getLora", "Get a LoRA",
        answers=(Answer(200, "The LoRA.", schemas.Lora),), problems=(404, 503), tag="loras", scope=Scope.READ,
    ),
    Operation(
        "PATCH", "/api/v1/loras/{id}", change_lora, "changeLora", "Describe a LoRA, or share it with other keys",
        answers=(Answer(200, "The LoRA.", schemas.Lora),), problems=(400, 403, 404, 413, 415, 503),
        body=LoraChange, tag="loras", scope=Scope.SUBMIT,
    ),
    Operation(
        "DELETE", "/api/v1/loras/{id}", remove_lora, "removeLora", "Remove a LoRA",
        answers=(Answer(204, "It is removed. Jobs that were accepted with it keep its files.", media_type=None),),
        problems=(403, 404, 503), tag="loras", scope=Scope.SUBMIT,
    ),
)  # fmt: skip
