"""What files on a local disk need everywhere: durable renames, and one error for a full disk."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import StoreFull

# EFBIG: the file would exceed a limit of the process or of the file system.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def full_disk_as_store_full(message: str | None = None) -> Iterator[None]:
    """Raise StoreFull, with this message if one is given, in place of an OSError that means that the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(message) from error
        raise


def sync_file(path: Path) -> None:
    """Write the file's content to the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Write the folder's entries to the disk, so that renames within it survive a power failure."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
