"""The response to a dry run: what accepting a generation would return, and what it would cost."""

from typing import Annotated, Literal

from pydantic import Field

from api.schemas.fields import ResponseModel, Time
from api.schemas.jobs.jobs import Params
from shared.catalogue.job_types import AppliedFallback
from shared.states import Priority


class Cost(ResponseModel):
    """The expected device time of the generation; with `count`, of all of them."""

    gpu_seconds: Annotated[
        float | None, Field(description="Seconds on devices, summed over devices and jobs. Null: unknown.")
    ]
    generation_seconds: Annotated[
        float | None, Field(description="Of one job, from its start to its end, without loading.")
    ]
    loading_seconds: Annotated[
        float | None,
        Field(description="For loading the model once; 0 if a device has loaded it. Null: not measured."),
    ]
    samples: Annotated[int, Field(description="Measured jobs behind the figures, at most 20.")]
    how: Annotated[str, Field(description="How the figures were reckoned.")]


class Start(ResponseModel):
    """When the generation would start and end if it were accepted now; with `count`, the first and the last."""

    start_at: Annotated[Time | None, Field(description="Of the first job. Null: unknown.")]
    end_at: Annotated[Time | None, Field(description="Of the last job. Null: unknown.")]
    how: Annotated[str, Field(description="How the times were reckoned, or why they are unknown.")]


class MemoryLayout(ResponseModel):
    """One way to lay out the model, in MB (10^6 bytes)."""

    device_mb: int
    host_mb: int


class MemoryNeeds(ResponseModel):
    """The memory that the generation needs, and which registered devices have it."""

    layouts: Annotated[list[MemoryLayout], Field(description="On a GPU it needs one of these.")]
    cpu_host_mb: Annotated[int, Field(description="On a CPU device.")]
    fitting_devices: Annotated[int, Field(description="Number of registered devices with that memory.")]
    open_devices: Annotated[int, Field(description="How many of them are online and accept jobs.")]


class LimitUse(ResponseModel):
    """How much of a limit of the API key is used."""

    name: Literal["queued_jobs", "gpu_seconds_per_day", "gpu_seconds_per_month"]
    allowed: float
    used: float
    expected: Annotated[float, Field(description="What the key's queued jobs are expected to add.")]
    resets_at: Annotated[Time | None, Field(description="Null: it is not counted over a time.")]


class DryRun(ResponseModel):
    """What accepting the request would return. No job was created."""

    dry_run: Literal[True] = True
    count: Annotated[int, Field(description="How many jobs would be created, with the seeds from `params.seed` on.")]
    model_id: str
    priority: Priority
    mock: Annotated[bool, Field(description="Whether the job would create labelled placeholder output.")]
    params: Annotated[Params, Field(description="The settings with defaults filled in. A random seed is drawn anew.")]
    fallback_applied: list[AppliedFallback]
    max_attempts: int
    retry_backoff_seconds: float | None
    metadata: dict[str, str]
    model_ready: Annotated[bool, Field(description="Whether a node has the model.")]
    queue_position: Annotated[int, Field(description="Queued jobs that would start before it, by priority.")]
    cost: Cost
    expected: Start
    memory: Annotated[MemoryNeeds | None, Field(description="Null: placeholder output needs no model.")]
    limits: Annotated[list[LimitUse], Field(description="The limits of the key that are counted.")]
