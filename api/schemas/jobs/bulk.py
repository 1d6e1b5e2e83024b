"""Requests and responses of actions on many jobs."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from api.schemas.fields import Name, RequestModel, ResponseModel
from api.schemas.jobs.job_queries import BatchId, JobId, JobType
from shared.states import JobState, Priority
from wanworks.moments import Moment

MOST_IDS = 1000
_FILTERS = ("type", "status", "model_id", "created_after", "created_before", "batch_id", "ids", "key")


class BulkFilter(RequestModel):
    """Which jobs are meant: those that match all of the filters."""

    all: Annotated[
        Literal[True] | None,
        Field(description="Every job. It must be given if there is no other filter, and only then."),
    ] = None
    type: JobType = None
    status: Annotated[JobState | None, Field(description="Only jobs with this status.")] = None
    model_id: Annotated[Name | None, Field(description="Only jobs for this model.")] = None
    created_after: Annotated[Moment | None, Field(description="Only jobs created after this time.")] = None
    created_before: Annotated[Moment | None, Field(description="Only jobs created before this time.")] = None
    batch_id: BatchId = None
    ids: Annotated[
        Annotated[list[JobId], Field(min_length=1, max_length=MOST_IDS)] | None,
        Field(description="Only these jobs."),
    ] = None
    key: Annotated[
        Name | None,
        Field(description="Only jobs submitted with this API key, by its name or id. Others' keys need `admin`."),
    ] = None

    @model_validator(mode="after")
    def _is_explicit(self) -> "BulkFilter":
        given = [name for name in _FILTERS if getattr(self, name) is not None]
        if not given and not self.all:
            raise ValueError('has no filter; give at least one, or {"all": true} for every job')
        if given and self.all:
            raise ValueError(f"`all` excludes other filters; leave it out, or leave out {', '.join(given)}")
        return self


class BulkRequest(RequestModel):
    """Do something to all jobs that match."""

    action: Annotated[
        Literal["cancel", "retry", "delete", "set_priority"],
        Field(
            description="As for single jobs. `retry` leaves out jobs that have succeeded, unless the filter has the "
            "status `succeeded`, and those that have been retried already."
        ),
    ]
    filter: BulkFilter
    priority: Annotated[Priority | None, Field(description="The new priority; only for `set_priority`.")] = None
    dry_run: Annotated[bool, Field(strict=True, description="Only count the jobs; change nothing.")] = False

    @model_validator(mode="after")
    def _has_its_priority(self) -> "BulkRequest":
        if (self.action == "set_priority") != (self.priority is not None):
            allowed = ", ".join(Priority)
            wanted = f"needs `priority`: {allowed}" if self.priority is None else f"has no `priority` for {self.action}"
            raise ValueError(f"set_priority {wanted}" if self.priority is None else wanted)
        return self


class BulkResult(ResponseModel):
    """What was done, or would be."""

    dry_run: bool
    action: Literal["cancel", "retry", "delete", "set_priority"]
    matched: Annotated[int, Field(description="Jobs that matched when the request came.")]
    would_change: Annotated[
        int | None,
        Field(
            description="Of a dry run: those of the jobs that matched which the action would change, as they are now. "
            "The limits of keys, which may leave out retries, are not considered."
        ),
    ]
    changed: Annotated[int, Field(description="Jobs that were changed, or retried.")]
    skipped: Annotated[
        dict[str, int],
        Field(
            description="Jobs that matched and were left out, by reason: has_ended, has_not_ended, has_succeeded, "
            "already_retried, in_open_flow, is_running, unchanged, changed_meanwhile, gone, limit_reached, "
            "needs_admin, is_bulk_action, or the code of the error."
        ),
    ]
    detail: Annotated[str | None, Field(description="Why a limit has left jobs out.")]
    ids: Annotated[list[str], Field(description="Of a dry run: the first of the jobs, oldest first.")]
    job_id: Annotated[str | None, Field(description="The job that carries it out, if there are many jobs.")]
