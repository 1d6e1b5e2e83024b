"""Queries of the job routes: filters of lists, dry runs, signed links."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from api.http.query import JOB_ID, cursor
from api.schemas.fields import PageLimit
from shared.catalogue.job_types import JOB_TYPES
from shared.jobs.reading import queue_order
from shared.jobs.reading.search import LOOKED_AT
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


class JobFilter(BaseModel):
    """Which jobs are meant: those that match all of the filters."""

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


def _cursor(value: str | None) -> str | None:
    return cursor(value) if value is None or queue_order.CURSOR.fullmatch(value) is None else value


class JobsQuery(JobFilter):
    """Filters, order and page of the list of jobs."""

    search: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=200,
            description="Only jobs whose id begins so (8 characters at least), or whose prompt has all of these words. "
            f"One page looks at {LOOKED_AT} jobs at most; `next` continues.",
        ),
    ] = None
    order: Annotated[
        Literal["newest", "oldest", "queue"],
        Field(
            description="`newest` and `oldest`: by creation. `queue`: running jobs first, then queued ones in the "
            "order in which they are served, held, paused, and ended ones, newest first; only with the filters `type`, "
            "`status`, `model_id` and `key`."
        ),
    ] = "newest"
    limit: PageLimit = 20
    after: Annotated[
        str | None,
        AfterValidator(_cursor),
        Field(description="The `next` of the previous page, in the same order.", json_schema_extra={"maxLength": 80}),
    ] = None

    @model_validator(mode="after")
    def _is_possible(self) -> "JobsQuery":
        others = ("created_after", "created_before", "batch_id", "search")
        if self.order == "queue" and (given := [name for name in others if getattr(self, name) is not None]):
            raise ValueError(f"order `queue` excludes {', '.join(given)}; use the order newest or oldest")
        if self.after is not None and (JOB_ID.fullmatch(self.after) is None) != (self.order == "queue"):
            raise ValueError("`after` is the cursor of another order; give the `next` of a page in the same order")
        return self


class GenerationQuery(BaseModel):
    """Whether the generation is only checked."""

    model_config = ConfigDict(extra="forbid")

    dry_run: Annotated[
        bool,
        BeforeValidator(flag),
        Field(description="Return what accepting the request would return and cost, but create no job."),
    ] = False


class RetryQuery(BaseModel):
    """How the job is repeated."""

    model_config = ConfigDict(extra="forbid")

    new_seed: Annotated[
        bool,
        BeforeValidator(flag),
        Field(description="Draw another seed, so that the same request makes another video. Only for generations."),
    ] = False


class PreviewQuery(BaseModel):
    """What gives each preview an address of its own. The latest one is returned in any case."""

    model_config = ConfigDict(extra="forbid")

    attempt: Annotated[
        int | None,
        Field(ge=0, le=999_999_999_999_999, description="Not used: it makes the address of each preview another one."),
        BeforeValidator(_end),
    ] = None
    step: Annotated[
        int | None, Field(ge=0, le=999_999_999_999_999, description="Not used, as `attempt`."), BeforeValidator(_end)
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
    download: Annotated[bool, Field(description="Whether a browser saves the file instead of showing it.")] = False


class ImageQuery(BaseModel):
    """Which picture of a job is meant."""

    model_config = ConfigDict(extra="forbid")

    which: Annotated[Literal["image", "last_image"], Field(description="The first one, or the last.")] = "image"
