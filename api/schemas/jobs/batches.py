"""Requests and responses of batches."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from api.schemas.fields import AfterId, PageLimit, Percent, RequestModel, ResponseModel, Time
from shared.jobs.batches import MOST_JOBS
from wanworks.requests import PLAIN, GenerationRequest, webhook

_WebhookUrl = Annotated[
    str | None,
    Field(
        max_length=2000,
        description="An http(s) address that receives one message when the last job has ended, signed by Standard "
        "Webhooks. Jobs may name their own besides.",
    ),
    AfterValidator(webhook),
]
_Name = Annotated[str, Field(max_length=200, description="For people; it need not be unique."), PLAIN]


class BatchJob(RequestModel):
    """A job of a batch."""

    type: Literal["generation"] = "generation"
    params: Annotated[GenerationRequest, Field(description="As the body of `POST /api/v1/jobs/generation`.")]


class BatchRequest(RequestModel):
    """Jobs that are accepted together, or not at all."""

    jobs: Annotated[list[BatchJob], Field(min_length=1, max_length=MOST_JOBS)]
    name: _Name = ""
    webhook_url: _WebhookUrl = None


class BatchEnvelope(RequestModel):
    """A batch whose jobs are not read yet, so that the errors of all of them can be reported."""

    jobs: Annotated[list[Any], Field(min_length=1, max_length=MOST_JOBS)]
    name: _Name = ""
    webhook_url: _WebhookUrl = None


class BatchesQuery(RequestModel):
    """Page of the list of batches."""

    limit: PageLimit = 20
    after: AfterId = None


class BatchCounts(ResponseModel):
    """How many jobs of the batch are in each state. Deleted jobs count by the state in which they have ended."""

    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int


class BatchJobState(ResponseModel):
    """A job of a batch, and its state."""

    id: str
    status: str


class BatchSummary(ResponseModel):
    """A batch in a list."""

    id: str
    name: str
    status: Annotated[
        Literal["queued", "running", "succeeded", "failed", "cancelled"],
        Field(
            description="`queued`: nothing has started. `running`: something has. Then, once all jobs have ended: "
            "`failed` if one has failed, else `cancelled` if one was cancelled, else `succeeded`."
        ),
    ]
    total: int
    counts: BatchCounts
    percent: Annotated[Percent, Field(description="The share of its jobs that have ended.")]
    created_at: Time
    cancel_requested_at: Time | None
    finished_at: Annotated[Time | None, Field(description="When its last job ended.")]
    artifacts_url: Annotated[str, Field(description="All files of its jobs as one zip archive.")]


class Batch(BatchSummary):
    """A batch with its jobs."""

    jobs: Annotated[
        list[BatchJobState], Field(description="Its jobs that are not deleted, in the order of the request.")
    ]


class BatchPage(ResponseModel):
    """A page of batches, newest first. Pass `next` as `after` to get the next page."""

    data: list[BatchSummary]
    has_more: bool
    next: str | None
