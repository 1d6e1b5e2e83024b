"""Convert a response to its body, or to an error with one readable sentence. Pure."""

import json
from datetime import UTC, datetime
from typing import Any

from wanworks.client.retries import retry_after
from wanworks.client.steps import Answer
from wanworks.errors import (
    AccessRefused,
    ApiRefused,
    ApiUnreachable,
    BadRequest,
    NotThere,
    ServerFault,
    StateForbids,
    TooBusy,
    WrongField,
)

_KINDS: dict[int, type[ApiRefused]] = {
    400: BadRequest,
    401: AccessRefused,
    403: AccessRefused,
    404: NotThere,
    409: StateForbids,
    413: BadRequest,
    415: BadRequest,
    416: BadRequest,
    422: BadRequest,
    429: TooBusy,
    503: TooBusy,
}
_PLACES = ("body", "query", "header")  # locations of fields; the name is sufficient


def body_of(answer: Answer) -> Any:
    """Return the JSON of a success; None without a body. Raises ApiRefused, or ApiUnreachable for a foreign server."""
    if not answer.good:
        raise refusal(answer)
    if not answer.content:
        return None
    try:
        return json.loads(answer.content)
    except ValueError:
        raise ApiUnreachable(f"the server at {answer.url} is not wanworks") from None


def refusal(answer: Answer) -> ApiRefused:
    kind = _KINDS.get(answer.status, ServerFault if answer.status >= 500 else ApiRefused)
    retry = retry_after(answer, datetime.now(UTC))
    try:
        problem = json.loads(answer.content)
        detail = problem.get("detail") or problem.get("title") or ""
        fields = [_wrong(error) for error in problem.get("errors") or ()]
        code, request_id = problem.get("code"), problem.get("request_id")
    except (ValueError, AttributeError, KeyError, TypeError):  # for example a proxy's page
        return kind(f"HTTP {answer.status} from {answer.url}", answer.status, retry_after_seconds=retry)
    named = (f"{field.name}: {field.message}" for field in fields)
    text = "; ".join(part for part in (detail, *(each for each in named if each not in detail)) if part)
    return kind(
        text or f"HTTP {answer.status}",
        answer.status,
        code,
        detail=detail or None,
        fields=fields,
        request_id=request_id,
        retry_after_seconds=retry,
    )


def _wrong(error: dict[str, Any]) -> WrongField:
    loc = [str(part) for part in error["loc"]]
    return WrongField(".".join(loc[1:] if loc[:1] and loc[0] in _PLACES else loc), str(error["msg"]))
