"""Reads a snapshot's files and says what they are: their checksums, computed offline and side by side.

It takes the disk and the processor only when nobody else wants them, and can be stopped between two pieces. It knows no
jobs and no database; whether what it finds is right is `shared/models/verification.py`'s to say.
"""

import ctypes
import errno
import hashlib
import os
import platform
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any

from shared.models import replicas
from shared.models.verification import MAX_HEADER_BYTES, Expected, FaultType, Found, is_oid, promised_size

_LOOK_SECONDS = 0.1  # between two calls of `check`
_PIECE_BYTES = 1 << 20
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_IDLE = 3 << 13
_LEAST_NICE = 19


@dataclass(frozen=True)
class Known:
    """A file as it was when it was last found right."""

    size: int  # bytes
    oid: str
    mtime: float
    inode: int


@dataclass(frozen=True)
class Read:
    """One file as it is now. `mtime` and `inode` are of the blob, None where there is none."""

    path: str
    found: Found | None  # None: it is not there
    mtime: float | None = None
    inode: int | None = None


def expected_files(snapshot: Path, recorded: Mapping[str, Expected]) -> list[Expected]:
    """What should be there, by path: as recorded, as the snapshot's links say, and as the model's indexes say.

    A link names the checksum of what it points to; a file that only an index names has neither size nor checksum yet.
    """
    expected = {path: Expected(path, None, None) for path in replicas.indexed_files(snapshot)}
    for path in _entries(snapshot):
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
    """Reads the files, the largest first, as many at once as there are cores; yields every 0.1 s the bytes read so far.

    A file that is as it was when `known` is not read. `came` is told of each file at once, in the caller's thread.
    `check` raises in order to stop, which takes effect within a piece of each file.
    """
    blobs: dict[tuple[int, int], list[Expected]] = {}  # what several paths share is read once
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
            done, _ = wait(waiting, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
            check()
            for future in done:
                for file in waiting.pop(future):
                    came(replace(future.result(), path=file.path))
            yield reading.bytes
    yield reading.bytes


class _Stopped(Exception):
    """The reading is being stopped; never leaves this module."""


class _Reading:
    """What the threads have in common."""

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
    """A file as `hashlib.file_digest` reads it, stoppable between two pieces."""

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
    """This thread alone gets what others leave: of the disk by the idle class, of the processor by niceness."""
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        # Refused in some containers; it is a courtesy, and the work goes on without it.
        ctypes.CDLL(None, use_errno=True).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LEAST_NICE)


def _entries(snapshot: Path) -> Iterable[str]:
    """Every file and link under the snapshot, dangling ones too."""
    for folder, folders, names in os.walk(snapshot):
        linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in (*names, *linked):
            yield os.path.relpath(os.path.join(folder, name), snapshot)


def _at_first_sight(place: Path, file: Expected, known: Known | None) -> Read | os.stat_result:
    """What can be said without reading; else the file's status."""
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
            if valid and size in (None, status.st_size):  # else the verdict is clear without reading on
                stream.seek(0)
                oid = _digest(_Pieces(stream, reading), file.oid, status.st_size)
            found = Found(size=status.st_size, oid=oid, header_size=promised, header_valid=valid)
    except OSError:
        return Read(file.path, Found(FaultType.UNREADABLE))
    return Read(file.path, found, status.st_mtime, status.st_ino)


def _header(stream: FileIO, size: int) -> tuple[int | None, bool]:
    """(the size that a safetensors header promises, whether there is a header at all)"""
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
