"""Requests and responses for managing downloads."""

from typing import Annotated, Literal

from pydantic import Field

from api.schemas.fields import Name, NodeName, RequestModel, ResponseModel, Time
from api.schemas.jobs.node_jobs import Mbps
from api.schemas.models.models import Availability
from shared.states import Priority


class ManageRequest(RequestModel):
    """Manage the active downloads of a model, on one node or, without `node`, on all."""

    model_id: Name
    action: Literal["pause", "resume", "cancel", "priority", "bandwidth"]
    priority: Annotated[Priority, Field(description="Required by the action `priority`.")] | None = None
    bandwidth_limit_mbps: Annotated[Mbps, Field(description="Required by the action `bandwidth`.")] | None = None
    node: NodeName | None = None


class ManagedDownload(ResponseModel):
    """The state of one download after the action."""

    node: str
    job_id: str
    current_status: Availability
    progress_percent: float
    priority: Priority
    bandwidth_limit_mbps: float | None


class Managed(ResponseModel):
    """What was reached within two seconds. `success` is false if the action was accepted but has not taken effect."""

    success: bool
    message: str
    model_id: str
    action: str
    current_status: Availability
    progress_percent: float
    downloads: list[ManagedDownload]
    timestamp: Time


class Pinned(ResponseModel):
    """Whether a model is pinned, so that cleanups keep it, and since when."""

    model_id: str
    pinned: bool
    pinned_at: Time | None
