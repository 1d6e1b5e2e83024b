"""Requests and responses of flows."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api.schemas.fields import AfterId, PageLimit, Percent, RequestModel, ResponseModel, Time
from api.schemas.jobs.jobs import JobError
from shared import patterns
from shared.catalogue.job_types import Frame
from shared.jobs.flows.plan import FlowState
from wanworks.requests import PLAIN, Labels, WebhookUrl, Whole

MAX_JOBS = 200

NodeName = Annotated[str, Field(max_length=64, pattern=patterns.PART_NAME, description="Its name, unique in the flow.")]
OnFailure = Annotated[
    Literal["skip", "continue"],
    Field(
        description="What happens to the jobs that depend on this one if it does not succeed. `skip`: they are "
        "skipped. `continue`: they run anyway, except those that take a frame of it."
    ),
]


def _frame(value: Any) -> Any:
    number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if value not in ("first", "last") and not number:
        raise ValueError("must be `first`, `last`, or the number of a frame, from 0 on")
    return value


FrameField = Annotated[
    Literal["first", "last"] | Annotated[Whole, Field(ge=0)],
    BeforeValidator(_frame),
    Field(description="`first`, `last`, or the number of a frame, from 0 on."),
]


class ImageFrom(BaseModel):
    """An input picture that another job of the flow makes. The job then depends on that one."""

    model_config = ConfigDict(extra="forbid")

    job: Annotated[str, Field(alias="from", max_length=64, description="The name of the other job.")]
    frame: FrameField = "last"


class FlowJobRequest(RequestModel):
    """One job of a flow."""

    name: NodeName
    type: Literal["generation", "download", "integrity-check", "cleanup", "prepare"] = "generation"
    params: Annotated[
        dict[str, Any],
        Field(
            description="The body of `POST /api/v1/jobs/{type}`. `image` and `last_image` of a generation may also be "
            '`{"from": "NAME", "frame": "last"}`: a frame of another job of the flow.'
        ),
    ]
    depends_on: Annotated[
        list[Annotated[str, Field(max_length=64)]],
        Field(max_length=MAX_JOBS, description="Names of the jobs that must end before this one starts."),
    ] = []
    on_failure: OnFailure = "skip"


class FlowRequest(RequestModel):
    """Jobs that depend on one another. All are accepted, or none."""

    jobs: Annotated[list[FlowJobRequest], Field(min_length=1, max_length=MAX_JOBS)]
    name: Annotated[str, Field(min_length=1, max_length=100), PLAIN] | None = None
    webhook_url: WebhookUrl = None
    metadata: Labels = {}


class FlowsQuery(BaseModel):
    """Filter and page of the list of flows."""

    model_config = ConfigDict(extra="forbid")

    state: Annotated[FlowState | None, Field(description="Only flows in this state.")] = None
    limit: PageLimit = 20
    after: AfterId = None


class FlowCounts(ResponseModel):
    """The number of a flow's jobs by state."""

    held: Annotated[int, Field(description="Waiting for other jobs of the flow.")] = 0
    queued: int = 0
    running: int = 0
    paused: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    skipped: Annotated[int, Field(description="Cancelled, because a job on which they depend did not succeed.")] = 0


class FlowSummary(ResponseModel):
    """A flow in a list."""

    id: str
    name: str | None
    state: Annotated[
        FlowState,
        Field(
            description="`queued`: no job has started. `running`: one has, and not all have ended. `succeeded`: every "
            "job has, except those that failed or were cancelled under `on_failure: continue`. `cancelled`: the flow "
            "was cancelled, or jobs of it were and none failed. `failed`: otherwise."
        ),
    ]
    progress_percent: Annotated[Percent, Field(description="The mean over the jobs; one that has ended counts as 100.")]
    counts: FlowCounts
    retries: Annotated[int, Field(description="How often the flow was retried.")]
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    metadata: dict[str, str]


class FrameTaken(ResponseModel):
    """The frame that is a picture of a job, and the job that makes it."""

    job: str
    frame: Frame


class FlowJob(ResponseModel):
    """A job of a flow."""

    name: str
    id: Annotated[str, Field(description="The latest job: a retry of the flow replaces it.")]
    earlier_ids: Annotated[list[str], Field(description="The jobs that retries have replaced, oldest first.")]
    url: str
    type: Annotated[str | None, Field(description="Null: the job was deleted.")]
    model_id: str | None
    state: Literal["held", "queued", "running", "paused", "succeeded", "failed", "cancelled", "skipped"]
    progress_percent: Percent
    depends_on: list[str]
    waits_for: Annotated[list[str], Field(description="Those of `depends_on` that have not ended.")]
    on_failure: OnFailure
    frame_of: Annotated[FrameTaken | None, Field(description="The frame of another job that is its input picture.")]
    last_frame_of: Annotated[
        FrameTaken | None, Field(description="The frame of another job with which its video ends.")
    ] = None
    started_at: Time | None
    finished_at: Time | None
    error: JobError | None


class Flow(FlowSummary):
    """A flow with its jobs."""

    eta_seconds: Annotated[
        float | None,
        Field(
            description="Expected seconds until the flow ends, without waiting for jobs outside of it. Null: it has "
            "ended, or a job of it has a model or type that was never measured."
        ),
    ]
    jobs: Annotated[list[FlowJob], Field(description="In the order of the request.")]


class FlowPage(ResponseModel):
    """A page of flows, newest first. Pass `next` as `after` to get the next page."""

    data: list[FlowSummary]
    has_more: bool
    next: str | None
