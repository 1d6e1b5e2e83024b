"""Base classes and field types that several schemas share."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from api.http.query import JOB_ID, cursor, digits
from wanworks.requests import PLAIN, MaxAttempts, RetryBackoff

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-01-31T12:00:00.000Z"])]
Basis = Literal["measured", "catalogue", "none"]
Score = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Name = Annotated[str, Field(min_length=1, max_length=64), PLAIN]
PageLimit = Annotated[
    int, Field(ge=1, le=100, description="Maximum number of items on the page."), BeforeValidator(digits)
]
AfterId = Annotated[
    str | None,
    AfterValidator(cursor),
    Field(description="The `next` of the previous page.", json_schema_extra={"pattern": f"^{JOB_ID.pattern}$"}),
]
NodeName = Annotated[str, Field(min_length=1, max_length=64, description="A node's name."), PLAIN]


class RequestModel(BaseModel):
    """Base of request bodies and queries. Refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class RetriedModel(RequestModel):
    """Base of requests for jobs whose attempts and back-off the client may choose."""

    max_attempts: MaxAttempts = None
    retry_backoff_seconds: RetryBackoff = None


class ResponseModel(BaseModel):
    """Base of response bodies."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())
