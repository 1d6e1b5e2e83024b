"""List, drain, undrain and remove nodes, and release quarantined devices."""

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import Caller, caller_of
from api.context import Context
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.ops import workers
from api.schemas.ops import nodes as node_schemas
from shared.cluster import nodes
from shared.errors import NotFound
from shared.jobs import device_faults
from shared.states import Scope
from shared.telemetry.metrics import count_end


def list_nodes(context: Context, request: Request, query: BaseModel) -> Response:
    return json_response(node_schemas.Nodes(nodes=_shown(context, caller_of(request))))


def drain(context: Context, request: Request, query: BaseModel) -> Response:
    name = _node_name(request)
    nodes.drain(context.database, name, by=caller_of(request).name)
    context.waker.wake()  # the dispatcher then recalls the node's unanswered messages
    return json_response(_one(context, request, name))


def undrain(context: Context, request: Request, query: BaseModel) -> Response:
    name = _node_name(request)
    nodes.undrain(context.database, name)
    context.waker.wake()
    return json_response(_one(context, request, name))


def remove(context: Context, request: Request, query: BaseModel) -> Response:
    ended = nodes.remove(context.database, _node_name(request), context.settings.device_silence_seconds)
    for job in ended:
        event = {"kind": "state", "attempt": job.attempt, "status": job.status}
        context.progress.report(job.id, event, ended=True)
        count_end(context.meters, job)
    return Response(status_code=204)


def release(context: Context, request: Request, query: BaseModel) -> Response:
    key = f"{_node_name(request)}/{request.path_params['index']}"
    device_faults.release(context.database, key)
    context.waker.wake()
    for device in workers.seen(context, caller_of(request)).devices:
        if f"{device.node}/{device.index}" == key:
            return json_response(device)
    raise NotFound("device", key)  # removed concurrently


def _node_name(request: Request) -> str:
    return str(request.path_params["node"])


def _one(context: Context, request: Request, name: str) -> node_schemas.Node:
    for node in _shown(context, caller_of(request)):
        if node.name == name:
            return node
    raise NotFound("node", name)  # removed concurrently


def _shown(context: Context, caller: Caller) -> list[node_schemas.Node]:
    seen = workers.seen(context, caller)
    return [
        node_schemas.Node(**node.model_dump(), devices=[device for device in seen.devices if device.node == node.name])
        for node in seen.nodes
    ]


OPERATIONS = (
    Operation(
        "GET", "/api/v1/nodes", list_nodes, "listNodes", "List nodes with their devices",
        answers=(Answer(200, "All registered nodes that were not removed.", node_schemas.Nodes),), problems=(503,),
        tag="operations", scope=Scope.READ,
    ),
    Operation(
        "POST", "/api/v1/nodes/{node}/drain", drain, "drainNode",
        "Drain a node: running jobs finish, no new ones start",
        answers=(Answer(200, "The node; `drained` once no job runs there.", node_schemas.Node),), problems=(404, 503),
        tag="operations", description="The node stays drained until it is undrained, also when its processes restart.",
        scope=Scope.ADMIN,
    ),
    Operation(
        "DELETE", "/api/v1/nodes/{node}/drain", undrain, "undrainNode", "Undrain a node, so that it accepts jobs again",
        answers=(Answer(200, "The node.", node_schemas.Node),), problems=(404, 503), tag="operations",
        scope=Scope.ADMIN,
    ),
    Operation(
        "DELETE", "/api/v1/nodes/{node}/devices/{index}/quarantine", release, "releaseDevice",
        "Release a quarantined device, so that it accepts jobs again",
        answers=(Answer(200, "The device.", node_schemas.DeviceStatus),), problems=(404, 503), tag="operations",
        description="Its row of faults begins anew. Releasing a device that is not quarantined does that only.",
        scope=Scope.ADMIN,
    ),
    Operation(
        "DELETE", "/api/v1/nodes/{node}", remove, "removeNode", "Remove a node that will not return",
        answers=(Answer(204, "The node, its devices and replicas are removed.", media_type=None),),
        problems=(404, 409, 503), tag="operations", scope=Scope.ADMIN,
        description="Returns 409 while the node sends heartbeats or a job counts as running there. Downloads, "
        "integrity checks and cleanups queued for it fail with the code `node_lost`.",
    ),
)  # fmt: skip
