"""The calls for flows: jobs that depend on one another."""

import time
import uuid
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, cast

from wanworks.client.calls import result_of, segment
from wanworks.client.shapes import Flow, FlowJobFields, FlowPage, FlowSummary
from wanworks.client.steps import Call, Emit, Emitting, Pause, Send
from wanworks.errors import TimedOut
from wanworks.states import FLOW_ENDS

_FLOWS = "/api/v1/flows"
_PAGE = 100
_ASK_SECONDS, _ASK_SLOWLY_SECONDS = 0.5, 2.0


def submit_flow(
    jobs: Sequence[FlowJobFields | Mapping[str, Any]],
    *,
    name: str | None = None,
    webhook_url: str | None = None,
    metadata: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
) -> Call[Flow]:
    """Submit jobs that depend on one another: all are accepted, or none.

    However often it is sent, one flow comes of it. Raises BadRequest naming each wrong field of each job.
    """
    fields = {"name": name, "webhook_url": webhook_url, "metadata": metadata}
    body = {"jobs": list(jobs), **{key: value for key, value in fields.items() if value is not None}}
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return cast(Flow, (yield from result_of(Send("POST", _FLOWS, json=body, headers=headers))))


def flow(flow_id: str) -> Call[Flow]:
    """Return one flow with its jobs. Raises NotThere."""
    return cast(Flow, (yield from result_of(Send("GET", f"{_FLOWS}/{segment(flow_id)}"))))


def flows_page(*, state: str | None = None, limit: int = 20, after: str | None = None) -> Call[FlowPage]:
    """Return at most `limit` (1 to 100) flows, newest first. `next` of a page is `after` of the following one."""
    query = {"state": state, "limit": limit, "after": after}
    given = {name: value for name, value in query.items() if value is not None}
    return cast(FlowPage, (yield from result_of(Send("GET", _FLOWS, query=given))))


def flows(*, state: str | None = None) -> Emitting[FlowSummary]:
    """Yield all flows, newest first; pages are requested as needed."""
    after: str | None = None
    while True:
        page = yield from flows_page(state=state, limit=_PAGE, after=after)
        for each in page["data"]:
            yield Emit(each)
        after = page["next"]
        if not page["has_more"]:
            return


def cancel_flow(flow_id: str) -> Call[Flow]:
    """Cancel all jobs of a flow that have not ended. Raises StateForbids if it has succeeded or failed."""
    return cast(Flow, (yield from result_of(Send("POST", f"{_FLOWS}/{segment(flow_id)}/cancel"))))


def retry_flow(flow_id: str) -> Call[Flow]:
    """Queue again what did not succeed. Raises StateForbids unless the flow has failed or was cancelled."""
    request = Send("POST", f"{_FLOWS}/{segment(flow_id)}/retry", repeatable=False)
    return cast(Flow, (yield from result_of(request)))


def wait_flow(flow_id: str, timeout: float | None = None) -> Call[Flow]:
    """Return the flow once it has ended, also if it failed. After `timeout` seconds, raise TimedOut."""
    deadline = inf if timeout is None else time.monotonic() + timeout
    pause = _ASK_SECONDS
    while True:
        found = yield from flow(flow_id)
        if found["state"] in FLOW_ENDS:
            return found
        if time.monotonic() > deadline:
            raise TimedOut(f"flow {flow_id} is {found['state']} after {timeout:g} s; it continues")
        yield Pause(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 1.2, _ASK_SLOWLY_SECONDS)
