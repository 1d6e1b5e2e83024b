"""The model library's routes under an offered rate, with a million jobs and uses stored; analytics also with few."""

import json
import sqlite3
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from shared.database.engine import Database
from shared.jobs.usage import by_day
from tests.bench.load import Load, open_loop
from tests.bench.support.row import Row
from tests.support.jobs import DEMO
from tests.support.models import library
from tests.support.uses import store_uses

MANY, FEW = 1_000_000, 1_000
RATE, CONNECTIONS, SECONDS = 200.0, 32, 10.0
LIMIT_MS = 50.0
_ROUTES: dict[str, tuple[str, dict[str, object] | None]] = {
    "status": ("/api/v1/models/status/detailed", None),
    "health": ("/api/v1/models/health", None),
    "analytics": ("/api/v1/models/analytics", None),
    "fallback": ("/api/v1/models/fallback/suggest", {"requested_model": "T2V-A14B", "quality": "high"}),
}


def management(bench: Any) -> list[Row]:
    """As the other measurements: takes the bench, which starts a stack; only its web process and Redis run."""
    with bench.stack("--only", "web,redis", WANWORKS_DEVICE_SILENCE_SECONDS="86400") as stack:
        return measured(stack.url, stack.home / "wanworks.db")


def measured(url: str, path: Path) -> list[Row]:
    """Against the web process at `url` on the SQLite database at `path`, which is filled."""
    database = Database(f"sqlite:///{path}")
    try:
        _furnish(database)
        store_uses(str(path), FEW, DEMO.model_ids)
        by_day.roll_up(database, datetime.now(UTC))
        few = _offered(url, "analytics")
        with database.write() as session:
            for table in ("uses", "use_days"):
                session.connection().exec_driver_sql(f"delete from {table}")
        store_jobs(str(path), MANY)
        store_uses(str(path), MANY, DEMO.model_ids)
        began = time.monotonic()
        by_day.roll_up(database, datetime.now(UTC))
        rolled_up = time.monotonic() - began
        seen = {name: _offered(url, name) for name in _ROUTES}
    finally:
        database.close()
    rows = [_row(name, load) for name, load in seen.items()]
    ratio = seen["analytics"].percentile(0.5) / few.percentile(0.5)
    medians = f"{1000 * seen['analytics'].percentile(0.5):.1f} over {1000 * few.percentile(0.5):.1f} ms"
    rows.append(
        Row(f"analytics' median with {MANY:,} uses over {FEW:,} ({medians})", f"{ratio:.2f}", "<= 1.5", ratio <= 1.5)
    )
    rows.append(Row(f"{MANY:,} uses of 30 days rolled up from nothing", f"{rolled_up:.1f} s", "", None))
    return rows


def _furnish(database: Database) -> None:
    """Two nodes with devices, replicas of every state, and a download under way."""
    for name in ("here", "there"):
        library.node(database, name)
        library.device(database, "TI2V-5B", on=name)
        library.replica(database, "TI2V-5B", on=name)
        library.replica(database, "T2V-A14B", state="missing", on=name, bytes=0, revision=None)
    library.replica(database, "I2V-A14B", state="corrupted", faults=[{"path": "x", "type": "truncated"}])
    library.start(database, library.download(database, "T2V-A14B", on="there"))


def _offered(url: str, name: str) -> Load:
    path, body = _ROUTES[name]
    open_loop(url, path, body, connections=CONNECTIONS, rate=RATE, seconds=1.0)  # connections and caches are warm
    load = open_loop(url, path, body, connections=CONNECTIONS, rate=RATE, seconds=SECONDS)
    assert load.statuses == {200: int(RATE * SECONDS)}, load.statuses
    return load


def _row(name: str, load: Load) -> Row:
    p99, median = 1000 * load.percentile(0.99), 1000 * load.percentile(0.5)
    what = f"{name} at {RATE:.0f} requests/s, {MANY:,} jobs and uses stored, p99 (median {median:.1f} ms)"
    return Row(what, f"{p99:.1f} ms", f"< {LIMIT_MS:.0f} ms", p99 < LIMIT_MS)


def store_jobs(path: str, count: int) -> None:
    """Ended generations, evenly over the last 30 days, straight into the file."""
    now = datetime.now(UTC)
    params = json.dumps({"model_id": "T2V-A14B", "prompt": "a cat", "width": 832, "height": 480, "frames": 81})

    def rows() -> Iterator[tuple[Any, ...]]:
        for place in range(count):
            end = now - timedelta(days=30) * (place / count)
            text = end.strftime("%Y-%m-%d %H:%M:%S.%f")
            model_id = DEMO.model_ids[place % len(DEMO.model_ids)]
            yield (
                str(uuid.UUID(int=place)), "generation", "succeeded" if place % 25 else "failed", model_id,
                f"{model_id}:none", 2, 0, 0, 0, 0.0, params, "{}", text, end.timestamp(), 0.0, text, text, 100.0, 1, 0,
                5, 0,
            )  # fmt: skip

    names = (
        "id, type, status, model_id, warm_key, priority, mock, min_vram_mb, min_ram_mb, work, params, metadata, "
        "created_at, queued_at, not_before, started_at, finished_at, percent, attempt, failures, max_failures, hidden"
    )
    with sqlite3.connect(path, timeout=60) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.executemany(f"insert into jobs ({names}) values ({','.join('?' * 22)})", rows())
    connection.close()
