"""Read query strings: unknown and repeated parameters are refused."""

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from api.http.errors import invalid
from shared.errors import FieldError, InvalidField, NotFound

Query = TypeVar("Query", bound=BaseModel)

JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def digits(value: Any) -> Any:
    """Accept decimal digits only. Refuses what `int` accepts beyond that: spaces, underscores, 1.0."""
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,9}", value):
        raise ValueError("must be a whole number")
    return value


def cursor(value: str | None) -> str | None:
    """Validate the cursor of a page. Raises ValueError if it is malformed."""
    if value is not None and not JOB_ID.fullmatch(value):
        raise ValueError("is not a cursor; give the `next` of the previous page")
    return value


class AnyQuery(BaseModel):
    """The query model of routes that pass their query on."""

    model_config = ConfigDict(extra="allow")


def read_query(request: Request, model: type[Query]) -> Query:
    """Return the query string as `model`. Raises InvalidField with every invalid parameter."""
    values: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in values:
            raise InvalidField(FieldError(("query", name[:100]), "is given twice", "duplicate"))
        values[name] = value
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise invalid(error, "query", model) from None


def job_id_of(request: Request) -> str:
    """Return the job id in the path. Raises NotFound if it is malformed."""
    job_id = str(request.path_params["id"])
    if not JOB_ID.fullmatch(job_id):
        raise NotFound("job", job_id)
    return job_id
