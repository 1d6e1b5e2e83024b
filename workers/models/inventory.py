"""List the blobs in this node's model storage, so that a cleanup can be planned without asking the node.

Only the repos of the catalogue are listed, because a cache may be shared with other programs.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from shared import clock
from shared.catalogue.models import Catalogue
from shared.database.engine import Database
from shared.models import prepared, replica_files
from shared.models.replica_files import BlobState
from workers.models.fetch.layout import folder_name

_PARTIAL = ".incomplete"


def record(database: Database, node: str, models_dir: Path, catalogue: Catalogue) -> None:
    """List the blobs and record changes. Raises OSError if the model storage is unavailable."""
    repos = dict.fromkeys(repo for entry in catalogue.entries for repo in (entry.repo, entry.own_repo))
    replica_files.record_blobs(database, node, (blob for repo in repos for blob in blobs_on_disk(models_dir, repo)))


def blobs_on_disk(models_dir: Path, repo: str) -> list[BlobState]:
    """Return the repo's blobs, complete and partial, with the snapshots that point to each. Sizes are in bytes.

    Files inside a snapshot itself, as in a cache without links, count as one blob of that revision.
    """
    folder = models_dir / folder_name(repo)
    pointed, plain, published = _snapshots(folder / "snapshots")
    found = []
    for entry in _files(folder / "blobs"):
        status = entry.stat()
        moment = clock.from_epoch(status.st_mtime)
        revisions = tuple(sorted(pointed.get(entry.name, ())))
        partial = entry.name.endswith(_PARTIAL)
        copies_only = bool(revisions) and entry.name not in published
        shared = status.st_nlink > 1
        found.append(BlobState(repo, entry.name, status.st_size, partial, moment, revisions, copies_only, shared))
    for revision, (size, touched) in plain.items():
        found.append(BlobState(repo, f"{revision}.files", size, False, clock.from_epoch(touched), (revision,)))
    return found


def _snapshots(folder: Path) -> tuple[dict[str, set[str]], dict[str, tuple[int, float]], set[str]]:
    """Return (revisions by the blob that they point to, (bytes, newest mtime) of files inside each revision, blobs of
    published files).
    """
    pointed: dict[str, set[str]] = {}
    published: set[str] = set()
    plain: dict[str, tuple[int, float]] = {}
    for revision in sorted(os.listdir(folder)) if folder.is_dir() else ():
        for parent, _, names in os.walk(folder / revision):
            for name in names:
                place = Path(parent, name)
                if place.is_symlink():
                    blob = place.readlink().name
                    pointed.setdefault(blob, set()).add(revision)
                    if not prepared.is_prepared(str(place.relative_to(folder / revision))):
                        published.add(blob)
                    continue
                status = place.stat()
                size, touched = plain.get(revision, (0, 0.0))
                plain[revision] = size + status.st_size, max(touched, status.st_mtime)
    return pointed, plain, published


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    if folder.is_dir():
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if entry.is_file(follow_symlinks=False))
