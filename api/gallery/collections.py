"""The routes of favourites and collections, which belong to the caller's key, or to the local user without keys."""

import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import caller_of, note_owner
from api.context import Context
from api.gallery.videos import holder_of
from api.http.body import read_json
from api.http.query import JOB_ID, job_id_of
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas.jobs import gallery as schemas
from api.schemas.jobs.gallery import CollectionChange, CollectionRequest
from shared import clock
from shared.errors import NotFound
from shared.jobs.gallery import collections, favourites
from shared.jobs.gallery.collections import Counted
from shared.states import Scope


def mark(context: Context, request: Request, query: BaseModel) -> Response:
    caller = caller_of(request)
    job = favourites.mark(context.database, holder_of(caller), job_id_of(request), only=caller.only)
    note_owner(request, job.owner)
    return Response(status_code=204)


def unmark(context: Context, request: Request, query: BaseModel) -> Response:
    caller = caller_of(request)
    favourites.unmark(context.database, holder_of(caller), job_id_of(request), only=caller.only)
    return Response(status_code=204)


def list_collections(context: Context, request: Request, query: BaseModel) -> Response:
    found = collections.every(context.database, holder_of(caller_of(request)))
    return json_response(schemas.Collections(data=[_shown(one) for one in found]))


async def create(context: Context, request: Request, query: BaseModel) -> Response:
    body = await read_json(request, CollectionRequest)
    holder = holder_of(caller_of(request))
    row = await anyio.to_thread.run_sync(collections.create, context.database, holder, body.name)
    return json_response(_shown(Counted(row, 0)), 201, {"Location": f"/api/v1/collections/{row.id}"})


def get(context: Context, request: Request, query: BaseModel) -> Response:
    return json_response(_shown(collections.get(context.database, holder_of(caller_of(request)), _id_of(request))))


async def change(context: Context, request: Request, query: BaseModel) -> Response:
    collection_id = _id_of(request)
    body = await read_json(request, CollectionChange)
    return json_response(await anyio.to_thread.run_sync(_changed, context, request, collection_id, body))


def remove(context: Context, request: Request, query: BaseModel) -> Response:
    collections.remove(context.database, holder_of(caller_of(request)), _id_of(request))
    return Response(status_code=204)


def add_job(context: Context, request: Request, query: BaseModel) -> Response:
    _changed(context, request, _id_of(request), CollectionChange(add=[_job_of(request)]))
    return Response(status_code=204)


def remove_job(context: Context, request: Request, query: BaseModel) -> Response:
    _changed(context, request, _id_of(request), CollectionChange(remove=[_job_of(request)]))
    return Response(status_code=204)


def _changed(context: Context, request: Request, collection_id: str, body: CollectionChange) -> schemas.Collection:
    caller = caller_of(request)
    changed = collections.change(
        context.database,
        holder_of(caller),
        collection_id,
        name=body.name,
        add=body.add,
        remove=body.remove,
        only=caller.only,
    )
    return _shown(changed)


def _shown(counted: Counted) -> schemas.Collection:
    row = counted.collection
    created = clock.iso(row.created_at) or ""
    return schemas.Collection(id=row.id, name=row.name, videos=counted.videos, created_at=created)


def _id_of(request: Request) -> str:
    collection_id = str(request.path_params["id"])
    if not JOB_ID.fullmatch(collection_id):
        raise NotFound("collection", collection_id)
    return collection_id


def _job_of(request: Request) -> str:
    job_id = str(request.path_params["job_id"])
    if not JOB_ID.fullmatch(job_id):
        raise NotFound("job", job_id)
    return job_id


_KEPT = "The retention policy never removes a video that is anybody's favourite or in anybody's collection."

OPERATIONS = (
    Operation(
        "PUT", "/api/v1/jobs/{id}/favourite", mark, "markFavourite", "Make a finished video a favourite of yours",
        answers=(Answer(204, "It is a favourite.", media_type=None),), problems=(404, 409, 503), scope=Scope.SUBMIT,
        description=f"{_KEPT} Returns 409 if the job has no video, or there are {favourites.MOST:,} favourites.",
    ),
    Operation(
        "DELETE", "/api/v1/jobs/{id}/favourite", unmark, "unmarkFavourite", "Make a video no favourite of yours",
        answers=(Answer(204, "It is no favourite.", media_type=None),), problems=(404, 503), scope=Scope.SUBMIT,
    ),
    Operation(
        "GET", "/api/v1/collections", list_collections, "listCollections", "List your collections",
        answers=(Answer(200, "By name.", schemas.Collections),), problems=(503,), scope=Scope.READ,
        description=f"A key has at most {collections.MOST} collections of {collections.MOST_VIDEOS:,} videos each.",
    ),
    Operation(
        "POST", "/api/v1/collections", create, "createCollection", "Create a collection",
        answers=(Answer(201, "The empty collection.", schemas.Collection, headers=("Location",)),),
        problems=(400, 409, 413, 415, 503, 507), body=CollectionRequest, scope=Scope.SUBMIT,
        description=f"{_KEPT} Returns 409 if there is one of that name.",
    ),
    Operation(
        "GET", "/api/v1/collections/{id}", get, "getCollection", "One collection",
        answers=(Answer(200, "The collection.", schemas.Collection),), problems=(404, 503), scope=Scope.READ,
        description="`GET /api/v1/gallery?collection=ID` lists its videos.",
    ),
    Operation(
        "PATCH", "/api/v1/collections/{id}", change, "changeCollection", "Rename a collection, add and remove videos",
        answers=(Answer(200, "The collection.", schemas.Collection),),
        problems=(400, 404, 409, 413, 415, 503, 507), body=CollectionChange, scope=Scope.SUBMIT,
        description="All of it is done, or nothing.",
    ),
    Operation(
        "DELETE", "/api/v1/collections/{id}", remove, "deleteCollection", "Delete a collection, but not its videos",
        answers=(Answer(204, "The collection is deleted.", media_type=None),), problems=(404, 503), scope=Scope.SUBMIT,
    ),
    Operation(
        "PUT", "/api/v1/collections/{id}/jobs/{job_id}", add_job, "addToCollection", "Add a video to a collection",
        answers=(Answer(204, "It is in the collection.", media_type=None),), problems=(404, 409, 503),
        scope=Scope.SUBMIT,
    ),
    Operation(
        "DELETE", "/api/v1/collections/{id}/jobs/{job_id}", remove_job, "removeFromCollection",
        "Take a video out of a collection",
        answers=(Answer(204, "It is not in the collection.", media_type=None),), problems=(404, 503),
        scope=Scope.SUBMIT,
    ),
)  # fmt: skip
