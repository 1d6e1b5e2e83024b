"""Uses for tests: generations that have ended, as workers store them, without the jobs."""

import json
import sqlite3
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from shared import clock
from shared.database.engine import Database
from shared.database.tables import Use
from shared.jobs import ids


def used(database: Database, model_id: str = "T2V-A14B", *, days_ago: float = 0.0, **more: Any) -> None:
    """One use: a success of 10 s (1 s of it loading) at 64x64 with 9 frames in 2 steps, unless said otherwise."""
    finished_at = more.pop("finished_at", None) or clock.now() - timedelta(days=days_ago)
    seconds = more.pop("seconds", 10.0)
    values: dict[str, Any] = {
        "job_id": ids.new_id(), "model_id": model_id, "model_cache_key": f"{model_id}:none", "outcome": "succeeded",
        "created_at": finished_at, "started_at": finished_at - timedelta(seconds=seconds), "finished_at": finished_at,
        "seconds": seconds, "width": 64, "height": 64, "frames": 9, "steps": 2,
        "timings": {"loading": 1.0, "denoising": seconds - 1.0},
    }  # fmt: skip
    with database.write() as session:
        session.add(Use(**{**values, **more}))


def store_uses(path: str, count: int, models: tuple[str, ...], over_days: int = 30) -> None:
    """Add many uses, evenly over the last days, directly to SQLite."""
    now = datetime.now(UTC)
    step = timedelta(days=over_days) / count

    def rows() -> Any:
        for place in range(count):
            end = now - step * place
            model_id = models[place % len(models)]
            outcome = "failed" if place % 25 == 0 else "succeeded"
            seconds = 30.0 + place % 20
            started = end - timedelta(seconds=seconds)
            yield (
                str(uuid.UUID(int=place)), model_id, f"{model_id}:none", outcome, 0, _text(started), _text(started),
                _text(end), seconds, 832, 480, 81, 40, json.dumps({"loading": 1.0, "denoising": seconds - 1.0}),
            )  # fmt: skip

    names = (
        "job_id, model_id, warm_key, outcome, mock, created_at, started_at, finished_at, seconds, "
        "width, height, frames, steps, timings"
    )
    with sqlite3.connect(path, timeout=60) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.executemany(f"insert into uses ({names}) values ({','.join('?' * 14)})", rows())
    connection.close()


def _text(moment: datetime) -> str:
    """As the database layer writes it."""
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")
