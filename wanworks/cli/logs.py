"""`wanworks logs`: print the log of a process of this home's stack, and follow it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from wanworks.cli import screen
from wanworks.cli.options import Home, Url, client_of
from wanworks.errors import ConfigurationError
from wanworks.home import home_folder

_POLL_SECONDS = 0.2
_BLOCK = 64 * 1024
_MOST_OF_NODE = 500  # the API's limit


def logs(
    name: Annotated[str | None, typer.Argument(help="A process, such as web or gpu-0. [list them]")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines as they are written.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", help="How many of the last lines to print first.", min=0)
    ] = 100,
    node: Annotated[str | None, typer.Option(help="A node: the API reads its logs, for an administrator.")] = None,
    url: Url = None,
    home: Home = None,
) -> None:
    """Print the last lines of a process's log on this host or a node, such as `web`, `dispatcher` or `gpu-0`."""
    if node is not None:
        if follow:
            raise ConfigurationError("--follow: only logs on this host can be followed; leave --node or --follow out")
        _of_node(node, name, lines, url, home)
        return
    folder = home_folder(home) / "logs"
    files = {path.stem: path for path in sorted(folder.glob("*.log"))}
    if name is None:
        rows = ((stem, f"{path.stat().st_size / 1000:.0f}", path) for stem, path in files.items())
        screen.print_table(("name", "kB", "file"), rows, wrapped=("file",))
        return
    if name not in files:
        there = ", ".join(files) or f"none; {folder} has no log yet, `wanworks up` writes them"
        raise ConfigurationError(f"no log is named {name!r}; there are: {there}")
    with files[name].open("rb") as file:
        print(_last(file, lines), end="", flush=True)
        if not follow:
            return
        for text in _appended(files[name], file):
            print(text, end="", flush=True)


def _of_node(node: str, name: str | None, lines: int, url: str | None, home: Path | None) -> None:
    if not 1 <= lines <= _MOST_OF_NODE:
        raise ConfigurationError(f"--lines {lines}: of a node's log, 1 to {_MOST_OF_NODE} lines can be read")
    with client_of(url, home) as client:
        found = client.node_log(node, name, lines)
    if name is None:
        screen.print_table(("name",), ([one] for one in found["processes"]))
        return
    for line in found["lines"]:
        print(" ".join(part for part in (line["time"], line["level"], line["message"]) if part))


def _last(file: BinaryIO, lines: int) -> str:
    """Return the last lines, read from the end, because a log may be large. What follows is read next."""
    left = end = file.seek(0, os.SEEK_END)
    tail = b""
    while left and tail.count(b"\n") <= lines:
        size = min(_BLOCK, left)
        left -= size
        file.seek(left)
        tail = file.read(size) + tail
    file.seek(end)
    return b"".join(tail.splitlines(keepends=True)[-lines:] if lines else []).decode(errors="replace")


def _appended(path: Path, file: BinaryIO) -> Iterator[str]:
    """Yield what is appended from now on. A file that takes the place of this one is read from its start."""
    while True:
        if part := file.read(_BLOCK):
            yield part.decode(errors="replace")
            continue
        time.sleep(_POLL_SECONDS)
        if path.exists() and path.stat().st_ino != os.fstat(file.fileno()).st_ino:
            with path.open("rb") as new:
                yield from _appended(path, new)
