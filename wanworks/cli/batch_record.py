"""What has become of each line of a batch, in a small file in its folder: what a second run goes on from.

One JSON object a line, appended and brought to the disk before the next thing is done; a last line that was cut off
by a kill is void. The kernel's lock on the file keeps a second run out of the folder.
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
    """How one line stands. `round` counts the times that it was asked for anew, after a failure."""

    key: str
    round: int = 0
    job: str | None = None
    file: str | None = None  # its video, whole, in the batch's folder
    bytes: int | None = None
    sha256: str | None = None
    failure: str | None = None  # why there will be none, in this round


class BatchRecord:
    """The file of one folder. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Raises AlreadyRunning; ConfigurationError for a folder that cannot be written, or a file of another kind."""
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
            raise AlreadyRunning(f"a batch is already running into {folder}") from None
        self._standings: dict[str, Standing] = {}
        self._batch = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def of(self, key: str) -> Standing:
        return self._standings.get(key, Standing(key))

    def note(self, standing: Standing) -> Standing:
        """On the disk when this returns."""
        self._append(asdict(standing))
        self._standings[standing.key] = standing
        return standing

    def again(self, standing: Standing) -> Standing:
        """The line is to be asked for anew."""
        return self.note(replace(Standing(standing.key), round=standing.round + 1))

    def idempotency_key(self, standing: Standing) -> str:
        """The same whenever this batch asks for this line in this round, and no other batch's."""
        said = f"{self._batch} {standing.key} {standing.round}"
        return f"batch-{hashlib.sha256(said.encode()).hexdigest()}"

    def _read(self) -> str:
        """Fills the standings; returns the batch's own name."""
        self._file.seek(0)
        content = self._file.read()
        whole = content.rpartition(b"\n")[0]
        if content and not content.endswith(b"\n"):
            self._file.truncate(len(whole) + 1 if whole else 0)  # or the next line would be glued to half a one
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
