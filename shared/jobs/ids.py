"""Ids of jobs and messages, which increase with time."""

import secrets
import time
import uuid


def new_ids(count: int) -> list[str]:
    """Return so many ids that sort in this order."""
    ids: list[str] = []
    while len(ids) < count:
        one = new_id()
        if not ids or one > ids[-1]:  # two of the same quarter of a microsecond may be in the wrong order
            ids.append(one)
    return ids


def new_id() -> str:
    """Return a UUIDv7 (RFC 9562, method 3): milliseconds, their fraction, random bits. Ids sort by creation."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = rest * 4096 // 1_000_000
    value = (milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | secrets.randbits(62)
    return str(uuid.UUID(int=value))
