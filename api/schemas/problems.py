"""Bodies of errors: RFC 9457 problems."""

from api.schemas.fields import Public


class WrongField(Public):
    """One wrong field: where it is, what is wrong, and the kind of mistake."""

    loc: list[str | int]
    msg: str
    type: str


class Problem(Public):
    """RFC 9457. `code` is stable, `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str


class ValidationProblem(Problem):
    """A problem that names each wrong field."""

    errors: list[WrongField]
