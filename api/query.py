"""Query strings: read once, every parameter known, none given twice."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.requests import Request

from api.errors import invalid
from shared.catalogue.job_types import JOB_TYPES, PLAIN
from shared.errors import FieldError, InvalidField
from shared.states import JobState

Query = TypeVar("Query", bound=BaseModel)

JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def digits(value: Any) -> Any:
    """Plain decimal digits only; what else `int` would read (spaces, underscores, 1.0) is refused."""
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,9}", value):
        raise ValueError("must be a whole number")
    return value


def _end(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,15}", value):
        raise ValueError("must be a whole number")
    return value


def _moment(value: Any) -> datetime:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("must be a time such as 2026-01-31T12:00:00Z")
    digits, fraction, rest = re.split(r"(\.\d+)", value) if "." in value else (value, "", "")
    try:
        return datetime.fromisoformat(f"{digits}{fraction[:7]}{rest}".upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("there is no such moment") from None


def _job_type(value: str | None) -> str | None:
    if value is not None and value not in JOB_TYPES:
        raise ValueError(f"there is no such type of job; there are: {', '.join(JOB_TYPES)}")
    return value


def cursor(value: str | None) -> str | None:
    """The id that a page ended with. Raises ValueError for what is none."""
    if value is not None and not JOB_ID.fullmatch(value):
        raise ValueError("is no cursor; give the `next` of an earlier page")
    return value


class JobsQuery(BaseModel):
    """Which jobs to list."""

    model_config = ConfigDict(extra="forbid")

    type: Annotated[
        str | None,
        AfterValidator(_job_type),
        Field(description="Only jobs of this type.", json_schema_extra={"enum": sorted(JOB_TYPES)}),
    ] = None
    status: Annotated[JobState | None, Field(description="Only jobs in this state.")] = None
    model_id: Annotated[
        Annotated[str, Field(min_length=1, max_length=64), PLAIN] | None, Field(description="Only jobs for this model.")
    ] = None
    created_after: Annotated[
        datetime | None,
        BeforeValidator(_moment),
        Field(description="Only jobs created after this moment (ISO 8601 with an offset or Z)."),
    ] = None
    limit: Annotated[int, Field(ge=1, le=100, description="Jobs on a page."), BeforeValidator(digits)] = 20
    after: Annotated[
        str | None,
        AfterValidator(cursor),
        Field(description="The `next` of the page before.", json_schema_extra={"pattern": f"^{JOB_ID.pattern}$"}),
    ] = None


class ArtifactQuery(BaseModel):
    """What a signed link says of itself: without it, a key is asked for."""

    model_config = ConfigDict(extra="forbid")

    expires: Annotated[
        int | None,
        Field(ge=0, le=999_999_999_999_999, description="Of a signed link: its end, in seconds since 1970."),
        BeforeValidator(_end),
    ] = None
    signature: Annotated[str | None, Field(max_length=64, description="Of a signed link.")] = None


class AnyQuery(BaseModel):
    """A route that passes its query on."""

    model_config = ConfigDict(extra="allow")


def read_query(request: Request, model: type[Query]) -> Query:
    """The request's query string as `model`. Raises InvalidField naming each wrong parameter."""
    values: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in values:
            raise InvalidField(FieldError(("query", name[:100]), "is given twice", "duplicate"))
        values[name] = value
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise invalid(error, "query") from None
