"""The lengths of the queues."""

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import caller_of
from api.context import Context
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.ops import pauses
from api.schemas.ops import nodes as node_schemas
from shared.jobs.reading import queues as queue_reads
from shared.states import Priority, Scope


def queues(context: Context, request: Request, query: BaseModel) -> Response:
    depths = queue_reads.depths(context.database)
    return json_response(
        node_schemas.Queues(
            queued=sum(depth.queued for depth in depths),
            running=sum(depth.running for depth in depths),
            waiting_for_model=sum(depth.waiting_for_model for depth in depths),
            oldest_age_seconds=max((age for depth in depths if (age := _age(depth)) is not None), default=None),
            held=queue_reads.held(context.database),
            pauses=pauses.shown(context, caller_of(request)),
            queues=[
                node_schemas.QueueDepth(
                    priority=list(Priority)[depth.priority],
                    model_id=depth.model_id,
                    queued=depth.queued,
                    waiting_for_model=depth.waiting_for_model,
                    running=depth.running,
                    oldest_age_seconds=_age(depth),
                )
                for depth in depths
            ],
        )
    )


def _age(depth: queue_reads.Depth) -> float | None:
    return None if depth.oldest_seconds is None else max(0.0, round(depth.oldest_seconds, 3))


OPERATIONS = (
    Operation(
        "GET", "/api/v1/queues", queues, "listQueues", "List queue depths and the age of the oldest job",
        answers=(Answer(200, "By priority and model.", node_schemas.Queues),), problems=(503,), tag="operations",
        scope=Scope.READ,
    ),
)  # fmt: skip
