"""Server-Sent Events of one job: a snapshot from SQL, what its stream tells, and always the final state.

`snapshot` and `end` carry the whole job, `progress` and `state` what changed. An event's id is its place in the stream:
a client that returns with `Last-Event-ID` is told what it missed. SQL is looked at all the while, so a watcher learns
the end also where Redis is gone or has lost its data, and is told nothing more once its key was revoked.
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
from api.jobs.handlers import PASS_SECONDS, shown
from api.operation import Answer, Operation
from api.schemas import jobs
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
    after = seen or await context.streams.last_id(job_id)  # before the row is read, so that nothing falls between
    job = await anyio.to_thread.run_sync(partial(records.get, context.database, job_id, only=caller_of(request).only))
    events = _events(context, request, job, after, replaying=seen is not None)
    return _Stream(events, ping=_PING_SECONDS, sep="\n")


class _Stream(EventSourceResponse):
    """Ends its body properly also where it is cut because the process stops; clients then come back."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        open_body = False

        async def noting(message: Message) -> None:
            nonlocal open_body
            await send(message)
            open_body = message["type"] == "http.response.start" or bool(message.get("more_body"))

        await super().__call__(scope, receive, noting)
        if open_body:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass
class _Told:
    """What the client knows: nothing that is behind it is sent."""

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
        """What the row says that the stream did not."""
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
    told = _Told(job.attempt, job.status, job.phase, 0.0)
    if replaying:
        # Told from the row alone: live progress would be ahead of what is replayed.
        told = _Told(0, "", None, 0.0)
        if job.status not in JOB_ENDS:
            first = views.job(job, live.stored(job), None, context.settings.public_path)
            yield _event("snapshot", first.model_dump_json())
    else:
        first = await _shown(context, job)
        told.percent = first.progress.percent
        place = after if after != "$" else None
        yield _event("snapshot", first.model_dump_json(), place)

    if job.status in JOB_ENDS:
        if replaying:
            for entry in await context.streams.read(job.id, after, 0.05):
                if (event := _told_of(told, entry.event)) is not None:
                    yield _event(event[0], json.dumps(event[1]), entry.id)
        yield await _end(context, job)
        return

    look_at = time.monotonic() + PASS_SECONDS
    while True:
        entries = await context.streams.read(job.id, after, max(0.05, look_at - time.monotonic()))
        ended = False
        for entry in entries:
            after = entry.id
            ended |= entry.event.get("status") in JOB_ENDS
            if (event := _told_of(told, entry.event)) is not None:
                yield _event(event[0], json.dumps(event[1]), entry.id)
        if not ended and time.monotonic() < look_at and not context.streams.away:
            continue
        look_at = time.monotonic() + PASS_SECONDS
        try:
            await context.access.caller(request)
            job = await anyio.to_thread.run_sync(records.get, context.database, job.id)
        except (Unauthenticated, Forbidden):
            return
        except NotFound:
            # Deleted while it was watched: that is a cancel, and the row is not shown any more.
            gone = {"id": job.id, "status": JobState.CANCELLED.value, "deleted": True}
            yield _event("end", json.dumps(gone))
            return
        except Unavailable:
            continue
        if job.status in JOB_ENDS:
            yield await _end(context, job)
            return
        if not entries and (changed := told.row(job)) is not None:
            yield _event("state", json.dumps(changed))


def _told_of(told: _Told, event: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    kind = "state" if event.get("kind") == "state" else "progress"
    said = told.state(event) if kind == "state" else told.progress(event)
    return None if said is None else (kind, said)


async def _end(context: Context, job: Job) -> ServerSentEvent:
    return _event("end", (await _shown(context, job)).model_dump_json())


async def _shown(context: Context, job: Job) -> jobs.Job:
    return await anyio.to_thread.run_sync(lambda: shown(context, [job])[0])


def _event(name: str, data: str, place: str | None = None) -> ServerSentEvent:
    return ServerSentEvent(data, event=name, id=place, retry=_RETRY_MILLISECONDS if name == "snapshot" else None)


OPERATIONS = (
    Operation(
        "GET", "/api/v1/jobs/{id}/events", job_events, "jobEvents", "Watch a job (Server-Sent Events)",
        answers=(Answer(200, "Events until the job's end.", media_type="text/event-stream"),),
        problems=(404, 503), headers=("Last-Event-ID",),
        description="`snapshot` first and `end` last carry the whole job; `progress` and `state` what changed. With "
        "`Last-Event-ID` what was missed is told first.", scope=KeyScope.READ,
    ),
)  # fmt: skip
