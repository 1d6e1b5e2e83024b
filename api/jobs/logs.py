"""Show administrators the last lines of the logs that name a job, from all nodes that ran it."""

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.http.query import job_id_of
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas.ops import logs as log_schemas
from shared.database.tables import Job
from shared.jobs import records
from shared.states import Scope
from shared.telemetry import log_files

_LINES = 50


def get_log(context: Context, request: Request, query: BaseModel) -> Response:
    job = records.get(context.database, job_id_of(request))
    here = context.settings.node
    found = context.node_logs.read(_ran_on(job, here), _LINES, containing=job.id)
    lines = [line for read in found.values() if read is not None for line in read.lines]
    unanswered = sorted(node for node, read in found.items() if read is None)
    shown = log_schemas.shown(log_files.last(lines, _LINES))
    return json_response(log_schemas.JobLog(lines=shown, host=here, unanswered=unanswered))


def _ran_on(job: Job, here: str) -> dict[str, set[str]]:
    """Return the workers that may have logs of the job, by node. This host's files are read in any case."""
    nodes = {job.node, *(attempt["node"] for attempt in job.attempt_history or ())} - {None}
    found = {str(node): {f"io@{node}"} for node in nodes}
    if job.worker is not None and job.node is not None:
        found[job.node].add(job.worker)
    return {here: set(), **found}


OPERATIONS = (
    Operation(
        "GET", "/api/v1/jobs/{id}/log", get_log, "getJobLog", "Get the last lines of the logs that name a job",
        answers=(Answer(200, "Lines of this host, and of the nodes that ran the job.", log_schemas.JobLog),),
        problems=(404, 503), scope=Scope.ADMIN,
    ),
)  # fmt: skip
