"""Error responses: RFC 9457 problem documents."""

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


class ValidationProblem(Problem):
    """An error that lists every invalid field."""

    errors: list[WrongField]
