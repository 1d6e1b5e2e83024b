"""Bodies of jobs that run on nodes: downloads and integrity checks."""

from typing import Annotated

from pydantic import Field, RootModel

from api.schemas.fields import Asked, Name, NodeName, Public
from api.schemas.jobs import Job
from shared.states import Priority

Mbps = Annotated[
    float, Field(strict=True, ge=0.01, le=100_000, allow_inf_nan=False, description="In Mbps (10^6 bits a second).")
]


class DownloadRequest(Asked):
    """Fetch a model to a node. Without `node`: to the only one that is online."""

    model_id: Name
    node: NodeName | None = None
    revision: (
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="A commit, branch or tag.")]
        | None
    ) = None
    priority: Priority = Priority.NORMAL
    bandwidth_limit_mbps: Mbps | None = None


class IntegrityCheckRequest(Asked):
    """Verify one model, or all. Without `node`: on every node that is online."""

    model_id: Annotated[Name, Field(description="`all`, like leaving it out, means every model.")] | None = None
    node: NodeName | None = None
    full: Annotated[bool, Field(strict=True, description="False: files untouched since their last check pass.")] = True
    repair: Annotated[bool, Field(strict=True, description="Fetch again what is broken, and only that.")] = False


class Jobs(Public):
    """The jobs that were made, one for each node."""

    data: list[Job]


class JobOrJobs(RootModel[Job | Jobs]):
    """One job, or where several nodes were meant, one for each."""
