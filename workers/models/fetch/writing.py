"""Append received bytes to a partial file, bypassing the page cache if the file system allows it.

Direct writes avoid the copy into the page cache. A download of a hundred gigabytes then neither evicts other pages
nor leaves many dirty pages that delay other writers (measured against ordinary writes: docs/measurements.md,
downloads). Direct writes must begin and end on a block; other bytes are written normally.
"""

import contextlib
import errno
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

from workers.models.fetch.layout import answering_full, begin_writing_back

BUFFER_BYTES = 512 << 10  # a kill loses at most this many received bytes of a file
_BLOCK_BYTES = 4096  # a multiple of every disk's block
_HELD_SECONDS = 0.25  # that received bytes wait for the buffer to fill
_WRITE_BACK_BYTES = 16 << 20


class Appender:
    """The end of one file. `offset` is its size on disk; received bytes beyond it are buffered here."""

    def __init__(self, path: Path, descriptor: int, offset: int, wrote: Callable[[memoryview, int], None]) -> None:
        """`descriptor` is open for ordinary writing. `wrote(piece, offset)` is called for every write."""
        self.offset = offset
        self._file = descriptor
        self._wrote = wrote
        self._buffer = memoryview(mmap.mmap(-1, BUFFER_BYTES))  # a mapping begins on a block
        self._held = 0
        self._held_since = time.monotonic()
        self._written_back = offset
        self._direct: int | None = None
        with contextlib.suppress(OSError):  # the file system has no direct writes
            self._direct = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)

    @property
    def reached(self) -> int:
        """Return the size of the file including buffered bytes."""
        return self.offset + self._held

    def space(self, most: int) -> memoryview:
        """Return the buffer for the next bytes, `most` at most; never empty."""
        first = self._to_block()
        end = min(BUFFER_BYTES, self._held + most, first or BUFFER_BYTES)
        return self._buffer[self._held : end]

    def received(self, count: int) -> None:
        """Record that so many bytes were received into `space`. Raises OSError and StoreFull."""
        if self._held == 0:
            self._held_since = time.monotonic()
        self._held += count
        full = self._held == (self._to_block() or BUFFER_BYTES)
        if full or time.monotonic() - self._held_since > _HELD_SECONDS:
            self._write(self._held if self._direct is None or self._to_block() else self._held & ~(_BLOCK_BYTES - 1))

    def flush(self) -> None:
        """Write all buffered bytes. Raises OSError and StoreFull."""
        if not self._to_block():
            self._write(self._held & ~(_BLOCK_BYTES - 1))
        self._write(self._held)

    def close(self) -> None:
        """Close. Bytes still buffered are lost."""
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None

    def _to_block(self) -> int:
        """Return the bytes from the file's end to the next block; 0 if it ends on one."""
        return -self.offset % _BLOCK_BYTES

    def _write(self, count: int) -> None:
        """Write the first `count` buffered bytes, and move the rest to the front."""
        done = 0
        while done < count:
            piece = self._buffer[done:count]
            with answering_full():
                put = self._put(piece)
            self._wrote(piece[:put], self.offset)
            self.offset += put
            done += put
        if done:
            self._held -= done
            self._buffer[: self._held] = self._buffer[done : done + self._held]
            self._held_since = time.monotonic()

    def _put(self, piece: memoryview) -> int:
        if self._direct is not None and not self.offset % _BLOCK_BYTES and not len(piece) % _BLOCK_BYTES:
            try:
                put = os.pwrite(self._direct, piece, self.offset)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self.close()  # some file systems accept the open and refuse direct writes only here
            else:
                if put % _BLOCK_BYTES == 0:
                    return put
                return put & ~(_BLOCK_BYTES - 1) or self._put_ordinarily(piece)
        return self._put_ordinarily(piece)

    def _put_ordinarily(self, piece: memoryview) -> int:
        put = os.pwrite(self._file, piece, self.offset)
        end = self.offset + put
        if end - self._written_back >= _WRITE_BACK_BYTES:
            begin_writing_back(self._file, self._written_back, end - self._written_back)
            self._written_back = end
        return put
