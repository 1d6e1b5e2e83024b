"""Remove the published weights of components that have a 16-bit copy."""

from collections.abc import Collection
from pathlib import Path

from shared.models.prepared import Copy
from shared.models.verification import is_oid
from shared.storage.disk import sync_folder
from workers.models.fetch.layout import RepoCache


def drop_sources(cache: RepoCache, snapshot: Path, copies: Collection[Copy]) -> tuple[list[str], int]:
    """Remove them. Return (the removed paths within the snapshot, the freed bytes).

    A file that another snapshot of the repository uses keeps its blob. The index of shards stays: it names what a
    repair has to download.
    """
    removed: list[str] = []
    freed = 0
    for path in sorted({path for copy in copies if copy.form == "bf16" for path in copy.sources}):
        place = snapshot / path
        if not place.is_symlink() and not place.exists():
            continue
        blob = place.readlink().name if place.is_symlink() else None
        size = place.stat().st_size if place.exists() else 0
        place.unlink()
        removed.append(path)
        if blob is None:
            freed += size
        elif is_oid(blob) and not _is_used(cache, blob):
            status = cache.blob(blob).stat() if cache.blob(blob).exists() else None
            cache.blob(blob).unlink(missing_ok=True)
            freed += size if status is not None and status.st_nlink == 1 else 0
    if removed:
        sync_folder(cache.folder / "blobs")
    return removed, freed


def _is_used(cache: RepoCache, blob: str) -> bool:
    places = (cache.folder / "snapshots").rglob("*")
    return any(place.is_symlink() and place.readlink().name == blob for place in places)
