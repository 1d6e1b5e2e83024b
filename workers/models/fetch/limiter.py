"""Limit bandwidth by a token bucket, in memory for one download or in a small file for a whole node.

The bucket stores one number: the time until which all taken bytes occupy the present rate. A reader advances it by the
duration of its bytes and waits until then, so that a changed rate applies from the next piece on.
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

# The burst of an idle bucket. Short, so that a limit also holds over one second.
_BURST_SECONDS = 0.1
# A time further ahead than any piece allows was written before a restart of the machine.
_ABSURD_SECONDS = 60.0
_PIECE_SECONDS = 0.02
_MIN_PIECE, _MAX_PIECE = 4 << 10, 1 << 20


def piece_bytes(mbps: float | None) -> int:
    """Return how many bytes to read at once under that limit, so that no reader waits long."""
    if mbps is None:
        return _MAX_PIECE
    return max(_MIN_PIECE, min(int(mbps * 125_000 * _PIECE_SECONDS), _MAX_PIECE))


def paid_at(before: float, now: float, count: int, mbps: float) -> float:
    """Return the time after `count` more bytes, in seconds of one monotonic clock."""
    before = before if before < now + _ABSURD_SECONDS else now
    return max(before, now - _BURST_SECONDS) + count / (mbps * 125_000)


class Bucket(Protocol):
    """A token bucket."""

    def take(self, count: int, mbps: float) -> float:
        """Take `count` bytes. Return how many seconds to wait now."""


class OwnBucket:
    """A bucket for the threads of one process."""

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
    """A bucket for all processes that open the same file. They share the machine's monotonic clock."""

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
