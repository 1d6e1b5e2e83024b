"""The store: where artifacts and uploaded inputs lie, readable by every node.

    STORE/marker                       says which installation it belongs to
    STORE/inputs/<job>/<name>          what the client sent
    STORE/artifacts/<job>/<attempt>/   what an attempt made; only the winning attempt's is ever served

Names come from the code or are checked here; a client's path never reaches the file system.
"""

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.errors import NotFound, StoreFull, StoreMismatch

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class Store:
    """One directory. Open it with `open_store`, which checks the marker."""

    root: Path

    def put_input(self, job_id: str, name: str, content: bytes) -> str:
        """Writes an input whole and to disk; returns its name in the store. Raises StoreFull and leaves nothing."""
        folder = self.root / "inputs" / job_id
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_durably(folder / name, content)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise _answered(error) from error
        return f"{job_id}/{name}"

    def copy_input(self, reference: str, job_id: str) -> str:
        """The same input for another job. Raises NotFound where it is gone."""
        try:
            content = self.input_path(reference).read_bytes()
        except FileNotFoundError:
            raise NotFound("input", reference) from None
        return self.put_input(job_id, reference.rpartition("/")[2], content)

    def input_path(self, reference: str) -> Path:
        return self.root / "inputs" / reference

    def attempt_dir(self, job_id: str, attempt: int) -> Path:
        """A fresh, empty folder for one attempt's artifacts. Raises StoreFull."""
        folder = self.root / "artifacts" / job_id / str(attempt)
        try:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
        except OSError as error:
            raise _answered(error) from error
        return folder

    def artifact(self, job_id: str, attempt: int, name: str) -> Path:
        """Raises NotFound, also for a name that is none."""
        if _NAME.fullmatch(name) is None:
            raise NotFound("artifact", name)
        path = self.root / "artifacts" / job_id / str(attempt) / name
        if not path.is_file():
            raise NotFound("artifact", name)
        return path

    def drop_attempt(self, job_id: str, attempt: int) -> None:
        shutil.rmtree(self.root / "artifacts" / job_id / str(attempt), ignore_errors=True)

    def drop_job(self, job_id: str) -> None:
        """Removes the job's inputs and artifacts."""
        for area in ("inputs", "artifacts"):
            shutil.rmtree(self.root / area / job_id, ignore_errors=True)

    def free_mb(self) -> float:
        """Free space in MB (10^6 bytes)."""
        return shutil.disk_usage(self.root).free / 1e6

    def job_folders(self, older_than_seconds: float) -> Iterator[str]:
        """Ids that have a folder here which nothing has touched for that long."""
        seen = set()
        for area in ("inputs", "artifacts"):
            for folder in _children(self.root / area):
                if folder.name not in seen and time.time() - folder.stat().st_mtime > older_than_seconds:
                    seen.add(folder.name)
                    yield folder.name

    def attempts(self, job_id: str) -> list[int]:
        """The attempts that have a folder."""
        folders = _children(self.root / "artifacts" / job_id)
        return sorted(int(folder.name) for folder in folders if folder.name.isdigit())


def open_store(root: Path, agreed: Callable[[], str], *, create: bool) -> Store:
    """The store at `root`, if its marker is the one that the installation agreed on.

    `create` makes it where the folder holds no marker yet; a second node must not, so that one with the wrong mount
    refuses to start instead of filling a folder that nobody else sees. Raises StoreMismatch.
    """
    marker = root / "marker"
    installation = agreed()
    if not marker.exists():
        if not create:
            raise StoreMismatch(f"{root} has no store marker: this node does not see the installation's store")
        root.mkdir(parents=True, exist_ok=True)
        write_durably(marker, installation.encode())
    if marker.read_text(encoding="ascii").strip() != installation:
        raise StoreMismatch(f"{root} belongs to another installation: its marker is not the one in the database")
    for area in ("inputs", "artifacts"):
        (root / area).mkdir(exist_ok=True)
    return Store(root)


def write_durably(path: Path, content: bytes) -> None:
    """Writes beside, syncs and renames, so that the file is there whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames within the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _answered(error: OSError) -> Exception:
    return StoreFull() if error.errno in _FULL else error


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
