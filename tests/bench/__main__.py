"""Run every measurement and write docs/measurements.md's table: ``python -m tests.bench [NAME ...]``."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.checkpoints import checkpoints
from tests.bench.claims import claims
from tests.bench.downloads import downloads
from tests.bench.estimates import estimates
from tests.bench.finishing import finishing
from tests.bench.integrity import integrity
from tests.bench.jobs import accepts, overhead, readiness, throughput
from tests.bench.large.feed import feed
from tests.bench.large.insight import insight
from tests.bench.large.management import management
from tests.bench.large.page import page
from tests.bench.large.retention import retention
from tests.bench.large.scale import scale
from tests.bench.loads import loads
from tests.bench.preparing import preparing
from tests.bench.previews import previews
from tests.bench.support.row import Row
from tests.support.places import ROOT

PAGE = ROOT / "docs" / "measurements.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

MEASUREMENTS: dict[str, Callable[[Bench], list[Row]]] = {
    "readiness": readiness,
    "overhead": overhead,
    "finishing": finishing,
    "accepts": accepts,
    "claims": claims,
    "throughput": throughput,
    "loads": loads,
    "estimates": estimates,
    "downloads": downloads,
    "integrity": integrity,
    "preparing": preparing,
    "previews": previews,
    "checkpoints": checkpoints,
    "management": management,
    "insight": insight,
    "feed": feed,
    "page": page,
    "scale": scale,
    "retention": retention,
}


def main() -> None:
    chosen = sys.argv[1:] or list(MEASUREMENTS)
    unknown = set(chosen) - set(MEASUREMENTS)
    if unknown:
        sys.exit(f"unknown measurement {sorted(unknown)[0]!r}; there are {', '.join(MEASUREMENTS)}")
    folder = Path(tempfile.mkdtemp(prefix="wanworks-bench-"))
    failed = []
    try:
        bench = Bench(folder)
        for name in chosen:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            rows = MEASUREMENTS[name](bench)
            failed += [row.what for row in rows if row.holds is False]
            print(_table(rows), flush=True)
            _write(name, _table(rows))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if failed:
        sys.exit(f"a bound does not hold: {'; '.join(failed)}")


def _table(rows: list[Row]) -> str:
    lines = ["| what | measured | bound | holds |", "|---|---|---|---|"]
    words = {True: "yes", False: "**no**", None: ""}
    lines += [f"| {row.what} | {row.measured} | {row.bound} | {words[row.holds]} |" for row in rows]
    return "\n".join(lines)


def _write(name: str, table: str) -> None:
    """Write the table into the page, replacing the earlier one of that name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    machine = f"{os.cpu_count()} cores ({cpu}), {memory:.0f} GB, no GPU, Python {platform.python_version()}"
    before, _, rest = PAGE.read_text().partition(BEGIN)
    inside, _, after = rest.partition(END)
    sections = dict(section.split("\n", 1) for section in inside.split("### ")[1:])
    command = f"`make bench`, or `.venv/bin/python -m tests.bench {name}`"
    sections[name] = f"\n{command}; {datetime.now(UTC):%Y-%m-%d}, {machine}.\n\n{table}\n\n"
    text = "".join(f"### {key}\n{sections[key]}" for key in MEASUREMENTS if key in sections)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}{END}{after}")


if __name__ == "__main__":
    main()
