"""The store as a directory: on the disk of the only node, or on a mount that all nodes share."""

import heapq
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Self

from shared.errors import NotFound, StoreFull, StoreUnavailable
from shared.storage.disk import full_disk_as_store_full, sync_file, sync_folder
from shared.storage.layout import (
    ARTIFACTS,
    CHECKPOINT,
    INPUTS,
    LORAS,
    MARKER,
    OrphanedFiles,
    artifact_name,
    every,
    input_path,
    lora_name,
    must_mark,
)

log = logging.getLogger("wanworks.store")

BLOCK_BYTES = 512  # the unit of st_blocks, on every file system
_COPIED_BYTES = 1_000_000  # at once
_NAMES_AT_ONCE = 10_000  # of an area, so that a million jobs need little memory


@dataclass(frozen=True)
class DirectoryStore:
    """One directory. An attempt writes to its final place."""

    root: Path

    @classmethod
    def opened(cls, root: Path, agreed: Callable[[], str], *, create: bool) -> Self:
        """Open the store. Raises StoreMismatch."""
        marker = root / MARKER
        installation = agreed()
        found = marker.read_text(encoding="ascii", errors="replace") if marker.exists() else None
        if must_mark(found, installation, str(root), create=create):
            root.mkdir(parents=True, exist_ok=True)
            write_durably(marker, installation.encode())
            must_mark(marker.read_text(encoding="ascii"), installation, str(root), create=False)
        for area in (INPUTS, ARTIFACTS):
            (root / area).mkdir(exist_ok=True)
        return cls(root)

    def put_input(self, job_id: str, name: str, content: bytes) -> str:
        folder = self.root / INPUTS / job_id
        try:
            with full_disk_as_store_full():
                folder.mkdir(parents=True, exist_ok=True)
                write_durably(folder / name, content)
        except (OSError, StoreFull):
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return f"{job_id}/{name}"

    def copy_input(self, reference: str, job_id: str, name: str | None = None) -> str:
        try:
            content = (self.root / input_path(reference)).read_bytes()
        except FileNotFoundError:
            raise NotFound("input", reference) from None
        return self.put_input(job_id, name or reference.rpartition("/")[2], content)

    def read_input(self, reference: str) -> bytes:
        try:
            return (self.root / input_path(reference)).read_bytes()
        except FileNotFoundError:
            raise NotFound("input", reference) from None

    def input_file(self, reference: str, job_id: str, attempt: int) -> Path:
        path = self.root / input_path(reference)
        if not path.is_file():
            raise NotFound("input", reference)
        return path

    def release_inputs(self, job_id: str, attempt: int) -> None:
        """Do nothing: inputs are read in place."""

    def attempt_dir(self, job_id: str, attempt: int) -> Path:
        folder = self.root / ARTIFACTS / job_id / str(attempt)
        with full_disk_as_store_full():
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
        return folder

    def keep(
        self,
        job_id: str,
        attempt: int,
        names: Collection[str],
        check: Callable[[], None],
        moved: Callable[[], None],
    ) -> None:
        """Do nothing: the files were already synced and renamed in place."""

    def artifact(self, job_id: str, attempt: int, name: str) -> Path:
        path = self.root / ARTIFACTS / job_id / str(attempt) / artifact_name(name)
        if not path.is_file():
            raise NotFound("artifact", name)
        return path

    def put_checkpoint(self, job_id: str, attempt: int, file: Path, check: Callable[[], None]) -> None:
        folder = self.root / ARTIFACTS / job_id / CHECKPOINT
        with full_disk_as_store_full():
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f".{attempt}.{os.getpid()}.tmp"
            try:
                copy_privately(file, temporary)
                sync_file(temporary)
                temporary.replace(folder / str(attempt))
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(folder)

    def fetch_checkpoint(self, job_id: str, attempt: int, to: Path) -> None:
        try:
            with full_disk_as_store_full():
                copy_privately(self.root / ARTIFACTS / job_id / CHECKPOINT / str(attempt), to)
        except FileNotFoundError:
            if not to.parent.is_dir():
                raise
            raise NotFound("checkpoint", f"{job_id}/{attempt}") from None

    def drop_checkpoints(self, job_id: str, of: Callable[[int], bool] = every) -> None:
        folder = self.root / ARTIFACTS / job_id / CHECKPOINT
        for file in _children(folder):
            if not file.name.isdigit() or of(int(file.name)):
                try:
                    file.unlink(missing_ok=True)
                except OSError as error:
                    raise StoreUnavailable(f"{file} cannot be removed from the store: {error.strerror}") from error
        with suppress(OSError):  # another checkpoint or an attempt is there, or it is removed already
            folder.rmdir()
            folder.parent.rmdir()

    def put_lora(self, sha256: str, file: Path, check: Callable[[], None]) -> None:
        folder, name = self.root / LORAS, lora_name(sha256)
        if (folder / name).is_file():
            os.utime(folder / name)  # it is new again for the sweep
            return
        temporary = folder / f".{name}.{os.getpid()}.{threading.get_ident()}.tmp"
        try:
            with full_disk_as_store_full():
                folder.mkdir(exist_ok=True)
                with file.open("rb") as given, temporary.open("wb") as copy:
                    while piece := given.read(_COPIED_BYTES):
                        check()
                        copy.write(piece)
                    copy.flush()
                    os.fsync(copy.fileno())
                temporary.replace(folder / name)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(folder)

    def lora_file(self, sha256: str, cache: Path) -> Path:
        path = self.root / LORAS / lora_name(sha256)
        if not path.is_file():
            raise NotFound("LoRA file", sha256)
        return path

    def drop_lora(self, sha256: str) -> None:
        try:
            (self.root / LORAS / lora_name(sha256)).unlink(missing_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"A LoRA's file cannot be removed from the store: {error.strerror}") from error

    def loras(self, older_than_seconds: float) -> list[str]:
        before = time.time() - older_than_seconds
        files = (file for file in _children(self.root / LORAS) if file.suffix == ".safetensors")
        return [file.stem for file in files if file.stat().st_mtime <= before]

    def drop_attempt(self, job_id: str, attempt: int) -> None:
        folder = self.root / ARTIFACTS / job_id
        _remove(folder / str(attempt))
        with suppress(OSError):  # it contains another attempt, or is removed already
            folder.rmdir()

    def drop_job(self, job_id: str) -> None:
        for area in (INPUTS, ARTIFACTS):
            _remove(self.root / area / job_id)

    def drop_jobs(self, job_ids: Sequence[str]) -> dict[str, StoreUnavailable]:
        failed = {}
        for job_id in job_ids:
            try:
                self.drop_job(job_id)
            except StoreUnavailable as error:
                failed[job_id] = error
        return failed

    def orphaned_files(self, older_than_seconds: float, after: str = "") -> Iterator[OrphanedFiles]:
        while names := heapq.nsmallest(_NAMES_AT_ONCE, (name for name in self._job_names() if name > after)):
            for name in dict.fromkeys(names):
                try:
                    old = self._oldest_seconds(name) > older_than_seconds
                    attempts = tuple(self.attempts(name)) if old else ()
                    checkpoint = old and (self.root / ARTIFACTS / name / CHECKPOINT).exists()
                except OSError as error:
                    log.warning("the files of job %s cannot be read and are skipped: %s", name, error)
                    continue
                if old:
                    yield OrphanedFiles(name, attempts, checkpoint)
            after = names[-1]

    def drop_unfinished(self, older_than_seconds: float) -> int:
        """Return 0: incomplete files are in their attempt's folder, and are removed with it."""
        return 0

    def attempts(self, job_id: str) -> list[int]:
        folders = _children(self.root / ARTIFACTS / job_id)
        return sorted(int(folder.name) for folder in folders if folder.name.isdigit())

    def allocated_bytes(self, job_id: str) -> int:
        return sum(allocated_bytes(self.root / area / job_id) for area in (INPUTS, ARTIFACTS))

    def is_beside(self, folder: Path) -> bool:
        return os.stat(folder).st_dev == os.stat(self.root).st_dev

    def ask(self) -> None:
        if not (self.root / MARKER).is_file():
            raise StoreUnavailable()

    @property
    def link_origin(self) -> str | None:
        return None

    def _job_names(self) -> Iterator[str]:
        """Yield the folders of both areas, in no particular order."""
        return chain.from_iterable(map(_names, (self.root / INPUTS, self.root / ARTIFACTS)))

    def _oldest_seconds(self, job_id: str) -> float:
        """Return the seconds since a file was added to the job's folder that is unchanged for the longest time."""
        ages = []
        for area in (INPUTS, ARTIFACTS):
            try:
                ages.append(time.time() - (self.root / area / job_id).stat().st_mtime)
            except FileNotFoundError:
                continue  # it has none there, or its owner has just deleted the job
        return max(ages, default=float("-inf"))


def write_durably(path: Path, content: bytes) -> None:
    """Write to a temporary file, sync and rename it, so that the file is complete or missing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def copy_privately(source: Path, target: Path) -> None:
    """Copy a file to one that its owner alone can read."""
    with source.open("rb") as given, open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as copy:
        shutil.copyfileobj(given, copy, _COPIED_BYTES)


def allocated_bytes(folder: Path) -> int:
    """Return the allocated bytes of the files in a folder, without files that have further hard links."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(parent, name))
            total += status.st_blocks * BLOCK_BYTES if status.st_nlink == 1 else 0
    return total


def _names(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.name
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreUnavailable() from error


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _remove(folder: Path) -> None:
    """Remove as much of the folder as possible. Raises StoreUnavailable if files remain."""
    left: list[OSError] = []

    def note(function: object, path: str, raised: tuple[type[BaseException], BaseException, object]) -> None:
        error = raised[1]
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            left.append(error)

    shutil.rmtree(folder, onerror=note)
    if left:
        raise StoreUnavailable(f"{left[0].filename} cannot be removed from the store: {left[0].strerror}") from left[0]
