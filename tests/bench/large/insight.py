"""The information and dashboard routes under an offered rate, with few jobs, and with many and a month of samples."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from shared import clock
from shared.database.engine import Database
from shared.insight import samples
from shared.insight.samples import Doing, Reading
from shared.jobs.usage import by_day
from tests.bench.large.management import store_jobs
from tests.bench.load import Load, open_loop
from tests.bench.support.row import Row
from tests.support.jobs import DEMO
from tests.support.models import library
from tests.support.uses import store_uses

MANY, FEW = 1_000_000, 1_000
RATE, CONNECTIONS, SECONDS = 200.0, 32, 10.0
_DEVICES = [f"{node}/{index}" for node in ("here", "there") for index in range(2)]
_SAMPLE_SECONDS = 5  # between two samples of a device
_INSIGHT, _DASHBOARD = "/api/v1/wan-models", "/api/v1/dashboard"
_LIMITS_MS = {
    f"{_INSIGHT}/capabilities/T2V-A14B": 10.0,
    f"{_INSIGHT}/health/T2V-A14B": 20.0,
    f"{_INSIGHT}/performance/T2V-A14B": 30.0,
    f"{_INSIGHT}/compare/T2V-A14B/TI2V-5B": 40.0,
    f"{_INSIGHT}/recommend?use_case=animate+photos": 40.0,
    f"{_INSIGHT}/dashboard": 50.0,
    f"{_DASHBOARD}/overview": 50.0,
    f"{_DASHBOARD}/metrics": 50.0,
    f"{_DASHBOARD}/models": 50.0,
    f"{_DASHBOARD}/metrics/history?hours=168": 50.0,
}


def insight(bench: Any) -> list[Row]:
    """As the other measurements: takes the bench, which starts a stack; only its web process and Redis run."""
    with bench.stack("--only", "web,redis", WANWORKS_DEVICE_SILENCE_SECONDS="86400") as stack:
        return measured(stack.url, stack.home / "wanworks.db")


def measured(url: str, path: Path, many: int = MANY, seconds: float = SECONDS) -> list[Row]:
    """Against the web process at `url` on the SQLite database at `path`, which is filled."""
    database = Database(f"sqlite:///{path}")
    try:
        _furnish(database)
        store_jobs(str(path), FEW)
        store_uses(str(path), FEW, DEMO.model_ids)
        by_day.roll_up(database, datetime.now(UTC))
        with _sampling(database):
            few = {route: _offered(url, route, seconds) for route in _LIMITS_MS}
        with database.write() as session:
            for table in ("jobs", "uses", "use_days"):
                session.connection().exec_driver_sql(f"delete from {table}")
        store_jobs(str(path), many)
        store_uses(str(path), many, DEMO.model_ids)
        by_day.roll_up(database, datetime.now(UTC))
        store_samples(str(path))
        with _sampling(database):
            seen = {route: _offered(url, route, seconds) for route in _LIMITS_MS}
    finally:
        database.close()
    return [_row(route, seen[route], few[route], many) for route in _LIMITS_MS]


def store_samples(path: str, over_days: int = 30) -> None:
    """What four devices leave behind: hours that are rolled up, the raw rows of a day, and every minute's snapshot."""
    now = datetime.now(UTC)
    hour = now.replace(minute=0, second=0, microsecond=0)

    def hours() -> Iterator[tuple[Any, ...]]:
        for back in range(1, over_days * 24):
            for device in _DEVICES:
                for model_id in ("", *DEMO.model_ids):
                    at = _text(hour - timedelta(hours=back))
                    yield (
                        device, at, model_id, "cuda", 180, 180 * 90.0, 180, 180 * 4e4, 6e4, 180, 8e4, 180 * 60.0, 70.0,
                        180, 180 * 400.0, 180,
                    )  # fmt: skip

    def raw() -> Iterator[tuple[Any, ...]]:
        for back in range(0, 86_400, _SAMPLE_SECONDS):
            for device in _DEVICES:
                at = _text(now - timedelta(seconds=back))
                yield (device, at, "cuda", 90.0, 4e4, 8e4, 60.0, 400.0, "x", DEMO.model_ids[back % 3], "denoising")

    def snapshots() -> Iterator[tuple[Any, ...]]:
        for back in range(over_days * 1440):
            yield (
                _text(now - timedelta(minutes=back)), 3, 2, 1, 33_000, 0.9, 0.8, 90.0, 50.0, 0, 2, back % 50, 4, 30.0,
                1300, 50, 40.0, 60.0, 800.0,
            )  # fmt: skip

    tables = {
        "sample_hours": (
            "device_key, hour, model_id, kind, samples, utilization_sum, utilization_count, memory_sum_mb, "
            "memory_max_mb, memory_count, memory_total_mb, temperature_sum, temperature_max, temperature_count, "
            "power_sum, power_count",
            hours(),
        ),
        "samples": (
            "device_key, at, kind, utilization_percent, memory_used_mb, memory_total_mb, temperature_celsius, "
            "power_watts, job_id, model_id, phase",
            raw(),
        ),
        "snapshots": (
            "at, total_models, healthy_models, active_models, total_generations_24h, average_quality_score, "
            "average_performance_score, system_load_percent, memory_usage_percent, alerts_count, "
            "recommendations_count, queued_jobs, running_jobs, oldest_queued_seconds, succeeded_1h, failed_1h, "
            "average_generation_seconds, disk_used_percent, disk_free_gb",
            snapshots(),
        ),
    }
    with sqlite3.connect(path, timeout=60) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        for table, (names, rows) in tables.items():
            places = ",".join("?" * len(names.split(",")))
            connection.executemany(f"insert into {table} ({names}) values ({places})", rows)
    connection.close()


@contextlib.contextmanager
def _sampling(database: Database) -> Iterator[None]:
    """Keep the devices' heartbeats and samples current."""
    stop = threading.Event()

    def work() -> None:
        while True:
            for device in _DEVICES:
                reading = Reading(90.0, 4e4, 8e4, 60.0, 400.0)
                samples.record(database, device, "cuda", reading, Doing("x", "T2V-A14B", "denoising"), clock.now())
            if stop.wait(_SAMPLE_SECONDS):
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _furnish(database: Database) -> None:
    """Two nodes with two devices each, replicas of every state."""
    for name in ("here", "there"):
        library.node(database, name)
        for index in range(2):
            library.device(database, "T2V-A14B", on=name, index=index)
        library.replica(database, "T2V-A14B", on=name)
        library.replica(database, "TI2V-5B", on=name)
    library.replica(database, "I2V-A14B", state="corrupted", faults=[{"path": "x", "type": "truncated"}])


def _offered(url: str, route: str, seconds: float) -> Load:
    open_loop(url, route, None, connections=CONNECTIONS, rate=RATE, seconds=1.0)  # connections and caches are warm
    time.sleep(0.2)
    load = open_loop(url, route, None, connections=CONNECTIONS, rate=RATE, seconds=seconds)
    assert load.statuses == {200: int(RATE * seconds)}, (route, load.statuses)
    return load


def _row(route: str, load: Load, few: Load, many: int) -> Row:
    p99, median = 1000 * load.percentile(0.99), 1000 * load.percentile(0.5)
    before, limit = 1000 * few.percentile(0.5), _LIMITS_MS[route]
    name = route.removeprefix("/api/v1/").partition("?")[0]
    what = (
        f"{name} at {RATE:.0f} requests/s, {many:,} jobs and 30 days of samples stored, p99 (median {median:.1f} ms; "
        f"with {FEW:,} jobs {before:.1f} ms)"
    )
    return Row(what, f"{p99:.1f} ms", f"< {limit:.0f} ms, <= 1.5", p99 < limit and median <= 1.5 * before)


def _text(moment: datetime) -> str:
    """As the database layer writes it."""
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")
