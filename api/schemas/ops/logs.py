"""Queries and answers of the routes of logs."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api.http.query import digits
from api.schemas.fields import ResponseModel
from shared.telemetry.log_files import Line
from wanworks.requests import PLAIN


class LogLine(ResponseModel):
    """One line of a log."""

    time: Annotated[str, Field(description="ISO 8601 in UTC; empty if the line does not tell.")]
    level: str
    process: str
    message: str


class JobLog(ResponseModel):
    """The last lines that name the job, oldest first."""

    lines: list[LogLine]
    host: Annotated[str, Field(description="The node that answers. It has read its own logs as well.")]
    unanswered: Annotated[
        list[str], Field(description="Nodes that ran the job, and whose workers did not answer within two seconds.")
    ]


class NodeLog(ResponseModel):
    """The last lines of a node's logs, oldest first."""

    node: str
    processes: Annotated[
        list[str],
        Field(description="The processes with a log file. None: they log to standard output, as in containers."),
    ]
    lines: list[LogLine]


class NodeLogQuery(BaseModel):
    """Which lines are meant."""

    model_config = ConfigDict(extra="forbid")

    process: Annotated[
        Annotated[str, Field(min_length=1, max_length=64), PLAIN] | None,
        Field(description="Only lines of this process, such as `gpu-0`, `io` or `web`. By default, of all."),
    ] = None
    lines: Annotated[int, Field(ge=1, le=500, description="How many of the last lines."), BeforeValidator(digits)] = 100


def shown(lines: Sequence[Line]) -> list[LogLine]:
    return [LogLine(**line) for line in lines]
