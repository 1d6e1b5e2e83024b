"""Bodies of managed downloads."""

from typing import Annotated, Literal

from pydantic import Field

from api.schemas.fields import Asked, Name, NodeName, Public, Time
from api.schemas.models import Availability
from api.schemas.node_jobs import Mbps
from shared.states import Priority


class ManageRequest(Asked):
    """Steer the download of a model. Without `node`: on every node."""

    model_id: Name
    action: Literal["pause", "resume", "cancel", "priority", "bandwidth"]
    priority: Annotated[Priority, Field(description="For the action `priority`.")] | None = None
    bandwidth_limit_mbps: Annotated[Mbps, Field(description="For the action `bandwidth`.")] | None = None
    node: NodeName | None = None


class ManagedDownload(Public):
    """One download after what was asked of it."""

    node: str
    job_id: str
    current_status: Availability
    progress_percent: float
    priority: Priority
    bandwidth_limit_mbps: float | None


class Managed(Public):
    """What was reached within two seconds; `success` false: it is asked for, but not reached yet."""

    success: bool
    message: str
    model_id: str
    action: str
    current_status: Availability
    progress_percent: float
    downloads: list[ManagedDownload]
    timestamp: Time


class Pinned(Public):
    """Whether cleanup leaves a model alone, and since when."""

    model_id: str
    pinned: bool
    pinned_at: Time | None
