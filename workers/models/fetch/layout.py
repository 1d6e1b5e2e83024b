"""The layout of a repo's files in a Hugging Face cache, and the durable steps that write them.

MODELS/models--ORG--NAME/blobs/<oid>                  a complete file; its name is its checksum
MODELS/models--ORG--NAME/blobs/<oid>.incomplete       the beginning of one
MODELS/models--ORG--NAME/snapshots/<sha>/<path>       a relative link to a blob
MODELS/models--ORG--NAME/refs/<revision>              the sha that a branch or tag refers to
MODELS/.locks/models--ORG--NAME/<oid>.lock            held by the process that writes that blob, the library included
"""

import contextlib
import ctypes
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from shared.errors import HubRefused
from shared.storage.disk import full_disk_as_store_full, sync_folder

# Exists on Linux only, without a name in Python. Its failure does no harm: fsync follows.
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
        """Create the folders, `snapshots` first: the library considers a repo without it corrupted."""
        with answering_full():
            for name in ("snapshots", "blobs", "refs"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)

    def link(self, sha: str, path: str, oid: str) -> None:
        """Create the snapshot's link to a blob atomically, replacing an existing file."""
        place = self.snapshot(sha) / path
        target = os.path.relpath(self.blob(oid), place.parent)
        if place.is_symlink() and str(place.readlink()) == target:
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f"{place.name}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.symlink_to(target)
        temporary.replace(place)

    def move_ref(self, revision: str, sha: str) -> None:
        """Point a branch or tag to the commit, durably. Raises HubRefused for an invalid revision name."""
        if revision == sha:
            return
        if not _REVISION.fullmatch(revision) or ".." in revision:
            raise HubRefused(f"{revision[:100]!r} is not a valid name of a revision")
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
        """Return the lock to write that blob; None if another process holds it for all of that time."""
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
    """Return how many bytes this user may still write to the disk of `folder`."""
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize


def begin_writing_back(file: int, begin: int, count: int) -> int:
    """Start writing these bytes to disk, so that the fsync after a large file is short. Return `count`."""
    if _sync_file_range is not None:
        _sync_file_range(file, ctypes.c_int64(begin), ctypes.c_int64(count), _SYNC_FILE_RANGE_WRITE)
    return count


def answering_full() -> contextlib.AbstractContextManager[None]:
    """Raise StoreFull if the disk of the model storage is full."""
    return full_disk_as_store_full("the disk of the model storage is full")
