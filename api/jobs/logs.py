"""Show administrators the last lines of the logs that name a job, from the files of the host that answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.http.query import job_id_of
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas.fields import ResponseModel
from shared.jobs import records
from shared.states import Scope

_LINES = 50
_TAIL_BYTES = 512 * 1024  # of each file
_FOLDER = "logs"


class LogLine(ResponseModel):
    """One line of a log."""

    time: str
    level: str
    process: str
    message: str


class JobLog(ResponseModel):
    """The last lines that name the job, oldest first."""

    lines: list[LogLine]
    host: Annotated[str, Field(description="The node whose files were read. Others have lines of their own.")]


def get_log(context: Context, request: Request, query: BaseModel) -> Response:
    job = records.get(context.database, job_id_of(request))
    folder = context.settings.home / _FOLDER
    lines = [line for path in sorted(folder.glob("*.log")) for line in _naming(path, job.id)]
    lines.sort(key=lambda line: line.time)
    return json_response(JobLog(lines=lines[-_LINES:], host=context.settings.node))


def _naming(path: Path, job_id: str) -> Iterator[LogLine]:
    """Yield the lines at the end of a log that name the job."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            tail = file.read().decode(errors="replace")
    except OSError:
        return  # it was rotated away meanwhile
    for text in tail.splitlines():
        if job_id not in text:
            continue
        try:
            entry: dict[str, Any] = json.loads(text)
        except ValueError:
            continue  # cut off at the beginning of the tail, or not a line of ours
        yield LogLine(
            time=str(entry.get("time", "")),
            level=str(entry.get("level", "")),
            process=str(entry.get("process", path.stem)),
            message=str(entry.get("message", ""))[:2000],
        )


OPERATIONS = (
    Operation(
        "GET", "/api/v1/jobs/{id}/log", get_log, "getJobLog", "Get the last lines of the logs that name a job",
        answers=(Answer(200, "Lines of this host.", JobLog),), problems=(404, 503), scope=Scope.ADMIN,
    ),
)  # fmt: skip
