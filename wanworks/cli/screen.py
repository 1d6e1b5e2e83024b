"""Terminal output: tables and progress bars. Results go to stdout, everything else to stderr."""

import json
import re
import sys
import time
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
    from rich.progress import ProgressColumn, Task, TaskID
    from rich.table import Column

_PIPE_WIDTH = 240  # ids are not cut off, and each row is one line
_TEXT_LENGTH = 48  # of a prompt in a table in a pipe
_WIDE = 100  # columns of a terminal that has room for long bars
_GAP = 2  # blanks between two columns
_LEAST, _FLEXIBLE = 8, 24  # characters of a column that is cut or wrapped: at least, and before another is left out
# Reasons to wait that say more than a place in the queue.
_EXPLAINED = frozenset({"memory", "backoff", "pause", "start_time", "window", "limit", "dependency"})
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
_IN_PARTS = frozenset({"decoding"})  # phases whose steps are parts of the video, and not of the computation
_OVERDUE_SECONDS = 3.0  # an estimate that is exceeded by less than that was right


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


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    cut: str | None = None,
    wrapped: Sequence[str] = (),
    least: Sequence[str] = (),
) -> None:
    """Print a table: in a pipe everything, in a terminal one line for each row.

    In a terminal the column `id` has only the beginning of each id; the column `cut` has the width that the others
    leave, and an ellipsis where that is too little; the columns `wrapped` may take several lines. If there is too
    little width for the others, empty columns are left out, then those named in `least`, the first one first.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not out().is_terminal:
        for column in columns:
            table.add_column(column, no_wrap=column == "id")
        kept = list(range(len(columns)))
    else:
        if "id" in columns:
            place = columns.index("id")
            for row, short in zip(cells, short_ids([row[place] for row in cells]), strict=True):
                row[place] = short
        widths = _widths(columns, cells)
        flexible = (cut, *wrapped)
        kept = _fitting(columns, cells, widths, flexible, least)
        left = out().width - sum(widths[place] + _GAP for place in kept if columns[place] != cut)
        for place in kept:
            name = columns[place]
            if name == cut:
                table.add_column(name, no_wrap=True, overflow="ellipsis", width=max(min(widths[place], left), _LEAST))
            elif name in wrapped:
                table.add_column(name, overflow="fold")
            else:
                # An id that is cut off names no job: the other columns give way.
                least_width = widths[place] if name == "id" or wrapped else None
                table.add_column(name, no_wrap=True, overflow="ellipsis", min_width=least_width)
    for row in cells:
        table.add_row(*(Text(row[place]) for place in kept))
    out().print(table)


def _widths(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    """Return the width that each column takes if nothing is cut off."""
    from rich.cells import cell_len

    return [max(map(cell_len, (name, *(row[place] for row in cells)))) for place, name in enumerate(columns)]


def _fitting(
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    widths: Sequence[int],
    flexible: Sequence[str | None],
    least: Sequence[str],
) -> list[int]:
    """Return the places of the columns that the terminal has room for."""
    needed = [min(width, _FLEXIBLE) if name in flexible else width for name, width in zip(columns, widths, strict=True)]
    kept = list(range(len(columns)))
    empty = [name for place, name in enumerate(columns) if cells and not any(row[place] for row in cells)]
    for name in (*empty, *(one for one in least if one not in empty)):
        if sum(needed[place] + _GAP for place in kept) - _GAP <= out().width:
            break
        kept.remove(columns.index(name))
    return kept


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


def id_cell(one: str | None) -> str | None:
    """Return an id for a table: in a terminal the beginning of it."""
    return short_ids([one])[0] if one is not None and out().is_terminal else one


def moment(when: str | None) -> str | None:
    """Return a time of the API for a table: in a terminal 14:24, Jul 31 14:24 or 2025-07-31, else as `local`."""
    return local(when) if when is None or not out().is_terminal else _short(when)


def _short(when: str) -> str:
    return brief(datetime.fromisoformat(when).astimezone(), datetime.now().astimezone())


def brief(when: datetime, now: datetime) -> str:
    """Return a local time as 14:24 if it is today, Jul 31 14:24 this year, else 2025-07-31."""
    if when.date() == now.date():
        return f"{when:%H:%M}"
    return f"{when:%b} {when.day} {when:%H:%M}" if when.year == now.year else f"{when:%Y-%m-%d}"


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


def doing(job: Job, waited: float = 0.0, *, narrow: bool = False) -> str:
    """Return a short description of what the job is doing.

    `waited` is how many seconds ago its estimate was made; with `narrow` a start has a short time.
    """
    progress = job.get("progress") or {}
    phase = progress.get("phase")
    if job["status"] == "queued":
        position = job.get("queue_position")
        waiting = (phase or "queued").replace("_", " ")
        reason = job.get("waiting_for")
        if reason and (reason["reason"] in _EXPLAINED or reason.get("open_devices") == 0):
            return f"{waiting}. {_MOMENT.sub(lambda found: local(found[0]) or '', reason['detail'])}"
        about = "about " if job.get("queue_position_approximate") else ""
        waiting = f"{waiting}, {about}{position} ahead" if position else waiting
        expected = job.get("estimated_start")
        start = _short(expected) if narrow and expected else local(expected)
        return f"{waiting}, starts about {start}" if start else waiting
    if job["status"] != "running":
        return job["status"]
    step, steps = progress.get("step"), progress.get("steps")
    text = (phase or "running").replace("_", " ")
    if steps:
        text += f", {'part' if phase in _IN_PARTS else 'step'} {step or 0} of {steps}"
    total, rate = progress.get("bytes_total"), progress.get("bytes_per_second")
    if total:
        text += f" {(progress.get('bytes_done') or 0) / 1e6:.0f}/{total / 1e6:.0f} MB"
    if rate:
        text += f", {rate / 1e6:.1f} MB/s"
    left = remaining(progress.get("eta_seconds"), waited)
    return f"{text}, {left}" if left else text


def remaining(eta: float | None, waited: float) -> str | None:
    """Return the time that is left by an estimate made `waited` seconds ago; None if there is nothing to say."""
    if eta is None:
        return None
    left = eta - waited
    if left >= 1:
        return f"{left:.0f} s left" if left < 60 else f"{duration(left)} left"
    return "longer than estimated" if left < -_OVERDUE_SECONDS else None


class ProgressBars(AbstractContextManager["ProgressBars"]):
    """Shows a live bar per job on a terminal; otherwise prints a line on stderr whenever a job's activity changes.

    With `whole`, a further bar counts that many jobs; the bars are then shown only if stdout is a terminal too.
    """

    def __init__(self, whole: int | None = None) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.table import Column

        self._live = err().is_terminal and (whole is None or out().is_terminal)
        self._bars = Progress(
            TextColumn("{task.fields[label]}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=40 if err().width >= _WIDE else 16),
            TaskProgressColumn(),
            _activity(Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            console=err(),
            disable=not self._live,
            expand=True,
        )
        self._whole = None if whole is None else self._bars.add_task("", total=whole, label="total", job=None)
        self._tasks: dict[str, TaskID] = {}
        self._shown: dict[str, str] = {}
        self._estimates: dict[str, tuple[Any, float]] = {}

    def __enter__(self) -> "ProgressBars":
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def show(self, job: Job, label: str) -> None:
        """Show the job's present state. A label that is its id is shown in short on a terminal."""
        text = doing(job)
        if job["id"] not in self._tasks:
            short = short_ids([*self._tasks, label])[-1] if self._live and label == job["id"] else label
            self._tasks[job["id"]] = self._bars.add_task(text, total=100, label=short, job=None, since=0.0)
        self._bars.update(
            self._tasks[job["id"]], completed=percent(job), description=text, job=job, since=self._estimated_at(job)
        )
        phase = text.partition(",")[0].partition(" ")[0]
        if not self._live and self._shown.get(job["id"]) != phase:
            self._shown[job["id"]] = phase
            note(f"{label}: {text}")

    def _estimated_at(self, job: Job) -> float:
        """Return when the job's present estimate arrived: the same one again is no newer."""
        progress = job.get("progress") or {}
        estimate = tuple(progress.get(name) for name in ("phase", "step", "bytes_done", "eta_seconds"))
        if self._estimates.get(job["id"], (None, 0.0))[0] != estimate:
            self._estimates[job["id"]] = estimate, time.monotonic()
        return self._estimates[job["id"]][1]

    def hide(self, job_id: str) -> None:
        """Remove the job's bar."""
        if (task := self._tasks.pop(job_id, None)) is not None:
            self._bars.remove_task(task)

    def count(self, ended: int, text: str) -> None:
        if self._whole is not None:
            self._bars.update(self._whole, completed=ended, description=text)


def _activity(column: "Column") -> "ProgressColumn":
    """Return the column with what each job is doing; its estimate counts down between the server's events."""
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Activity(ProgressColumn):
        def render(self, task: "Task") -> Text:
            job = task.fields["job"]
            return Text(
                task.description if job is None else doing(job, time.monotonic() - task.fields["since"], narrow=True)
            )

    return Activity(table_column=column)


def epilogue() -> str:
    """Return the exit codes, for `--help`."""
    codes = " · ".join(f"{int(code)} {code.meaning}" for code in ExitCode)
    return f"Exit codes: {codes}."
