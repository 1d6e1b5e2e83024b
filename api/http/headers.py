"""Parse request headers. Pure functions: a missing or ignorable header is None, one that must be refused raises."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from shared.errors import FieldError, InvalidField

MAX_WAIT_SECONDS = 60
_KEY = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")
_WAIT = re.compile(r"""(?:^|[,;])\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?=$|[,;])""", re.IGNORECASE)
_ETAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_STREAM_ID = re.compile(r"[0-9]{1,18}-[0-9]{1,18}")
_BYTE_RANGE = re.compile(r"(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))")
_MAX_RANGES = 100


@dataclass(frozen=True)
class Unsatisfiable:
    """The Range header is well-formed, but no requested byte exists."""


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """Return the Idempotency-Key. Raises InvalidField if it is not 1 to 255 printable ASCII characters."""
    key = headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidField(
            FieldError(("header", "Idempotency-Key"), "must be 1 to 255 printable ASCII characters", "value_error")
        )
    return key


def wait_seconds(headers: Mapping[str, str]) -> int | None:
    """Return N of ``Prefer: wait=N``, at most 60 seconds. Malformed preferences are ignored (RFC 7240)."""
    match = _WAIT.search(headers.get("prefer", ""))
    return min(int(match[1]), MAX_WAIT_SECONDS) if match else None


def last_event_id(headers: Mapping[str, str]) -> str | None:
    """Return the Last-Event-ID. Ids of another form are ignored."""
    value = headers.get("last-event-id", "")
    return value if _STREAM_ID.fullmatch(value) else None


def none_match(headers: Mapping[str, str], etag: str) -> bool:
    """Return whether ``If-None-Match`` has this (quoted, strong) tag. A malformed list matches nothing."""
    value = headers.get("if-none-match", "").strip()
    if value == "*":
        return True
    tags = [match for part in value.split(",") if (match := _ETAG.fullmatch(part.strip()))]
    return any(f'"{match[2]}"' == etag for match in tags)


def byte_ranges(value: str, size: int) -> str | Unsatisfiable | None:
    """Return the satisfiable part of a ``Range`` header for `size` bytes, in normal form.

    None: the header must be ignored (another unit, malformed, or too many ranges; RFC 9110, 14.2).
    """
    unit, equals, spec = value.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    parts = [part.strip() for part in spec.split(",") if part.strip()]
    if not parts or len(parts) > _MAX_RANGES:
        return None
    good: list[str] = []
    for part in parts:
        match = _BYTE_RANGE.fullmatch(part)
        if match is None:
            return None
        first, last, suffix = match[1], match[2], match[3]
        if first is not None and last is not None and int(last) < int(first):
            return None
        if (suffix is not None and int(suffix) > 0 and size > 0) or (first is not None and int(first) < size):
            good.append(part)
    return f"bytes={','.join(good)}" if good else Unsatisfiable()


def takes_gzip(accepted: str) -> bool:
    """Return whether an ``Accept-Encoding`` header names gzip with a weight above zero."""
    for part in accepted.lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() == "gzip":
            return re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", weight) is None
    return False
