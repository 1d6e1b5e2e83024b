"""The record of a batch: the state of each line, in a small file in its folder, from which a second run continues.

One JSON object per line, appended and synced before the next step; an incomplete last line after a kill is ignored.
The kernel's lock on the file keeps a second run out of the folder.
"""

import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Sent:
    """Lines that were submitted together: their keys and rounds, in order. `name`: of the batch on the server."""

    name: str
    lines: list[tuple[str, int]]


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
        self._sent: list[Sent] = []
        self.one_by_one = False  # begun by a version that submitted each line alone
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

    def note_all(self, standings: Sequence[Standing]) -> None:
        """Record several states; they are on disk when this returns."""
        self._append(*(asdict(standing) for standing in standings))
        self._standings |= {standing.key: standing for standing in standings}

    def note_sent(self, sent: "Sent") -> None:
        """Record which lines are about to be submitted together."""
        self._append({"sent": asdict(sent)})
        self._sent.append(sent)

    def unanswered(self) -> list["Sent"]:
        """Return what was submitted and may have been accepted without an answer, in order.

        Only the latest submission of a line counts: one is repeated otherwise only after it was refused.
        """
        later: set[tuple[str, int]] = set()
        found = []
        for sent in reversed(self._sent):
            lines = {(key, of_round) for key, of_round in sent.lines}
            if not lines & later and any(self._lacks_a_job(key, of_round) for key, of_round in lines):
                found.append(sent)
            later |= lines
        return found[::-1]

    def _lacks_a_job(self, key: str, of_round: int) -> bool:
        standing = self.of(key)
        return standing.round == of_round and standing.job is None and standing.failure is None

    def again(self, standing: Standing) -> Standing:
        """Begin a new round for the line."""
        return self.note(replace(Standing(standing.key), round=standing.round + 1))

    def idempotency_key(self, standing: Standing) -> str:
        """Return the key of this line in this round; it differs between batches."""
        return self._hashed(f"{standing.key} {standing.round}")

    def key_of(self, sent: "Sent") -> str:
        """Return the idempotency key of these lines together."""
        return self._hashed(" ".join(f"{key}:{of_round}" for key, of_round in sent.lines))

    def _hashed(self, text: str) -> str:
        return f"batch-{hashlib.sha256(f'{self._batch} {text}'.encode()).hexdigest()}"

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
            self._standings = {row["key"]: Standing(**row) for row in rows if "sent" not in row}
            self._sent = [Sent(row["sent"]["name"], row["sent"]["lines"]) for row in rows if "sent" in row]
            if batch is not None:
                self.one_by_one = "together" not in batch
                return str(batch["batch"])
        except (ValueError, TypeError, KeyError):
            raise ConfigurationError(f"{self.path} is not the record of a batch") from None
        name = uuid.uuid4().hex
        self._append({"batch": name, "together": True})
        return name

    def _append(self, *rows: dict[str, Any]) -> None:
        self._file.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        self._file.flush()
        os.fsync(self._file.fileno())
