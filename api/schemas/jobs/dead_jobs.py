"""Queries, requests and responses about dead jobs, and the change of a job's priority."""

from typing import Annotated

from pydantic import Field

from api.schemas.fields import AfterId, Name, PageLimit, RequestModel, ResponseModel
from api.schemas.jobs.job_queries import JobType
from shared.states import Priority
from wanworks.moments import Moment
from wanworks.requests import PLAIN

_Code = Annotated[str, Field(min_length=1, max_length=64, description="Only with this `error.code`."), PLAIN]


class DeadJobsQuery(RequestModel):
    """Filters and page of the list of dead jobs."""

    type: JobType = None
    model_id: Annotated[Name | None, Field(description="Only jobs for this model.")] = None
    error_code: _Code | None = None
    failed_after: Annotated[Moment | None, Field(description="Only jobs that failed after this time.")] = None
    failed_before: Annotated[Moment | None, Field(description="Only jobs that failed before this time.")] = None
    limit: PageLimit = 20
    after: AfterId = None


class RedriveRequest(RequestModel):
    """Retry dead jobs that match all of these filters, in the order of their creation."""

    type: JobType = None
    model_id: Annotated[Name | None, Field(description="Only jobs for this model.")] = None
    error_code: _Code | None = None
    failed_after: Annotated[Moment | None, Field(description="Only jobs that failed after this time.")] = None
    failed_before: Annotated[Moment | None, Field(description="Only jobs that failed before this time.")] = None
    metadata: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=64), PLAIN], Annotated[str, Field(max_length=512), PLAIN]],
        Field(max_length=16, description="Only jobs whose metadata has all of these values."),
    ] = {}
    dry_run: Annotated[bool, Field(strict=True, description="Only count the jobs.")] = False
    limit: Annotated[int, Field(strict=True, ge=1, le=500, description="Maximum number of jobs of this request.")] = 100
    after: AfterId = None


class Redriven(ResponseModel):
    """A dead job and the job that repeats it."""

    id: str
    retry_id: str


class NotRedriven(ResponseModel):
    """A dead job that could not be retried, and why."""

    id: str
    code: str
    detail: str


class RedriveResult(ResponseModel):
    """The result of a redrive of dead jobs."""

    dry_run: bool
    matched: Annotated[int, Field(description="Dead jobs that matched when the request came.")]
    redriven: list[Redriven]
    refused: list[NotRedriven]
    has_more: Annotated[bool, Field(description="Whether further ones match. Pass `next` as `after` to go on.")]
    next: str | None


class JobChange(RequestModel):
    """The fields of a job to change."""

    priority: Annotated[Priority, Field(description="The new priority.")]
