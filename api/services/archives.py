"""Archives of many artifacts, made while they are sent. Only a few at a time, on threads of their own."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from zipstream import ZIP_STORED, ZipStream

from shared.errors import ArchivesBusy
from shared.jobs.batches import Member
from shared.states import JobState
from shared.storage.store import Store

AT_ONCE = 4  # of one web process
_PIECE_BYTES = 256 * 1024


class Archives:
    """The slots of archives that are being sent."""

    def __init__(self) -> None:
        self.threads = anyio.CapacityLimiter(AT_ONCE)
        self._sent = 0

    def take(self) -> None:
        """Take a slot. Call `release` once the archive is sent. Raises ArchivesBusy. Only on the event loop."""
        if self._sent >= AT_ONCE:
            raise ArchivesBusy()
        self._sent += 1

    def release(self) -> None:
        self._sent -= 1


@dataclass(frozen=True)
class File:
    """An artifact in an archive."""

    job_id: str
    attempt: int
    name: str
    size: int


def files_of(members: Sequence[Member]) -> list[File]:
    """Return the artifacts of the jobs that have succeeded."""
    return [
        File(member.id, member.attempt, item["name"], item["bytes"])
        for member in members
        if member.status == JobState.SUCCEEDED
        for item in (member.result or {}).get("artifacts", ())
    ]


def manifest(summary: dict[str, Any], members: Sequence[Member]) -> bytes:
    """Return what the archive contains, and why it has nothing of the other jobs."""
    jobs = [
        {
            "id": member.id,
            "status": member.status.value,
            "error": member.error,
            "files": [
                {
                    "name": f"{member.id}/{item['name']}",
                    "bytes": item["bytes"],
                    "sha256": item["sha256"],
                    "content_type": item["content_type"],
                }
                for item in (member.result or {}).get("artifacts", ())
                if member.status == JobState.SUCCEEDED
            ],
        }
        for member in members
    ]
    return json.dumps({**summary, "jobs": jobs}, indent=2).encode()


def archive(store: Store, files: Sequence[File], described: bytes) -> ZipStream:
    """Return an uncompressed archive whose length is known. Its files are read while it is iterated."""
    made = ZipStream(compress_type=ZIP_STORED, sized=True)
    made.add(described, "manifest.json")
    for file in files:
        made.add(_Content(store, file), f"{file.job_id}/{file.name}", size=file.size)
    return made


def pieces(made: ZipStream) -> Iterator[bytes]:
    """Yield the archive in pieces of some hundred KB, or as large as the bucket returns them."""
    held, size = [], 0
    for piece in made:
        held.append(piece)
        size += len(piece)
        if size >= _PIECE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


class _Content:
    """The bytes of one file, which is opened when its turn comes."""

    def __init__(self, store: Store, file: File) -> None:
        self._store = store
        self._file = file

    def __iter__(self) -> Iterator[bytes]:
        found = self._store.artifact(self._file.job_id, self._file.attempt, self._file.name)
        if not isinstance(found, Path):
            yield from found.read(0, self._file.size) if self._file.size else ()
            return
        with found.open("rb") as opened:
            while piece := opened.read(_PIECE_BYTES):
                yield piece
