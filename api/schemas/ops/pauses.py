"""Requests and responses of pauses of the queue."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from api.schemas.fields import Name, NodeName, RequestModel, ResponseModel, Time
from shared.catalogue.job_types import JOB_TYPES
from wanworks.moments import Moment
from wanworks.requests import PLAIN

_SCOPES = ("model_id", "device", "node", "key", "job_type")


class PauseScope(RequestModel):
    """What is meant: one model, device, node, key or type of job; everything if none is given."""

    model_id: Name | None = None
    device: Annotated[str, Field(min_length=3, max_length=96, description="NODE/INDEX."), PLAIN] | None = None
    node: NodeName | None = None
    key: Annotated[Name, Field(description="Name or id of an API key: the jobs submitted with it.")] | None = None
    job_type: Annotated[str, Field(max_length=32, json_schema_extra={"enum": sorted(JOB_TYPES)})] | None = None

    @property
    def given(self) -> tuple[str, str] | None:
        """Return the field that is given, and its value; None: everything."""
        return next(((name, value) for name in _SCOPES if (value := getattr(self, name)) is not None), None)

    @model_validator(mode="after")
    def _only_one(self) -> "PauseScope":
        named = [name for name in _SCOPES if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"give only one of {', '.join(named)}, or none for everything")
        return self


class PauseRequest(PauseScope):
    """Start no more jobs of the scope. A pause of the same scope is replaced."""

    reason: Annotated[str, Field(max_length=500, description="Shown to those who look at the queue."), PLAIN] = ""
    until: Annotated[
        Moment | None, Field(description="When it ends by itself (ISO 8601 with an offset or Z). Left out: never.")
    ] = None
    running: Annotated[
        Literal["finish", "yield"],
        Field(
            description="What running jobs do. `finish`: they run to their end. `yield`: generations and downloads "
            "stop soon and return to the queue, without counting as failed."
        ),
    ] = "finish"


class Pause(ResponseModel):
    """A pause that is in force."""

    id: str
    scope: Literal["everything", "model_id", "device", "node", "key", "job_type"]
    value: Annotated[str | None, Field(description="The model, device, node, type, or name of the key. Null: all.")]
    reason: str
    running: Literal["finish", "yield"]
    created_at: Time
    created_by: str
    until: Time | None


class Pauses(ResponseModel):
    """The pauses that are in force, oldest first."""

    pauses: list[Pause]
