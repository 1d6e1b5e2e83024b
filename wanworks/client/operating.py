"""The calls with which a queue is operated: order, dead jobs, usage."""

from collections.abc import Mapping
from typing import Any, Literal, cast

from wanworks.client.calls import result_of, segment
from wanworks.client.refusals import refusal
from wanworks.client.shapes import Job, JobPage, PriorityName
from wanworks.client.steps import Call, Send

_JOBS = "/api/v1/jobs"


def set_priority(job_id: str, priority: PriorityName) -> Call[Job]:
    """Change the priority of a job that waits. Raises StateForbids if it runs or has ended."""
    request = Send("PATCH", f"{_JOBS}/{segment(job_id)}", json={"priority": priority})
    return cast(Job, (yield from result_of(request)))


def dead_jobs(
    *,
    type: str | None = None,
    model_id: str | None = None,
    error_code: str | None = None,
    failed_after: str | None = None,
    failed_before: str | None = None,
    limit: int = 20,
    after: str | None = None,
) -> Call[JobPage]:
    """Return jobs that have failed, may succeed if repeated, and have not been retried, newest first."""
    times = {"failed_after": failed_after, "failed_before": failed_before, "limit": limit, "after": after}
    query = _given({"type": type, "model_id": model_id, "error_code": error_code, **times})
    return cast(JobPage, (yield from result_of(Send("GET", f"{_JOBS}/dead", query=query))))


def redrive(
    *,
    type: str | None = None,
    model_id: str | None = None,
    error_code: str | None = None,
    failed_after: str | None = None,
    failed_before: str | None = None,
    metadata: Mapping[str, str] | None = None,
    dry_run: bool = False,
    limit: int = 100,
    after: str | None = None,
) -> Call[dict[str, Any]]:
    """Retry the dead jobs that match, oldest first; each at most once, however often this is called."""
    times = {"failed_after": failed_after, "failed_before": failed_before, "limit": limit, "after": after}
    names = {"type": type, "model_id": model_id, "error_code": error_code, "metadata": metadata}
    body = _given({**names, **times, "dry_run": dry_run})
    return cast(dict[str, Any], (yield from result_of(Send("POST", f"{_JOBS}/dead/redrive", json=body))))


def usage(
    *, first_day: str | None = None, last_day: str | None = None, by: tuple[Literal["key", "day", "model"], ...] = ()
) -> Call[dict[str, Any]]:
    """Return the device time of ended generations by key, day and model; of this month, if no days are given."""
    query = _given({"from": first_day, "to": last_day, "by": ",".join(by) or None})
    return cast(dict[str, Any], (yield from result_of(Send("GET", "/api/v1/usage", query=query))))


def usage_csv(
    *, first_day: str | None = None, last_day: str | None = None, by: tuple[Literal["key", "day", "model"], ...] = ()
) -> Call[str]:
    """Return the same as CSV."""
    query = _given({"from": first_day, "to": last_day, "by": ",".join(by) or None, "format": "csv"})
    answer = yield Send("GET", "/api/v1/usage", query=query)
    if not answer.good:
        raise refusal(answer)
    return cast(bytes, answer.content).decode()


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
