"""Query strings: read once, every parameter known, none given twice."""

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from api.http.errors import invalid
from shared.errors import FieldError, InvalidField, NotFound

Query = TypeVar("Query", bound=BaseModel)

JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def digits(value: Any) -> Any:
    """Plain decimal digits only; what else `int` would read (spaces, underscores, 1.0) is refused."""
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,9}", value):
        raise ValueError("must be a whole number")
    return value


def cursor(value: str | None) -> str | None:
    """The id that a page ended with. Raises ValueError for what is none."""
    if value is not None and not JOB_ID.fullmatch(value):
        raise ValueError("is no cursor; give the `next` of an earlier page")
    return value


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


def job_id_of(request: Request) -> str:
    """Raises NotFound for what cannot be a job's id."""
    job_id = str(request.path_params["id"])
    if not JOB_ID.fullmatch(job_id):
        raise NotFound("job", job_id)
    return job_id
