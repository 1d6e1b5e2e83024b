"""When jobs started and finished."""

import json
from datetime import UTC, datetime
from typing import Any

from tests.support.stack import Stack


def job_rows(stack: Stack, ids: list[str]) -> list[dict[str, Any]]:
    marks = ",".join("?" * len(ids))
    query = f"select id, started_at, finished_at, result from jobs where id in ({marks})"
    rows = []
    for job_id, started, finished, result in stack.sql(query, *ids):
        rows.append(
            {
                "id": job_id,
                "started": _epoch(started) if started else 0.0,
                "finished": _epoch(finished) if finished else None,
                "result": json.loads(result) if result else None,
            }
        )
    return rows


def _epoch(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
