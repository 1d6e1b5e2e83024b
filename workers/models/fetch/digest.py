"""Compute the checksum of a file that is still being written.

The writer hashes new bytes while they are in the processor's cache; reading them back from the page cache in
another thread was slower (measured: docs/measurements.md, downloads). A parallel thread re-reads the part that an
earlier attempt left, and hands over to the writer once it has caught up.
"""

import hashlib
import os
import threading

_PIECE = 1 << 20


class Digest:
    """The running checksum of one file from its first byte to its last."""

    def __init__(self, file: int, size: int, lfs: bool, written: int) -> None:
        """Start. `file` is a descriptor that stays open longer; it already has `written` bytes."""
        self._file, self._size = file, size
        start = hashlib.sha256() if lfs else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        self._hash = start
        self._reached = 0
        self._written = written
        self._turn = threading.Lock()  # guards _written against the thread's last look at it
        self._stopped = False
        self._error: OSError | None = None
        self._thread: threading.Thread | None = None
        if written:
            self._thread = threading.Thread(target=self._catch_up, name="digest", daemon=True)
            self._thread.start()

    def wrote(self, piece: memoryview, offset: int) -> None:
        """Record that `piece` was written at `offset`, where the one before it ended."""
        with self._turn:
            self._written = offset + len(piece)
            if self._reached != offset:
                return  # the thread will come to it
        self._hash.update(piece)
        self._reached += len(piece)

    def stop(self) -> None:
        """End the thread without a checksum. Call before the descriptor is closed."""
        self._stopped = True
        if self._thread is not None:
            self._thread.join()

    def result(self, seconds: float) -> str | None:
        """Return the checksum of the whole file in hex; None if it is not ready within that time. Raises OSError."""
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                return None
        if self._error is not None:
            raise self._error
        return self._hash.hexdigest()

    def _catch_up(self) -> None:
        buffer = memoryview(bytearray(_PIECE))
        try:
            while not self._stopped:
                ready = self._written - self._reached
                count = os.preadv(self._file, [buffer[: min(ready, _PIECE)]], self._reached)
                if count == 0:
                    raise OSError(f"the file ends at byte {self._reached}")
                self._hash.update(buffer[:count])
                with self._turn:
                    self._reached += count
                    if self._reached == self._written:
                        return
        except OSError as error:
            self._error = error
