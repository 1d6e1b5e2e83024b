"""Terminal output: tables and progress bars. Results go to stdout, everything else to stderr."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

from wanworks.cli.ids import short_ids
from wanworks.client.shapes import Job
from wanworks.errors import ExitCode

if TYPE_CHECKING:  # rich takes a tenth of a second to load, which `--help` does not need
    from rich.console import Console
    from rich.progress import TaskID

_PIPE_WIDTH = 240  # ids are not cut off, and each row is one line
_TEXT_LENGTH = 48  # of a prompt in a table


@cache
def out() -> "Console":
    """Return the console of stdout."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


@cache
def err() -> "Console":
    """Return the console of stderr."""
    from rich.console import Console

    return Console(stderr=True)


def print_json(value: Any) -> None:
    """Print only JSON on stdout, never coloured or wrapped; escaped if stdout is not Unicode."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    print(json.dumps(value, indent=2, ensure_ascii=not unicode))


def note(line: str) -> None:
    """Print a line on stderr, never wrapped, so that ids and commands in it can be copied."""
    print(line, file=sys.stderr, flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table. In a terminal the column `id` has only the beginning of each id."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column == "id")
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if "id" in columns and out().is_terminal:
        place = columns.index("id")
        for row, short in zip(cells, short_ids([row[place] for row in cells]), strict=True):
            row[place] = short
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    out().print(table)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print one line per field with its name and value; empty values are omitted."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        if value not in (None, "", [], {}):
            out().print(f"{name:<{width}}  {value}", highlight=False, markup=False)


def local(moment: str | None) -> str | None:
    """Return a time of the API as the time of this machine's zone, with the zone's name."""
    if moment is None:
        return None
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def seconds_between(start: str, end: str) -> float:
    """Return the seconds between two times of the API."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def duration(seconds: float | None) -> str | None:
    """Return seconds as 12.3 s, 4 min 5 s or 2 h 3 min."""
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def shortened(text: str | None, length: int = _TEXT_LENGTH) -> str | None:
    """Return the text in one line of at most that many characters."""
    if text is None:
        return None
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def percent(job: Job) -> float:
    return float((job.get("progress") or {}).get("percent") or 0.0)


def doing(job: Job) -> str:
    """Return a short description of what the job is doing."""
    progress = job.get("progress") or {}
    phase = progress.get("phase")
    if job["status"] == "queued":
        position = job.get("queue_position")
        waiting = (phase or "queued").replace("_", " ")
        reason = job.get("waiting_for")
        if reason and reason["reason"] in ("memory", "backoff", "dependency"):
            return f"{waiting}. {reason['detail']}"
        about = "about " if job.get("queue_position_approximate") else ""
        waiting = f"{waiting}, {about}{position} ahead" if position else waiting
        start = local(job.get("estimated_start"))
        return f"{waiting}, starts about {start}" if start else waiting
    if job["status"] != "running":
        return job["status"]
    step, steps = progress.get("step"), progress.get("steps")
    text = (phase or "running").replace("_", " ")
    if steps:
        text += f" {step or 0}/{steps}"
    total, rate = progress.get("bytes_total"), progress.get("bytes_per_second")
    if total:
        text += f" {(progress.get('bytes_done') or 0) / 1e6:.0f}/{total / 1e6:.0f} MB"
    if rate:
        text += f", {rate / 1e6:.1f} MB/s"
    eta = progress.get("eta_seconds")
    return f"{text}, {eta:.0f} s left" if eta and eta >= 1 else text


class ProgressBars(AbstractContextManager["ProgressBars"]):
    """Shows a live bar per job on a terminal; otherwise prints a line on stderr whenever a job's activity changes.

    With `whole`, a further bar counts that many jobs; the bars are then shown only if stdout is a terminal too.
    """

    def __init__(self, whole: int | None = None) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self._live = err().is_terminal and (whole is None or out().is_terminal)
        self._bars = Progress(
            TextColumn("{task.fields[label]}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=err(),
            disable=not self._live,
        )
        self._whole = None if whole is None else self._bars.add_task("", total=whole, label="total")
        self._tasks: dict[str, TaskID] = {}
        self._shown: dict[str, str] = {}

    def __enter__(self) -> "ProgressBars":
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def show(self, job: Job, label: str) -> None:
        text = doing(job)
        if job["id"] not in self._tasks:
            self._tasks[job["id"]] = self._bars.add_task(text, total=100, label=label)
        self._bars.update(self._tasks[job["id"]], completed=percent(job), description=text)
        phase = text.partition(",")[0].partition(" ")[0]
        if not self._live and self._shown.get(job["id"]) != phase:
            self._shown[job["id"]] = phase
            note(f"{label}: {text}")

    def hide(self, job_id: str) -> None:
        """Remove the job's bar."""
        if (task := self._tasks.pop(job_id, None)) is not None:
            self._bars.remove_task(task)

    def count(self, ended: int, text: str) -> None:
        if self._whole is not None:
            self._bars.update(self._whole, completed=ended, description=text)


def epilogue() -> str:
    """Return the exit codes, for `--help`."""
    codes = " · ".join(f"{int(code)} {code.meaning}" for code in ExitCode)
    return f"Exit codes: {codes}."
