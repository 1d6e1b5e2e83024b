"""The record of a batch: the state of each line, in a small file in its folder, from which a second run continues.

One JSON object per line, appended and synced before the next step; an incomplete last line after a kill is ignored.
The kernel's lock on the file keeps a second run out of the folder.
"""

import fcntl
import hashlib
import json
import os
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wanworks.errors import AlreadyRunning, ConfigurationError

NAME = ".wanworks-batch.jsonl"


@dataclass(frozen=True)
class Standing:
    """The state of one line. `round` counts how often it was submitted again after a failure."""

    key: str
    round: int = 0
    job: str | None = None
    file: str | None = None  # its complete video, in the batch's folder
    bytes: int | None = None
    sha256: str | None = None
    failure: str | None = None  # why there is no video in this round


class BatchRecord:
    """The record file of one folder. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Open the record. Raises AlreadyRunning; ConfigurationError for an unusable folder or file."""
        self.path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise ConfigurationError(f"--out {folder}: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise AlreadyRunning(f"another batch is running with --out {folder}") from None
        self._standings: dict[str, Standing] = {}
        self._batch = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def of(self, key: str) -> Standing:
        return self._standings.get(key, Standing(key))

    def note(self, standing: Standing) -> Standing:
        """Record the state; it is on disk when this returns."""
        self._append(asdict(standing))
        self._standings[standing.key] = standing
        return standing

    def again(self, standing: Standing) -> Standing:
        """Begin a new round for the line."""
        return self.note(replace(Standing(standing.key), round=standing.round + 1))

    def idempotency_key(self, standing: Standing) -> str:
        """Return the key of this line in this round; it differs between batches."""
        text = f"{self._batch} {standing.key} {standing.round}"
        return f"batch-{hashlib.sha256(text.encode()).hexdigest()}"

    def _read(self) -> str:
        """Read all states. Return the batch's own id."""
        self._file.seek(0)
        content = self._file.read()
        whole = content.rpartition(b"\n")[0]
        if content and not content.endswith(b"\n"):
            self._file.truncate(
                len(whole) + 1 if whole else 0
            )  # otherwise the next line would be appended to an incomplete one
        try:
            batch, *rows = [json.loads(row) for row in whole.splitlines()] or [None]
            self._standings = {row["key"]: Standing(**row) for row in rows}
            if batch is not None:
                return str(batch["batch"])
        except (ValueError, TypeError, KeyError):
            raise ConfigurationError(f"{self.path} is not the record of a batch") from None
        name = uuid.uuid4().hex
        self._append({"batch": name})
        return name

    def _append(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
