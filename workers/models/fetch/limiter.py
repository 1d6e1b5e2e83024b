"""How fast bytes may pass: a token bucket, kept in memory for one download or in a small file for a whole node.

The bucket stores one number: the moment at which all that was taken has been paid for. Whoever takes bytes moves it on
by their time at the present rate and waits until then, so that a changed rate holds from the next piece on.
"""

import contextlib
import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

# What an idle bucket gives at once. Short, so that a limit also holds over a second.
_BURST_SECONDS = 0.1
# A moment further ahead than any piece can be comes from before a restart of the machine.
_ABSURD_SECONDS = 60.0
_PIECE_SECONDS = 0.02
_MIN_PIECE, _MAX_PIECE = 4 << 10, 1 << 20


def piece_bytes(mbps: float | None) -> int:
    """How much to read at once under that limit, in bytes: small enough that a reader never owes for long."""
    if mbps is None:
        return _MAX_PIECE
    return max(_MIN_PIECE, min(int(mbps * 125_000 * _PIECE_SECONDS), _MAX_PIECE))


def paid_at(before: float, now: float, count: int, mbps: float) -> float:
    """When `count` bytes more are paid for, given when those before them are. Seconds of one monotonic clock."""
    before = before if before < now + _ABSURD_SECONDS else now
    return max(before, now - _BURST_SECONDS) + count / (mbps * 125_000)


class Bucket(Protocol):
    """Bytes taken from it are owed time."""

    def take(self, count: int, mbps: float) -> float:
        """Takes `count` bytes, and says how many seconds to wait now."""


class OwnBucket:
    """For the threads of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._paid_at = 0.0

    def take(self, count: int, mbps: float) -> float:
        with self._lock:
            now = self._clock()
            self._paid_at = paid_at(self._paid_at, now, count, mbps)
            return max(0.0, self._paid_at - now)


class SharedBucket:
    """For all processes that open the same file. The clock is the machine's monotonic one, which they share."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._lock = threading.Lock()  # flock tells processes apart, not the threads of one

    def take(self, count: int, mbps: float) -> float:
        with self._lock, self._alone():
            now = time.monotonic()
            stored = os.pread(self._file, 8, 0)
            before = struct.unpack("<d", stored)[0] if len(stored) == 8 else 0.0
            after = paid_at(before, now, count, mbps)
            os.pwrite(self._file, struct.pack("<d", after), 0)
            return max(0.0, after - now)

    def close(self) -> None:
        os.close(self._file)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
