"""List the partial files in a cache, find the downloads that need them, and remove those that none needs.

A partial file is identified by its repo and its oid. Two downloads need the same one if both their commits contain that
file, so a cancelled download may only remove what no other needs.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.models.fetch.layout import RepoCache

_REPO_FOLDER = re.compile(r"models--(?:(?P<owner>[\w.-]+?)--)?(?P<name>[\w.-]+)")
# The library's own: named by the oid and a random part, and never resumed.
_NAME = re.compile(r"(?P<oid>[0-9a-f]{40}|[0-9a-f]{64})(?P<foreign>\.[\w-]+)?\.incomplete")


@dataclass(frozen=True)
class Partial:
    """One partial file."""

    repo: str
    oid: str
    path: Path
    bytes: int
    changed_at: float  # seconds since the epoch
    resumable: bool  # False: left by another program; our downloads cannot use it


@dataclass(frozen=True)
class Needs:
    """The files that one unfinished download needs."""

    download_id: str
    repo: str
    oids: frozenset[str] | None  # None: not listed yet, so any file of its repo


def partials(models_dir: Path) -> list[Partial]:
    """Return every partial file in the cache, by path."""
    return [found for path in sorted(models_dir.glob("models--*/blobs/*.incomplete")) if (found := _partial(path))]


def owners(found: Iterable[Partial], needs: Collection[Needs]) -> Mapping[Partial, tuple[str, ...]]:
    """Return the downloads that need each partial file; none for an orphan."""
    return {
        partial: tuple(
            need.download_id
            for need in needs
            if partial.resumable and need.repo == partial.repo and (need.oids is None or partial.oid in need.oids)
        )
        for partial in found
    }


def delete_orphans(models_dir: Path, needs: Collection[Needs], repo: str | None = None) -> int:
    """Delete the partial files that none of these downloads needs, of one repo or of all. Return the deleted bytes.

    A file that is being written is kept.
    """
    deleted = 0
    for partial, of in owners(partials(models_dir), needs).items():
        if of or (repo is not None and partial.repo != repo):
            continue
        lock = RepoCache(models_dir, partial.repo).try_lock(partial.oid, 0.0)
        if lock is None:
            continue
        try:
            size = partial.path.stat().st_size
            partial.path.unlink()
            deleted += size
        except FileNotFoundError:
            pass  # it was completed, or deleted by another process
        finally:
            lock.release()
    return deleted


def _partial(path: Path) -> Partial | None:
    folder, name = _REPO_FOLDER.fullmatch(path.parents[1].name), _NAME.fullmatch(path.name)
    if folder is None or name is None:
        return None
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    repo = f"{folder['owner']}/{folder['name']}" if folder["owner"] else folder["name"]
    return Partial(repo, name["oid"], path, state.st_size, state.st_mtime, name["foreign"] is None)
