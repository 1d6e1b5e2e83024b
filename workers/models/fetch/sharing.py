"""Link files that another model in the cache already has instead of fetching them: text encoders and VAEs are shared.

A blob's name is its checksum, so equal names mean equal files; the file is read first, because it may be damaged.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from workers.models.fetch.layout import RepoCache
from workers.models.fetch.plan import RemoteFile

_PIECE_BYTES = 4 << 20


def link_equal_files(cache: RepoCache, files: Iterable[RemoteFile], check: Callable[[], None]) -> int:
    """Make blobs of other repositories blobs of this one. Return the bytes that need not be fetched.

    Only weights are linked; other files are small. `check` may raise to stop.
    """
    return sum(file.size for file in files if file.lfs and _link(cache, file, check))


def _link(cache: RepoCache, file: RemoteFile, check: Callable[[], None]) -> bool:
    for other in sorted(cache.models_dir.glob(f"models--*/blobs/{file.oid}")):
        if other.parents[1] == cache.folder or other.stat().st_size != file.size:
            continue
        if _digest(other, check) != file.oid:
            continue
        lock = cache.try_lock(file.oid, 0.0)
        if lock is None:
            return False  # another process fetches it
        try:
            cache.partial(file.oid).unlink(missing_ok=True)
            os.link(other, cache.blob(file.oid))
        except OSError:  # it has come meanwhile, or the file system has no hard links
            return cache.blob(file.oid).exists()
        finally:
            lock.release()
        return True
    return False


def _digest(place: Path, check: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with place.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            check()
    return digest.hexdigest()
