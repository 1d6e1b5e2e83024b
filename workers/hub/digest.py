"""The checksum of a file that is still being written, computed beside the writing.

It reads what has been written from the page cache, so that the writer's thread never waits for it; what an earlier
attempt left is re-read in the same way while new bytes already arrive.
"""

import hashlib
import os
import threading

_PIECE = 1 << 20


class Digest:
    """A thread that follows the file from its first byte to its last."""

    def __init__(self, file: int, size: int, lfs: bool, written: int) -> None:
        """`file` is an open descriptor that outlives this; `written` bytes are there already."""
        self._file, self._size = file, size
        start = hashlib.sha256() if lfs else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        self._hash = start
        self._written = written
        self._told = written
        self._more = threading.Event()
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="digest", daemon=True)
        self._thread.start()

    def advance(self, written: int) -> None:
        """The file now has that many bytes."""
        self._written = written
        if written - self._told >= _PIECE or written >= self._size:
            self._told = written
            self._more.set()

    def stop(self) -> None:
        """Ends the thread; there will be no checksum. To be called before the descriptor is closed."""
        self._stopped = True
        self._more.set()
        self._thread.join()

    def result(self, seconds: float) -> str | None:
        """The checksum in hex; None where it is not ready within that time. Raises what reading raised."""
        self._thread.join(seconds)
        if self._error is not None:
            raise self._error
        return None if self._thread.is_alive() else self._hash.hexdigest()

    @property
    def reached(self) -> int:
        """Bytes that have been read so far."""
        return self._reached

    _reached = 0

    def _run(self) -> None:
        buffer = memoryview(bytearray(_PIECE))
        try:
            while self._reached < self._size and not self._stopped:
                ready = self._written - self._reached
                if ready < _PIECE and self._written < self._size:
                    self._more.wait(1.0)
                    self._more.clear()
                    continue
                count = os.preadv(self._file, [buffer[: min(ready, _PIECE)]], self._reached)
                if count == 0:
                    raise OSError(f"the file ends at byte {self._reached}")
                self._hash.update(buffer[:count])
                self._reached += count
        except OSError as error:
            self._error = error
