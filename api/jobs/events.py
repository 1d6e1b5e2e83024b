"""Server-Sent Events of one job: a snapshot from SQL, the events of its stream, and always the final state.

`snapshot` and `end` carry the whole job, `progress` and `state` only changes. An event's id is its position in the
stream, so a client that reconnects with `Last-Event-ID` receives what it missed. SQL is read regularly, so clients
learn the end also without Redis, and receive nothing more once their key was revoked.
"""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio.to_thread
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from api.access.caller import caller_of
from api.context import Context
from api.http import headers
from api.http.query import job_id_of
from api.jobs import views
from api.jobs.handlers import PASS_SECONDS
from api.jobs.objects import job_objects
from api.operation import Answer, Operation
from api.schemas.jobs import jobs
from api.services import live
from shared.database.tables import Job
from shared.errors import Forbidden, NotFound, Unauthenticated, Unavailable
from shared.jobs import records
from shared.states import JOB_ENDS, JobState
from shared.states import Scope as KeyScope

_RETRY_MILLISECONDS = 2000
_PING_SECONDS = 15


async def job_events(context: Context, request: Request, query: BaseModel) -> Response:
    job_id = job_id_of(request)
    seen = headers.last_event_id(request.headers)
    after = seen or await context.streams.last_id(job_id)  # read before the row, so that no event is missed
    job = await anyio.to_thread.run_sync(partial(records.get, context.database, job_id, only=caller_of(request).only))
    events = _events(context, request, job, after, replaying=seen is not None)
    return _Stream(events, ping=_PING_SECONDS, sep="\n")


class _Stream(EventSourceResponse):
    """Ends the body properly when the process stops, so that clients reconnect."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        open_body = False

        async def observe(message: Message) -> None:
            nonlocal open_body
            await send(message)
            open_body = message["type"] == "http.response.start" or bool(message.get("more_body"))

        await super().__call__(scope, receive, observe)
        if open_body:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass
class _Sent:
    """The state that the client knows. Filters events that are older."""

    attempt: int
    status: str
    phase: str | None
    percent: float

    def progress(self, event: dict[str, Any]) -> dict[str, Any] | None:
        attempt = int(event.get("attempt", 0))
        if attempt < self.attempt:
            return None
        if attempt > self.attempt:
            self.attempt, self.percent = attempt, 0.0
        shown = live.read(event, at_least=self.percent)
        self.percent = shown.percent
        return {"attempt": attempt, **shown.model_dump()}

    def state(self, event: dict[str, Any]) -> dict[str, Any] | None:
        attempt = int(event.get("attempt", 0))
        if attempt < self.attempt:
            return None
        if attempt > self.attempt:
            self.attempt, self.percent = attempt, 0.0
        self.status = str(event.get("status"))
        return {key: value for key, value in event.items() if key != "kind"}

    def row(self, job: Job) -> dict[str, Any] | None:
        """Return the changes in the row that the stream did not report."""
        if (job.attempt, job.status) == (self.attempt, self.status) and (
            job.status != JobState.QUEUED or job.phase == self.phase
        ):
            return None
        if job.attempt < self.attempt:
            return None
        if job.attempt > self.attempt:
            self.percent = 0.0
        self.attempt, self.status, self.phase = job.attempt, job.status, job.phase
        return {"attempt": job.attempt, "status": job.status, "phase": job.phase}


async def _events(
    context: Context, request: Request, job: Job, after: str, *, replaying: bool
) -> AsyncIterator[ServerSentEvent]:
    sent = _Sent(job.attempt, job.status, job.phase, 0.0)
    if replaying:
        # Only the row's progress: live progress would be ahead of the replayed events.
        sent = _Sent(0, "", None, 0.0)
        if job.status not in JOB_ENDS:
            first = views.job(job, live.stored(job), None, context.settings.public_path)
            yield _event("snapshot", first.model_dump_json())
    else:
        first = await _shown(context, job)
        sent.percent = first.progress.percent
        place = after if after != "$" else None
        yield _event("snapshot", first.model_dump_json(), place)

    if job.status in JOB_ENDS:
        if replaying:
            for entry in await context.streams.read(job.id, after, 0.05):
                if (event := _event_data(sent, entry.event)) is not None:
                    yield _event(event[0], json.dumps(event[1]), entry.id)
        yield await _end(context, job)
        return

    read_at = time.monotonic() + PASS_SECONDS
    while True:
        entries = await context.streams.read(job.id, after, max(0.05, read_at - time.monotonic()))
        ended = False
        for entry in entries:
            after = entry.id
            ended |= entry.event.get("status") in JOB_ENDS
            if (event := _event_data(sent, entry.event)) is not None:
                yield _event(event[0], json.dumps(event[1]), entry.id)
        if not ended and time.monotonic() < read_at and not context.streams.away:
            continue
        read_at = time.monotonic() + PASS_SECONDS
        try:
            await context.access.caller(request)
            job = await anyio.to_thread.run_sync(records.get, context.database, job.id)
        except (Unauthenticated, Forbidden):
            return
        except NotFound:
            # The job was deleted, which also cancels it; its row is not visible any more.
            gone = {"id": job.id, "status": JobState.CANCELLED.value, "deleted": True}
            yield _event("end", json.dumps(gone))
            return
        except Unavailable:
            continue
        if job.status in JOB_ENDS:
            yield await _end(context, job)
            return
        if not entries and (changed := sent.row(job)) is not None:
            yield _event("state", json.dumps(changed))


def _event_data(sent: _Sent, event: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    kind = "state" if event.get("kind") == "state" else "progress"
    data = sent.state(event) if kind == "state" else sent.progress(event)
    return None if data is None else (kind, data)


async def _end(context: Context, job: Job) -> ServerSentEvent:
    return _event("end", (await _shown(context, job)).model_dump_json())


async def _shown(context: Context, job: Job) -> jobs.Job:
    return await anyio.to_thread.run_sync(lambda: job_objects(context, [job])[0])


def _event(name: str, data: str, place: str | None = None) -> ServerSentEvent:
    return ServerSentEvent(data, event=name, id=place, retry=_RETRY_MILLISECONDS if name == "snapshot" else None)


OPERATIONS = (
    Operation(
        "GET", "/api/v1/jobs/{id}/events", job_events, "jobEvents", "Watch a job (Server-Sent Events)",
        answers=(Answer(200, "Events until the job ends.", media_type="text/event-stream"),),
        problems=(404, 503), headers=("Last-Event-ID",),
        description="The first event, `snapshot`, and the last, `end`, carry the whole job; `progress` and `state` "
        "carry changes. With `Last-Event-ID`, missed events are sent first.", scope=KeyScope.READ,
    ),
)  # fmt: skip
