"""Times in requests: ISO 8601 with an offset or Z."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_moment(value: Any) -> datetime:
    """Return the time in UTC. Raises ValueError if it is not a text such as 2026-01-31T12:00:00Z."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("must be a time such as 2026-01-31T12:00:00Z")
    digits, fraction, rest = re.split(r"(\.\d+)", value) if "." in value else (value, "", "")
    try:
        return datetime.fromisoformat(f"{digits}{fraction[:7]}{rest}".upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("is not an existing date and time; give one such as 2026-01-31T12:00:00Z") from None


Moment = Annotated[datetime, BeforeValidator(parse_moment), Field(examples=["2026-01-31T12:00:00Z"])]
