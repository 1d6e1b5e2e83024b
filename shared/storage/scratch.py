"""A local folder for files that one process needs for a while, such as those on their way to or from a bucket.

Each subfolder is locked by the process that uses it. The lock ends with the process, so that folders of dead processes
are recognised, and removed when the next folder is created or on request.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.storage.disk import full_disk_as_store_full


class Scratch:
    """The locked subfolders of one process."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: dict[str, int] = {}  # descriptors of this process's folders

    def fresh(self, name: str) -> Path:
        """Return an empty folder, locked until it is dropped or the process ends. Raises StoreFull."""
        self.drop(name)
        return self.ours(name)

    def ours(self, name: str) -> Path:
        """Return that folder, created if necessary. Raises StoreFull."""
        folder = self._root / name
        if name in self._held:
            return folder
        with full_disk_as_store_full(), self._alone():
            self._drop_folders_of_dead_processes()
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            self._held[name] = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._held[name], fcntl.LOCK_EX | fcntl.LOCK_NB)
        return folder

    def drop(self, name: str) -> None:
        descriptor = self._held.pop(name, None)
        if descriptor is not None:
            shutil.rmtree(self._root / name, ignore_errors=True)
            os.close(descriptor)

    def sweep(self) -> None:
        """Remove the folders of dead processes."""
        if self._root.is_dir():
            with self._alone():
                self._drop_folders_of_dead_processes()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold a lock, so that a folder is not taken for a dead process's between its creation and its locking."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._root / ".lock", os.O_RDONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _drop_folders_of_dead_processes(self) -> None:
        for folder in self._root.iterdir():
            if not folder.is_dir() or folder.name in self._held:
                continue
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
