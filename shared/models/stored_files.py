"""Checks whether a file can be complete, without reading all of it.

It detects interrupted copies, git-LFS pointers and empty files. It knows neither models nor the cache.
"""

import os
from functools import lru_cache
from pathlib import Path

from shared.models.verification import MAX_HEADER_BYTES, promised_size

# The first line of the text file that stands for a file that git-LFS has not fetched.
_POINTER = (b"version https://git-lfs.github.com/spec/v1", b"version https://hawser.github.com/spec/v1")
_MAX_POINTER_BYTES = 1024


def is_pointer(path: Path) -> bool:
    """Return whether the file is a git-LFS pointer; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size <= _MAX_POINTER_BYTES and file.read(64).startswith(_POINTER)
    except OSError:
        return False


def has_content(path: Path) -> bool:
    """Return whether it is a file that is neither empty nor a git-LFS pointer. Raises OSError."""
    return path.is_file() and path.stat().st_size > 0 and not is_pointer(path)


def is_cut_off(path: Path) -> bool:
    """Return whether a safetensors file has another length than its header gives, or no header.

    The result is cached while the file is unchanged. Raises OSError.
    """
    status = path.stat()
    return _is_cut_off(str(path), status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _is_cut_off(path: str, inode: int, size: int, mtime: int) -> bool:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            return True
        return promised_size(file.read(length)) != size
