"""Says of a file, without reading it to the end, whether it can be what its name promises.

A copy that was interrupted, a git-LFS pointer and an empty file are all there by name. It knows no model and no cache.
"""

import os
from functools import lru_cache
from pathlib import Path

from shared.models.verification import MAX_HEADER_BYTES, promised_size

# The first line of the small text file that git leaves in the place of one that git-LFS has not fetched.
_POINTER = (b"version https://git-lfs.github.com/spec/v1", b"version https://hawser.github.com/spec/v1")
_MAX_POINTER_BYTES = 1024


def is_pointer(path: Path) -> bool:
    """Whether it is a git-LFS pointer. False for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size <= _MAX_POINTER_BYTES and file.read(64).startswith(_POINTER)
    except OSError:
        return False


def has_content(path: Path) -> bool:
    """Whether it is a file that is neither empty nor a git-LFS pointer. Raises OSError where the disk does."""
    return path.is_file() and path.stat().st_size > 0 and not is_pointer(path)


def is_cut_off(path: Path) -> bool:
    """Whether a safetensors file has another length than its own header promises, or no header.

    The answer is kept as long as the file is the same one. Raises OSError where the disk does.
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
