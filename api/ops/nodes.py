"""Nodes as operators handle them: what is there, drain one, let it work again, forget one that has gone."""

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import Caller, caller_of
from api.context import Context
from api.http.responses import answered
from api.operation import Answer, Operation
from api.ops import workers
from api.schemas import nodes as node_schemas
from shared.cluster import nodes
from shared.errors import NotFound
from shared.states import Scope
from shared.telemetry.metrics import count_end


def list_nodes(context: Context, request: Request, query: BaseModel) -> Response:
    return answered(node_schemas.Nodes(nodes=_shown(context, caller_of(request))))


def drain(context: Context, request: Request, query: BaseModel) -> Response:
    name = _asked(request)
    nodes.drain(context.database, name)
    context.waker.wake()  # bells that lie there are to ring elsewhere
    return answered(_one(context, request, name))


def undrain(context: Context, request: Request, query: BaseModel) -> Response:
    name = _asked(request)
    nodes.undrain(context.database, name)
    context.waker.wake()
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


def _one(context: Context, request: Request, name: str) -> node_schemas.Node:
    for node in _shown(context, caller_of(request)):
        if node.name == name:
            return node
    raise NotFound("node", name)  # removed by somebody else in this moment


def _shown(context: Context, caller: Caller) -> list[node_schemas.Node]:
    seen = workers.seen(context, caller)
    return [
        node_schemas.Node(**node.model_dump(), devices=[device for device in seen.devices if device.node == node.name])
        for node in seen.nodes
    ]


OPERATIONS = (
    Operation(
        "GET", "/api/v1/nodes", list_nodes, "listNodes", "Nodes with their devices, and what is drained",
        answers=(Answer(200, "All that registered and were not removed.", node_schemas.Nodes),), problems=(503,),
        tag="operations", scope=Scope.READ,
    ),
    Operation(
        "POST", "/api/v1/nodes/{node}/drain", drain, "drainNode",
        "Let a node finish what runs and take nothing new",
        answers=(Answer(200, "The node; `drained` once nothing runs there.", node_schemas.Node),), problems=(404, 503),
        tag="operations", description="It stays so until it is undone, whatever becomes of the node's processes.",
        scope=Scope.ADMIN,
    ),
    Operation(
        "DELETE", "/api/v1/nodes/{node}/drain", undrain, "undrainNode", "Let a node take jobs again",
        answers=(Answer(200, "The node.", node_schemas.Node),), problems=(404, 503), tag="operations",
        scope=Scope.ADMIN,
    ),
    Operation(
        "DELETE", "/api/v1/nodes/{node}", remove, "removeNode", "Forget a node that has gone for good",
        answers=(Answer(204, "Its devices and replicas are forgotten with it.", media_type=None),),
        problems=(404, 409, 503), tag="operations", scope=Scope.ADMIN,
        description="409 while it is heard of, or a job counts as running there. Downloads, checks and cleanups that "
        "wait for it fail as `node_lost`.",
    ),
)  # fmt: skip
