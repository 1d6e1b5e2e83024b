"""The folders through which an attempt passes from the process that holds the device to the one that finishes it.

A folder contains what the first process has made and what the second one needs to know. It gets its name only when it
is complete, so the death of a process leaves either nothing or all of it, and the second process may begin again from
it as often as it dies. The job's row decides whether a folder still counts. The folders are on the node's own disk.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.storage.disk import full_disk_as_store_full

_FACTS, _TRIES = "facts.json", "tries"
_PARTIAL = "writing-"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Handover:
    """The folder of one attempt."""

    folder: Path
    index: int  # of the device
    job_id: str
    attempt: int

    def facts(self) -> dict[str, Any]:
        """Return what the first process has recorded."""
        facts: dict[str, Any] = json.loads((self.folder / _FACTS).read_text(encoding="utf-8"))["facts"]
        return facts

    def survived(self) -> bool:
        """Return whether the folder was completed since the host started. Its files were not synced to the disk."""
        with suppress(OSError, ValueError):
            return bool(json.loads((self.folder / _FACTS).read_text(encoding="utf-8"))["boot"] == _boot())
        return False

    def count_try(self) -> int:
        """Count that a process begins to finish the attempt. Return which try it is."""
        with (self.folder / _TRIES).open("ab") as stream:
            stream.write(b".")
            stream.flush()
            return stream.tell()

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Handovers:
    """The folders of one device, below the home of its node."""

    def __init__(self, home: Path, index: int) -> None:
        self.root = home / "finishing"
        self._index = index
        self._pipe = self.root / f".wake-{index}"
        self.lock = self.root / f".lock-{index}"

    def prepare(self) -> None:
        """Create the folder of all handovers, and the pipe that wakes the second process."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.mkfifo(self._pipe, 0o600)

    def begin(self, job_id: str, attempt: int) -> Handover:
        """Create the folder of an attempt, which does not count yet. Raises StoreFull."""
        folder = self.root / f"{_PARTIAL}{self._index}.{job_id}.{attempt}"
        with full_disk_as_store_full():
            self.prepare()
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        return Handover(folder, self._index, job_id, attempt)

    def complete(self, partial: Handover, facts: Mapping[str, Any]) -> Handover:
        """Record the facts and make the folder count. Raises StoreFull."""
        with full_disk_as_store_full():
            content = json.dumps({"boot": _boot(), "facts": facts})
            (partial.folder / _FACTS).write_text(content, encoding="utf-8")
            folder = self._folder(partial.job_id, partial.attempt)
            partial.folder.rename(folder)
        return Handover(folder, self._index, partial.job_id, partial.attempt)

    def waiting(self) -> list[Handover]:
        """Return the complete folders of this device, oldest first."""
        found = [one for one in self.all() if one.index == self._index and not one.folder.name.startswith(_PARTIAL)]
        return sorted(found, key=lambda one: (_changed(one.folder), one.job_id))

    def has(self, job_id: str, attempt: int) -> bool:
        """Return whether the attempt has a complete folder."""
        return self._folder(job_id, attempt).is_dir()

    def all(self) -> Iterator[Handover]:
        """Yield the folders of all devices of this node, complete or not."""
        try:
            names = sorted(os.listdir(self.root))
        except FileNotFoundError:
            return
        for name in names:
            parts = name.removeprefix(_PARTIAL).split(".")
            if len(parts) == 3 and parts[0].isdecimal() and parts[2].isdecimal():
                yield Handover(self.root / name, int(parts[0]), parts[1], int(parts[2]))

    def wake(self) -> None:
        """Wake the process that finishes attempts. If it does not run, it finds the folder at its start."""
        with suppress(OSError):
            descriptor = os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(descriptor, b".")
            finally:
                os.close(descriptor)

    def open_pipe(self) -> int:
        """Return a descriptor that becomes readable at each `wake`."""
        self.prepare()
        return os.open(self._pipe, os.O_RDWR | os.O_NONBLOCK)

    def _folder(self, job_id: str, attempt: int) -> Path:
        return self.root / f"{self._index}.{job_id}.{attempt}"


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _boot() -> str:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""
