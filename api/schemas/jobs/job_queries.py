"""Queries of the job routes: filters of lists, dry runs, signed links."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from api.http.query import JOB_ID
from api.schemas.fields import AfterId, PageLimit
from shared.catalogue.job_types import JOB_TYPES
from shared.states import JobState
from wanworks.moments import Moment
from wanworks.requests import PLAIN


def _end(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,15}", value):
        raise ValueError("must be a whole number")
    return value


def flag(value: Any) -> Any:
    if value not in ("true", "false", False, True):
        raise ValueError("must be `true` or `false`")
    return value


def _job_type(value: str | None) -> str | None:
    if value is not None and value not in JOB_TYPES:
        raise ValueError(f"there is no such type of job; allowed: {', '.join(JOB_TYPES)}")
    return value


JobType = Annotated[
    str | None,
    AfterValidator(_job_type),
    Field(description="Only jobs of this type.", json_schema_extra={"enum": sorted(JOB_TYPES)}),
]


def _batch_id(value: str | None) -> str | None:
    if value is not None and not JOB_ID.fullmatch(value):
        raise ValueError("is not the id of a batch; give the `id` that its submission returned")
    return value


BatchId = Annotated[
    str | None,
    AfterValidator(_batch_id),
    Field(description="Only jobs of this batch.", json_schema_extra={"pattern": f"^{JOB_ID.pattern}$"}),
]


def _job_id(value: str) -> str:
    if not JOB_ID.fullmatch(value):
        raise ValueError("is not the id of a job")
    return value


JobId = Annotated[str, AfterValidator(_job_id), Field(json_schema_extra={"pattern": f"^{JOB_ID.pattern}$"})]


class JobsQuery(BaseModel):
    """Filters and page of the list of jobs."""

    model_config = ConfigDict(extra="forbid")

    type: JobType = None
    status: Annotated[JobState | None, Field(description="Only jobs with this status.")] = None
    model_id: Annotated[
        Annotated[str, Field(min_length=1, max_length=64), PLAIN] | None, Field(description="Only jobs for this model.")
    ] = None
    created_after: Annotated[
        Moment | None,
        Field(description="Only jobs created after this time (ISO 8601 with an offset or Z)."),
    ] = None
    created_before: Annotated[
        Moment | None,
        Field(description="Only jobs created before this time (ISO 8601 with an offset or Z)."),
    ] = None
    batch_id: BatchId = None
    key: Annotated[
        Annotated[str, Field(min_length=1, max_length=64), PLAIN] | None,
        Field(description="Only jobs submitted with this API key, by its name or id. Others' keys need `admin`."),
    ] = None
    limit: PageLimit = 20
    after: AfterId = None


class GenerationQuery(BaseModel):
    """Whether the generation is only checked."""

    model_config = ConfigDict(extra="forbid")

    dry_run: Annotated[
        bool,
        BeforeValidator(flag),
        Field(description="Return what accepting the request would return and cost, but create no job."),
    ] = False


class PreviewQuery(BaseModel):
    """What gives each preview an address of its own. The latest one is returned in any case."""

    model_config = ConfigDict(extra="forbid")

    attempt: Annotated[
        int | None,
        BeforeValidator(_end),
        Field(ge=0, le=999_999_999_999_999, description="Not used: it makes the address of each preview another one."),
    ] = None
    step: Annotated[
        int | None, BeforeValidator(_end), Field(ge=0, le=999_999_999_999_999, description="Not used, as `attempt`.")
    ] = None


class ArtifactQuery(BaseModel):
    """The parameters of a signed link. Without them, an API key is needed."""

    model_config = ConfigDict(extra="forbid")

    expires: Annotated[
        int | None,
        Field(ge=0, le=999_999_999_999_999, description="When the signed link expires, in seconds since 1970."),
        BeforeValidator(_end),
    ] = None
    signature: Annotated[str | None, Field(max_length=64, description="The signature of the link.")] = None
