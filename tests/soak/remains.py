"""Read the contents of the installation at the end of a run, after retention and sweep, beside the running stack."""

import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from scheduler.ticks import apply_retention, sweep
from shared.cluster.nodes import agreed
from shared.database.engine import Database
from shared.settings import Settings
from shared.storage.store import open_store
from tests.soak.history import Recorder, Remains
from tests.soak.installation import Installation
from tests.soak.plan import EXTRA
from workers.models.fetch.partials import partials

_RETENTION = timedelta(days=30)  # the default: so only what was deleted goes
_COLUMNS = (
    "id, type, status, attempt, failures, hidden, mock, model_id, worker, pid, device_key, params, result, error, "
    "started_at, released_at, finished_at, lease_until, cancel_at, webhook_url, "
    "batch_id, start_after, attempt_history"
)
_SETTLED_SECONDS = 6.0  # a process that was just born or is just ending is no stranger


def tidy(stack: Installation) -> str:
    """Run retention and sweep at once, with the sweep's minimum age 0."""
    settings = Settings(home=stack.home, node="here", catalogue=str(stack.catalogue))
    database = Database(stack.database_url())
    try:
        store = open_store(settings, lambda: agreed(database, "store"), create=False)
        said = [apply_retention(database, store, _RETENTION)]
        # Twice: the first may go on from where the last tick came to, and so miss what lies before that.
        said += [sweep(database, store, 0.0) for _ in range(2)]
        return "; ".join(said)
    finally:
        database.close()


def waiting_messages(stack: Installation) -> int:
    """Return how many webhook messages are unsent."""
    return len(_rows(stack, "SELECT id FROM webhook_messages WHERE state = 'waiting'"))


def collect(stack: Installation, recorder: Recorder) -> Remains:
    rows = [_readable(row, recorder) for row in _rows(stack, f"SELECT {_COLUMNS} FROM jobs")]
    messages = _rows(stack, "SELECT id, job_id, type, state, tries, error FROM webhook_messages")
    uses = _rows(stack, "SELECT job_id, outcome FROM uses")
    faults = _rows(stack, "SELECT * FROM device_faults ORDER BY id")
    return Remains(
        rows=tuple(rows),
        device_faults=tuple(
            {**fault, "at": _moment(fault["at"], recorder), "cleared_at": _moment(fault["cleared_at"], recorder)}
            for fault in faults
        ),
        uses=tuple((use["job_id"], use["outcome"]) for use in uses),
        flows=tuple(_flows(stack)),
        batches=tuple(
            {**batch, "finished_at": _moment(batch["finished_at"], recorder)}
            for batch in _rows(
                stack, "SELECT id, total, succeeded, failed, cancelled, finished_at FROM batches ORDER BY id"
            )
        ),
        pauses=tuple(
            {
                **pause,
                "created_at": _moment(pause["created_at"], recorder),
                **{name: _of_epoch(pause[name], recorder) for name in ("until", "ended_at")},
            }
            for pause in _rows(stack, "SELECT kind, value, created_at, until, ended_at FROM pauses ORDER BY id")
        ),
        messages=tuple(messages),
        files=tuple(_files(stack.home / "store")),
        partials=tuple(
            (found.repo.replace("soak/extra-", f"{EXTRA}-"), str(found.path))
            for found in partials(stack.home.parent / "models")
        ),
        handovers=tuple(sorted(path.name for path in (stack.home / "finishing").glob("[0-9]*.*.*"))),
        redis_keys=tuple(_redis_keys(stack)),
        strangers=_strangers(stack),
    )


def _flows(stack: Installation) -> Iterator[dict[str, Any]]:
    nodes = _rows(stack, "SELECT * FROM flow_nodes ORDER BY flow_id, position")
    for node in nodes:
        if isinstance(node["depends_on"], str):
            node["depends_on"] = json.loads(node["depends_on"])
    for flow in _rows(stack, "SELECT id, state, retries FROM flows ORDER BY id"):
        yield {**flow, "nodes": [node for node in nodes if node["flow_id"] == flow["id"]]}


def _rows(stack: Installation, query: str) -> list[dict[str, Any]]:
    engine = stack.database()
    try:
        with engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(query)).mappings()]
    finally:
        engine.dispose()


def _readable(row: Mapping[str, Any], recorder: Recorder) -> dict[str, Any]:
    """Normalise a row of either database: parse JSON, convert booleans, and use the run's clock."""
    read = dict(row)
    for name in ("params", "result", "error", "attempt_history"):
        if isinstance(read[name], str):
            read[name] = json.loads(read[name])
    for name in ("hidden", "mock"):
        read[name] = bool(read[name])
    for name in ("started_at", "released_at", "finished_at"):
        read[name] = _moment(read[name], recorder)
    for name in ("lease_until", "cancel_at", "start_after"):
        read[name] = _of_epoch(read[name], recorder)
    return read


def _of_epoch(seconds: float | None, recorder: Recorder) -> float | None:
    return recorder.of_wall(seconds) if seconds is not None else None


def _moment(value: Any, recorder: Recorder) -> float | None:
    if value is None:
        return None
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return recorder.of_wall(moment.timestamp())


def _files(store: Path) -> Iterator[tuple[str, str, int, str]]:
    for path in sorted((store / "inputs").glob("*/*")):
        yield "inputs", path.parent.name, 0, path.name
    for folder in sorted((store / "artifacts").iterdir()):
        attempts = sorted(folder.iterdir())
        if not attempts:
            yield "artifacts", folder.name, 0, ""
        for attempt in attempts:
            number = int(attempt.name) if attempt.name.isdigit() else 0
            names = sorted(file.name for file in attempt.iterdir()) if attempt.is_dir() else [attempt.name]
            for name in names or [""]:
                yield "artifacts", folder.name, number, name


def _redis_keys(stack: Installation) -> Iterator[tuple[str, int]]:
    client = stack.redis()
    for key in client.scan_iter(count=1000):
        yield key.decode(errors="replace"), client.ttl(key)


def _strangers(stack: Installation) -> tuple[str, ...]:
    before = set(stack.strangers())
    if before:
        time.sleep(_SETTLED_SECONDS)
    return tuple(sorted(before & set(stack.strangers())))
