"""Nodes as operators handle them: what is there, drain one, let it work again, forget one that has gone."""

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api import ops, schemas
from api.caller import Caller, caller_of
from api.context import Context
from api.jobs import answered
from shared.cluster import nodes
from shared.errors import NotFound
from shared.telemetry.metrics import count_end


def list_nodes(context: Context, request: Request, query: BaseModel) -> Response:
    return answered(schemas.Nodes(nodes=_shown(context, caller_of(request))))


def drain(context: Context, request: Request, query: BaseModel) -> Response:
    name = _asked(request)
    nodes.drain(context.database, name)
    context.nudger.nudge()  # bells that lie there are to ring elsewhere
    return answered(_one(context, request, name))


def undrain(context: Context, request: Request, query: BaseModel) -> Response:
    name = _asked(request)
    nodes.undrain(context.database, name)
    context.nudger.nudge()
    return answered(_one(context, request, name))


def remove(context: Context, request: Request, query: BaseModel) -> Response:
    ended = nodes.remove(context.database, _asked(request), context.settings.device_silence_seconds)
    for job in ended:
        event = {"kind": "state", "attempt": job.attempt, "status": job.status}
        context.progress.report(job.id, event, ended=True)
        count_end(context.meters, job)
    return Response(status_code=204)


def _asked(request: Request) -> str:
    return str(request.path_params["node"])


def _one(context: Context, request: Request, name: str) -> schemas.Node:
    for node in _shown(context, caller_of(request)):
        if node.name == name:
            return node
    raise NotFound("node", name)  # removed by somebody else in this moment


def _shown(context: Context, caller: Caller) -> list[schemas.Node]:
    seen = ops.seen(context, caller)
    return [
        schemas.Node(**node.model_dump(), devices=[device for device in seen.devices if device.node == node.name])
        for node in seen.nodes
    ]
