"""The content of a hub: the repos in a folder of the Hugging Face cache layout, read again for each request.

    ROOT/models--ORG--NAME/refs/<revision>             a branch or tag: the commit's sha
    ROOT/models--ORG--NAME/snapshots/<sha>/<path>      a link to a blob, or the file itself
    ROOT/models--ORG--NAME/blobs/<oid>                 the name is the checksum

Must not know HTTP. Names come from clients and are validated before they reach the file system.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

_REPO = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*")
_SHA = re.compile(r"[0-9a-f]{40}")
_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# A file without a blob (copied with its links resolved) counts as a large file from this size on, or if it has a
# suffix of weights: the Hub keeps those outside git too.
_LARGE_BYTES = 10_000_000
_LARGE_NAMES = (".safetensors",)


@dataclass(frozen=True)
class Entry:
    """One file of a commit, as the Hub describes it."""

    path: str
    location: Path
    size: int
    oid: str  # of the git object: the file or its pointer
    sha256: str | None  # of a file kept outside git; None for a file in git

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid

    @property
    def pointer_size(self) -> int:
        return len(_pointer(self.sha256, self.size)) if self.sha256 else 0


@dataclass(frozen=True)
class Mirror:
    """The served folder."""

    root: Path

    def repo(self, repo_id: str) -> "Repo | None":
        """Return the repo; None if it does not exist or the name is invalid."""
        if not _REPO.fullmatch(repo_id) or "--" in repo_id or ".." in repo_id:
            return None
        folder = self.root / f"models--{repo_id.replace('/', '--')}"
        return Repo(repo_id, folder) if (folder / "snapshots").is_dir() else None


@dataclass(frozen=True)
class Repo:
    """One repo of the folder."""

    repo_id: str
    folder: Path

    def refs(self) -> dict[str, str]:
        """Return commit shas by branch or tag, without those whose snapshot is missing."""
        refs = self.folder / "refs"
        found = {}
        for path in sorted(refs.rglob("*")):
            if path.is_file() and not path.name.endswith(".tmp"):
                name = path.relative_to(refs).as_posix()
                if (sha := self._commit(path.read_text(encoding="ascii", errors="replace").strip())) is not None:
                    found[name] = sha
        return found

    def commit(self, revision: str) -> str | None:
        """Return the sha of a branch, tag or sha. In a copy without refs, `main` is its only commit."""
        if (sha := self._commit(revision)) is not None:
            return sha
        refs = self.refs()
        if revision in refs:
            return refs[revision]
        commits = [path.name for path in (self.folder / "snapshots").iterdir() if self._commit(path.name)]
        return commits[0] if revision == "main" and "main" not in refs and len(commits) == 1 else None

    def entries(self, sha: str) -> list[Entry]:
        """Return the files of the commit, by path, without those whose blob is missing."""
        snapshot = self.folder / "snapshots" / sha
        paths = (Path(base) / name for base, _, names in os.walk(snapshot) for name in names)
        found = [self._entry(path.relative_to(snapshot).as_posix(), path) for path in paths if path.is_file()]
        return sorted(found, key=lambda entry: entry.path)

    def entry(self, sha: str, path: str) -> Entry | None:
        """Return one file of the commit."""
        parts = path.split("/")
        if not path or any(part in ("", ".", "..") or "\0" in part for part in parts):
            return None
        location = self.folder / "snapshots" / sha / path
        return self._entry(path, location) if location.is_file() else None

    def committed_at(self, sha: str) -> datetime:
        """Return when the commit's folder last changed, because a copy does not contain the commit's date."""
        seconds = (self.folder / "snapshots" / sha).stat().st_mtime
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=0)

    def _commit(self, name: str) -> str | None:
        return name if _SHA.fullmatch(name) and (self.folder / "snapshots" / name).is_dir() else None

    def _entry(self, path: str, location: Path) -> Entry:
        blob = location.resolve()
        state = blob.stat()
        oid = blob.name if _OID.fullmatch(blob.name) and blob.parent.name == "blobs" else ""
        if not oid:
            large = state.st_size >= _LARGE_BYTES or path.endswith(_LARGE_NAMES)
            oid = _checksum(blob, state.st_size, state.st_mtime_ns, large)
        if len(oid) == 40:
            return Entry(path, blob, state.st_size, oid, None)
        return Entry(path, blob, state.st_size, _git_oid(_pointer(oid, state.st_size)), oid)


def folders(entries: list[Entry]) -> Iterator[tuple[str, str]]:
    """Yield (path, stable id) of each folder that contains any of these files."""
    found = {parent.as_posix() for entry in entries for parent in Path(entry.path).parents} - {"."}
    for path in sorted(found):
        inside = "\n".join(f"{entry.path} {entry.etag}" for entry in entries if entry.path.startswith(f"{path}/"))
        yield path, _git_oid(inside.encode())


def _pointer(sha256: str | None, size: int) -> bytes:
    """Return the Git LFS pointer that git stores in place of a large file (specification version 1)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@lru_cache(maxsize=65536)
def _checksum(path: Path, size: int, mtime_ns: int, large: bool) -> str:
    """Return the checksum of a file whose name is not one. `mtime_ns` is part of the cache key."""
    if not large:
        return _git_oid(path.read_bytes())
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
