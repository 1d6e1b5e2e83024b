"""Error responses: RFC 9457 problem documents."""

from typing import Annotated, Any

from pydantic import Field

from api.schemas.fields import ResponseModel


class WrongField(ResponseModel):
    """An invalid field: its location, a message and the type of the error."""

    loc: list[str | int]
    msg: str
    type: str


class Problem(ResponseModel):
    """An error (RFC 9457). `code` is stable, `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str


class MissingMemory(ResponseModel):
    """How much memory a device lacks for the job, in MB of 10^6 bytes."""

    device: str
    device_memory_mb: int
    host_memory_mb: int


class AlternativeRequest(ResponseModel):
    """A request that fits: a body to send as it is (with the same image, if there was one), and what differs."""

    request: dict[str, Any]
    changes: dict[str, Any]


class ValidationProblem(Problem):
    """An error that lists every invalid field, or says what memory is missing (`not_enough_memory`)."""

    errors: list[WrongField]
    missing: Annotated[
        list[MissingMemory], Field(description="If no registered device has the memory: what each one lacks.")
    ] = []
    alternatives: Annotated[
        list[AlternativeRequest],
        Field(description="Requests like this one that fit a registered device; may be empty."),
    ] = []
