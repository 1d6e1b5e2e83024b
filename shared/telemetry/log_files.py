"""Read the ends of the log files that `wanworks up` writes for the processes of a host, in `logs` on its home."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = "logs"
_TAIL_BYTES = 512 * 1024  # of each file
_MESSAGE_LENGTH = 2000

Line = dict[str, str]
"""`time` (ISO 8601, empty if the line does not tell), `level`, `process` and `message`."""


def names(home: Path) -> list[str]:
    """Return the names of the processes that have a log here; none where processes log to standard output."""
    return sorted(path.stem for path in (home / FOLDER).glob("*.log"))


def tail(home: Path, most: int, *, process: str | None = None, containing: str = "") -> list[Line]:
    """Return the last lines that contain a text, oldest first, of one process or of all. An unknown one has none."""
    chosen = [name for name in names(home) if process in (None, name)]
    return last((line for name in chosen for line in _lines(home / FOLDER / f"{name}.log", containing)), most)


def last(lines: Iterable[Line], most: int) -> list[Line]:
    """Return the last of the lines by time, each once."""
    unique = {tuple(line.items()): line for line in lines}
    return sorted(unique.values(), key=lambda line: line["time"])[-most:]


def _lines(path: Path, containing: str) -> Iterator[Line]:
    try:
        with path.open("rb") as file:
            start = max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES)
            file.seek(start)
            texts = file.read().decode(errors="replace").splitlines()
    except OSError:
        return  # it was rotated away meanwhile
    time = ""
    for text in texts[1:] if start else texts:  # the first one of a tail is cut off
        entry = _entry(text)
        # A line that a library printed has no time of its own: it belongs to the line before.
        time = str(entry.get("time", time))
        if containing in text:
            yield {
                "time": time,
                "level": str(entry.get("level", "")),
                "process": path.stem,
                "message": _message(entry, text)[:_MESSAGE_LENGTH],
            }


def _entry(text: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _message(entry: Mapping[str, Any], text: str) -> str:
    if not entry:
        return text
    return "\n".join(str(entry[name]) for name in ("message", "exception") if entry.get(name))
