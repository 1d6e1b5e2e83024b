"""Show administrators the last lines of a node's logs."""

from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.http.errors import problem
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas.ops import logs as log_schemas
from api.schemas.ops.logs import NodeLogQuery
from shared.cluster import nodes
from shared.errors import NotFound
from shared.states import Scope


def get_log(context: Context, request: Request, query: NodeLogQuery) -> Response:
    node = str(request.path_params["node"])
    if node not in (row.name for row, _ in nodes.nodes(context.database)):
        raise NotFound("node", node)
    workers = [device.device.worker for device in nodes.devices(context.database) if device.device.node == node]
    read = context.node_logs.read({node: [f"io@{node}", *workers]}, query.lines, process=query.process)[node]
    if read is None:
        detail = f"No worker of node {node} has answered within two seconds; read the logs on that host"
        return problem(request, 504, "node_unreachable", detail)
    if query.process is not None and query.process not in read.names:
        there = ", ".join(read.names) or "none, because its processes log to standard output"
        raise NotFound("log", query.process, f"Node {node} has: {there}")
    found = log_schemas.NodeLog(node=node, processes=list(read.names), lines=log_schemas.shown(read.lines))
    return json_response(found)


OPERATIONS = (
    Operation(
        "GET", "/api/v1/nodes/{node}/log", get_log, "getNodeLog", "Get the last lines of a node's logs",
        answers=(Answer(200, "The lines, oldest first.", log_schemas.NodeLog),), problems=(404, 503, 504),
        query=NodeLogQuery, tag="operations", scope=Scope.ADMIN,
        description="The workers of other nodes answer over Redis. Returns 504 if none does.",
    ),
)  # fmt: skip
