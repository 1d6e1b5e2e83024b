"""Requests and responses of jobs that run on nodes: downloads, integrity checks and preparations."""

from typing import Annotated, Literal

from pydantic import Field, RootModel

from api.schemas.fields import Name, NodeName, ResponseModel, RetriedModel
from api.schemas.jobs.jobs import Job
from shared import patterns
from shared.states import Priority

Mbps = Annotated[
    float, Field(strict=True, ge=0.01, le=100_000, allow_inf_nan=False, description="In Mbps (10^6 bits per second).")
]


class DownloadRequest(RetriedModel):
    """Download a model to a node. `node` may be left out if exactly one node is online."""

    model_id: Name
    node: NodeName | None = None
    revision: Annotated[str, Field(pattern=patterns.NAME, description="A commit, branch or tag.")] | None = None
    priority: Priority = Priority.NORMAL
    bandwidth_limit_mbps: Mbps | None = None


class IntegrityCheckRequest(RetriedModel):
    """Verify one model or all, on one node or, without `node`, on all online nodes."""

    model_id: Annotated[Name, Field(description="The model to verify; `all` or left out: all models.")] | None = None
    node: NodeName | None = None
    full: Annotated[
        bool, Field(strict=True, description="False: skip files that are unchanged since their last check.")
    ] = True
    repair: Annotated[bool, Field(strict=True, description="Download damaged and missing files again.")] = False


class PrepareRequest(RetriedModel):
    """Write copies of a model's weights in the form in which they are loaded. Without `node`: on all online nodes."""

    model_id: Name
    node: NodeName | None = None
    quantization: Annotated[
        Literal["bf16", "int8", "fp8"],
        Field(description="The quantization of jobs that the copies serve; bf16 also serves `none` on a GPU."),
    ] = "bf16"


class Jobs(ResponseModel):
    """The created jobs, one for each node."""

    data: list[Job]


class JobOrJobs(RootModel[Job | Jobs]):
    """One job, or a list with one job for each node."""
