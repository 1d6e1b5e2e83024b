"""The calls for many jobs: batches, and actions on all jobs that match."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Unpack, cast

import httpx

from wanworks.client.calls import given, made, result_of, segment
from wanworks.client.refusals import refusal
from wanworks.client.shapes import (
    Batch,
    BatchPage,
    BatchSummary,
    BulkActionName,
    BulkFilter,
    BulkResult,
    PriorityName,
)
from wanworks.client.steps import Answer, Blocking, Call, Emit, Emitting, Open, Pause, Read, Send
from wanworks.errors import TimedOut, TransferBroken

_BATCHES = "/api/v1/batches"
_PAGE = 100
_SUBMIT_SECONDS = 120.0  # a batch may have some ten MB
_QUIET_SECONDS = 60.0
_FIRST_ASK_SECONDS, _LAST_ASK_SECONDS = 0.5, 5.0


def create_batch(
    jobs: Sequence[Mapping[str, Any]],
    *,
    name: str | None = None,
    webhook_url: str | None = None,
    idempotency_key: str | None = None,
) -> Call[Batch]:
    """Submit up to 1,000 jobs, all or none. Each is `{"params": {...}}` with the fields of `generate`.

    An image is a data URL there (`data_url`). However often it is sent, one batch comes of it; the same
    `idempotency_key` later gives the same batch again. Raises BadRequest naming each wrong field of each job, such as
    `jobs.17.params.frames`.
    """
    body = given({"jobs": list(jobs), "name": name, "webhook_url": webhook_url})
    return cast(Batch, (yield from made(_BATCHES, body, idempotency_key, timeout_seconds=_SUBMIT_SECONDS)))


def batch(batch_id: str) -> Call[Batch]:
    """Return one batch with the states of its jobs. Raises NotThere."""
    return cast(Batch, (yield from result_of(Send("GET", f"{_BATCHES}/{segment(batch_id)}"))))


def batches_page(*, limit: int = 20, after: str | None = None) -> Call[BatchPage]:
    """Return at most `limit` (1 to 100) batches, newest first. `next` of a page is `after` of the following one."""
    return cast(BatchPage, (yield from result_of(Send("GET", _BATCHES, query=given({"limit": limit, "after": after})))))


def batches() -> Emitting[BatchSummary]:
    """Yield all batches, newest first; pages are requested as needed."""
    after: str | None = None
    while True:
        page = yield from batches_page(limit=_PAGE, after=after)
        for each in page["data"]:
            yield Emit(each)
        after = page["next"]
        if not page["has_more"]:
            return


def cancel_batch(batch_id: str) -> Call[Batch]:
    """Cancel the jobs of a batch that have not ended. Raises NotThere."""
    return cast(Batch, (yield from result_of(Send("POST", f"{_BATCHES}/{segment(batch_id)}/cancel"))))


def wait_for_batch(batch_id: str, timeout: float | None = None) -> Call[Batch]:
    """Return the batch once all of its jobs have ended. After `timeout` seconds, raise TimedOut."""
    deadline = inf if timeout is None else time.monotonic() + timeout
    pause = _FIRST_ASK_SECONDS
    while True:
        found = yield from batch(batch_id)
        if found["finished_at"] is not None:
            return found
        if time.monotonic() > deadline:
            raise TimedOut(f"batch {batch_id} has not ended after {timeout:g} s; its jobs continue")
        yield Pause(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 1.3, _LAST_ASK_SECONDS)


def download_batch(batch_id: str, to: Path) -> Call[int]:
    """Download all files of a batch as a zip archive. Return its size in bytes.

    Written beside it as NAME.partial, and renamed once it is complete. Raises TransferBroken, NotThere, OSError.
    """
    return (yield from archive(f"{_BATCHES}/{segment(batch_id)}/artifacts.zip", to, f"the archive of batch {batch_id}"))


def archive(path: str, to: Path, what: str) -> Call[int]:
    """Download an archive, which is made while it is sent, so a broken one cannot be continued."""
    part = to.with_name(f"{to.name}.partial")
    answer: Answer = yield Open(path, {"Accept": "*/*"}, _QUIET_SECONDS)
    if not answer.good:
        raise refusal(answer)
    size = int(answer.headers["content-length"])
    file = yield Blocking(partial(part.open, "wb"))
    have = 0
    try:
        while chunk := (yield Read(answer.stream)):
            yield Blocking(partial(file.write, chunk))
            have += len(chunk)
    except httpx.HTTPError:
        pass  # reported below
    finally:
        file.close()
    if have != size:
        yield Blocking(part.unlink)
        raise TransferBroken(f"{what} broke off at byte {have} of {size}; try again")
    yield Blocking(partial(part.replace, to))
    return size


def bulk(
    action: BulkActionName,
    *,
    all: bool = False,
    priority: PriorityName | None = None,
    dry_run: bool = False,
    idempotency_key: str | None = None,
    **which: Unpack[BulkFilter],
) -> Call[BulkResult]:
    """Cancel, retry or delete all jobs that match, or set their priority. Without a filter, `all` must be true.

    `dry_run` only counts them. If there are many, the result has the id of the job that does it (`job_id`).
    """
    chosen = {**given(which), **({"all": True} if all else {})}
    body = given({"action": action, "filter": chosen, "priority": priority, "dry_run": dry_run})
    return cast(BulkResult, (yield from made("/api/v1/jobs/bulk", body, idempotency_key)))
