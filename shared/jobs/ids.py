"""Ids of jobs and messages, which increase with time."""

import os
import threading
import time
import uuid

_READ_BYTES = 4096  # from the system at a time: a call for each id costs more than the rest of it
_BYTES_PER_ID = 8


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
    value = (milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | (_RANDOM.bits() >> 2)
    return str(uuid.UUID(int=value))


class _Random:
    """Read random bits of the system ahead. Safe in threads; a forked process does not repeat its parent's."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._ahead = memoryview(b"")

    def bits(self) -> int:
        """Return 64 random bits."""
        with self._lock:
            if not self._ahead:
                self._ahead = memoryview(os.urandom(_READ_BYTES))
            taken, self._ahead = self._ahead[:_BYTES_PER_ID], self._ahead[_BYTES_PER_ID:]
        return int.from_bytes(taken)


_RANDOM = _Random()
os.register_at_fork(after_in_child=_RANDOM.forget)  # and takes a new lock: another thread may hold the old one
