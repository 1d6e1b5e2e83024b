"""Where a repo's files lie in a Hugging Face cache, and the durable steps that put them there.

MODELS/models--ORG--NAME/blobs/<oid>                  a whole file; its name is its checksum
MODELS/models--ORG--NAME/blobs/<oid>.incomplete       the beginning of one
MODELS/models--ORG--NAME/snapshots/<sha>/<path>       a relative link to a blob
MODELS/models--ORG--NAME/refs/<revision>              the sha that a branch or tag stands for
MODELS/.locks/models--ORG--NAME/<oid>.lock            held by whoever writes that blob, the library included
"""

import contextlib
import ctypes
import errno
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from shared.errors import HubRefused, StoreFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# Linux alone has it, and Python has no name for it. That it fails means nothing: fsync comes later.
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
_SYNC_FILE_RANGE_WRITE = 2
_REVISION = re.compile(r"\w[\w./+-]*")


@dataclass(frozen=True)
class RepoCache:
    """One repo's folder in the cache."""

    models_dir: Path
    repo: str

    @property
    def folder(self) -> Path:
        return self.models_dir / folder_name(self.repo)

    def blob(self, oid: str) -> Path:
        return self.folder / "blobs" / oid

    def partial(self, oid: str) -> Path:
        return self.folder / "blobs" / f"{oid}.incomplete"

    def snapshot(self, sha: str) -> Path:
        return self.folder / "snapshots" / sha

    def create(self) -> None:
        """Makes the folders. `snapshots` comes first: the library holds a repo without it to be corrupted."""
        with answering_full():
            for name in ("snapshots", "blobs", "refs"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)

    def link(self, sha: str, path: str, oid: str) -> None:
        """The snapshot's link to a blob, in one step, over whatever was there."""
        place = self.snapshot(sha) / path
        target = os.path.relpath(self.blob(oid), place.parent)
        if place.is_symlink() and str(place.readlink()) == target:
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f"{place.name}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.symlink_to(target)
        temporary.replace(place)

    def move_ref(self, revision: str, sha: str) -> None:
        """Points a branch or tag to the commit, durably. Raises HubRefused on a name that no revision can have."""
        if revision == sha:
            return
        if not _REVISION.fullmatch(revision) or ".." in revision:
            raise HubRefused(f"no revision can have the name {revision[:100]!r}")
        place = self.folder / "refs" / revision
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f"{place.name}.{uuid.uuid4().hex[:8]}.tmp")
        with temporary.open("w", encoding="ascii") as file:
            file.write(sha)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place)
        sync_folder(place.parent)

    def try_lock(self, oid: str, seconds: float) -> FileLock | None:
        """The right to write that blob; None where somebody else holds it for all of that time."""
        place = self.models_dir / ".locks" / folder_name(self.repo) / f"{oid}.lock"
        with answering_full():
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(place, thread_local=False)
            try:
                lock.acquire(timeout=seconds, poll_interval=0.02)
            except Timeout:
                return None
        return lock


def folder_name(repo: str) -> str:
    return f"models--{repo.replace('/', '--')}"


def free_bytes(folder: Path) -> int:
    """What this user may still write to the disk under `folder`."""
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize


def sync_folder(folder: Path) -> None:
    """Makes renames in it last."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def begin_writing_back(file: int, begin: int, count: int) -> int:
    """Has the kernel begin to put these bytes on the disk, so that the fsync after a large file is short; `count`."""
    if _sync_file_range is not None:
        _sync_file_range(file, ctypes.c_int64(begin), ctypes.c_int64(count), _SYNC_FILE_RANGE_WRITE)
    return count


@contextlib.contextmanager
def answering_full() -> Iterator[None]:
    """Raises StoreFull for a disk or quota that is full."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull("the disk of the model storage is full") from error
        raise
