"""Read a snapshot's files and compute their checksums, offline and in parallel.

It uses the disk and the processor at the lowest priority, and can be stopped between two chunks. It must not depend on
jobs or the database; `shared/models/verification.py` decides whether the checksums are right.
"""

import ctypes
import errno
import hashlib
import os
import platform
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any

from shared.models import replicas
from shared.models.verification import MAX_HEADER_BYTES, Expected, FaultType, Found, is_oid, promised_size

_CHECK_SECONDS = 0.1  # between two calls of `check`
_PIECE_BYTES = 1 << 20
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_IDLE = 3 << 13
_LEAST_NICE = 19


@dataclass(frozen=True)
class Known:
    """A file's state when it was last verified."""

    size: int  # bytes
    oid: str
    mtime: float
    inode: int


@dataclass(frozen=True)
class Read:
    """One file's present state. `mtime` and `inode` are of the blob, None if there is none."""

    path: str
    found: Found | None  # None if the file does not exist
    mtime: float | None = None
    inode: int | None = None


def expected_files(
    snapshot: Path, recorded: Mapping[str, Expected], alone: Collection[str] | None = None
) -> list[Expected]:
    """Return the expected files by path: from the records, the snapshot's links, and the model's indexes.

    `alone`: only these files are those of the model. A link names the checksum of its target; a file that only an index
    names has neither size nor checksum yet.
    """
    indexed = replicas.indexed_files(snapshot) if alone is None else alone
    expected = {path: Expected(path, None, None) for path in indexed}
    for path in _entries(snapshot):
        if alone is not None and path not in alone:
            continue
        place = snapshot / path
        name = place.readlink().name if place.is_symlink() else ""
        expected[path] = Expected(path, None, name if is_oid(name) else None)
    return [({**expected, **recorded})[path] for path in sorted({**expected, **recorded})]


def read_files(
    snapshot: Path,
    expected: Sequence[Expected],
    known: Mapping[str, Known],
    *,
    check: Callable[[], None],
    came: Callable[[Read], None],
    threads: int | None = None,
) -> Iterator[int]:
    """Read the files, largest first, one per core at a time. Yield every 0.1 s the bytes read so far.

    A file unchanged since it was `known` is not read. `came` is called for each file at once, in the caller's thread.
    `check` may raise to stop, which takes effect within one chunk of each file.
    """
    blobs: dict[tuple[int, int], list[Expected]] = {}  # a blob that several paths share is read once
    sizes: dict[tuple[int, int], int] = {}
    for file in expected:
        place = snapshot / file.path
        read = _at_first_sight(place, file, known.get(file.path))
        if isinstance(read, Read):
            came(read)
        else:
            blobs.setdefault((read.st_dev, read.st_ino), []).append(file)
            sizes[read.st_dev, read.st_ino] = read.st_size
    count = threads or len(os.sched_getaffinity(0))
    reading = _Reading()
    with _pool(count, reading) as pool:
        waiting: dict[Future[Read], list[Expected]] = {
            pool.submit(_read, snapshot, blobs[key], reading): blobs[key]
            for key in sorted(blobs, key=lambda each: -sizes[each])
        }
        while waiting:
            done, _ = wait(waiting, timeout=_CHECK_SECONDS, return_when=FIRST_COMPLETED)
            check()
            for future in done:
                for file in waiting.pop(future):
                    came(replace(future.result(), path=file.path))
            yield reading.bytes
    yield reading.bytes


class _Stopped(Exception):
    """Raised in the reading threads to stop them; never leaves this module."""


class _Reading:
    """The state that the threads share."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self.bytes = 0

    def count(self, size: int) -> None:
        with self._lock:
            self.bytes += size
        if self.stopped.is_set():
            raise _Stopped


class _Pieces:
    """A file for `hashlib.file_digest` that can be stopped between two chunks."""

    def __init__(self, file: FileIO, reading: _Reading) -> None:
        self._file = file
        self._reading = reading

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self._reading.count(count)
        return count


@contextmanager
def _pool(threads: int, reading: _Reading) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="integrity", initializer=_step_back)
    try:
        yield pool
    finally:
        reading.stopped.set()
        pool.shutdown(cancel_futures=True)


def _step_back() -> None:
    """Lower the priority of this thread: the idle class for the disk, niceness for the processor."""
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        # Some containers refuse it; the priority is optional.
        ctypes.CDLL(None, use_errno=True).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LEAST_NICE)


def _entries(snapshot: Path) -> Iterable[str]:
    """Yield every file and link under the snapshot, including dangling ones."""
    for folder, folders, names in os.walk(snapshot):
        linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in (*names, *linked):
            yield os.path.relpath(os.path.join(folder, name), snapshot)


def _at_first_sight(place: Path, file: Expected, known: Known | None) -> Read | os.stat_result:
    """Return the result if the file need not be read; else the file's status."""
    try:
        status = place.stat()
    except OSError as error:
        if not place.is_symlink():
            absent = error.errno in (errno.ENOENT, errno.ENOTDIR)
            return Read(file.path, None if absent else Found(FaultType.UNREADABLE))
        lost = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        return Read(file.path, Found(FaultType.BROKEN_LINK if lost else FaultType.UNREADABLE))
    if not stat.S_ISREG(status.st_mode):
        return Read(file.path, Found(FaultType.UNREADABLE), status.st_mtime, status.st_ino)
    now = Known(status.st_size, file.oid or "", status.st_mtime, status.st_ino)
    if known is not None and now == known and file.size in (None, status.st_size):
        found = Found(size=status.st_size, oid=known.oid, trusted=True)
        return Read(file.path, found, status.st_mtime, status.st_ino)
    return status


def _read(snapshot: Path, files: Sequence[Expected], reading: _Reading) -> Read:
    file = next((each for each in files if each.oid is not None), files[0])
    place = snapshot / file.path
    try:
        with FileIO(place) as stream:
            status = os.fstat(stream.fileno())
            promised, valid = _header(stream, status.st_size) if place.suffix == ".safetensors" else (None, True)
            size = file.size if file.size is not None else promised
            oid = None
            if valid and size in (None, status.st_size):  # otherwise the result is known without reading further
                stream.seek(0)
                oid = _digest(_Pieces(stream, reading), file.oid, status.st_size)
            found = Found(size=status.st_size, oid=oid, header_size=promised, header_valid=valid)
    except OSError:
        return Read(file.path, Found(FaultType.UNREADABLE))
    return Read(file.path, found, status.st_mtime, status.st_ino)


def _header(stream: FileIO, size: int) -> tuple[int | None, bool]:
    """Return the size that a safetensors header states, and whether there is a header."""
    length = int.from_bytes(stream.read(8) or b"", "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        return None, False
    header = b""
    while len(header) < length and (piece := stream.read(length - len(header))):
        header += piece
    promised = promised_size(header)
    return promised, promised is not None


def _digest(stream: Any, oid: str | None, size: int) -> str:
    if oid is not None and len(oid) == 40:
        start = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    else:
        start = hashlib.sha256()
    return hashlib.file_digest(stream, lambda: start, _bufsize=_PIECE_BYTES).hexdigest()
