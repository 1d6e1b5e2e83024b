"""Requests and responses of cleanups."""

from typing import Annotated, Literal

from pydantic import Field

from api.schemas.fields import NodeName, RequestModel, ResponseModel, Time


class CleanupRequest(RequestModel):
    """Free space in the nodes' model storage. Nothing is removed unless `dry_run` is false."""

    target_space_gb: (
        Annotated[
            float,
            Field(strict=True, ge=0, le=1e9, allow_inf_nan=False, description="Free space to reach, in 10^9 bytes."),
        ]
        | None
    ) = None
    keep_recent_days: Annotated[
        int, Field(strict=True, ge=0, le=36500, description="Models used within this many days are kept.")
    ] = 30
    dry_run: Annotated[bool, Field(strict=True)] = True
    node: NodeName | None = None


class CleanupAction(ResponseModel):
    """One planned or executed removal. `space_freed_gb` is in 10^9 bytes."""

    action_type: Literal["remove_revision", "remove_partial", "remove_artifacts", "remove_prepared", "remove_model"]
    model_id: str | None
    space_freed_gb: float
    reason: str
    last_used: Time | None
    node: str


class KeptModel(ResponseModel):
    """A model that is kept, and the first reason for it."""

    model_id: str
    node: str
    reason: str


class CleanupPlan(ResponseModel):
    """The plan for all requested nodes. Sizes are in GB of 10^9 bytes."""

    total_space_available_gb: Annotated[float | None, Field(description="Free now.")]
    target_space_gb: Annotated[float | None, Field(description="Free space to reach on each node.")]
    space_to_free_gb: float
    cleanup_actions: list[CleanupAction]
    reaches_target: bool
    kept: list[KeptModel]


class Cleanup(ResponseModel):
    """What the cleanup would do or has done. The freed space of executed actions is measured."""

    dry_run: bool
    recommendations: CleanupPlan
    executed_actions: list[CleanupAction]
    total_space_freed_gb: float
    job_ids: list[str]
    timestamp: Time
