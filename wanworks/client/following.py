"""Follow a job to its end by its event stream, or by polling if the stream is not available."""

import random
import time
from collections.abc import Generator
from math import inf
from typing import Any, cast

import httpx

from wanworks.client import calls
from wanworks.client.event_stream import Event, EventStream
from wanworks.client.shapes import Job, ended
from wanworks.client.steps import Answer, Call, Close, Emit, Emitting, Open, Pause, Read, Step, relayed
from wanworks.errors import TimedOut
from wanworks.states import JOB_ENDS, JobState

_ASK_SECONDS = 0.5  # between two polls
_ASK_SLOWLY_SECONDS = 1.0  # for a job that waits long
_COME_BACK_SECONDS = 0.5  # at most, before reconnecting to a broken stream
_NO_STREAM_SECONDS = 5.0  # before another try of a stream that delivered nothing
_QUIET_SECONDS = 40.0  # the server pings every 15


def progress(job_id: str, timeout: float | None = None) -> Emitting[Job]:
    """Yield the job, now and after every change, until it has ended. Its percentage never falls within an attempt.

    Asks while it waits, since its place in the queue is in no event, and follows the event stream while it runs.
    Continues over a restart of the server. `timeout` in seconds; raises TimedOut, and the job continues.
    """
    yield from _followed(job_id, timeout, (JobState.RUNNING,))


def wait(job_id: str, timeout: float | None = None) -> Call[Job]:
    """Return the job once it has ended, also if it failed. After `timeout` seconds, raise TimedOut."""
    last: list[Job] = []

    def instead(step: Step | Emit[Any]) -> Generator[Step | Emit[Any], Any, Any]:
        if isinstance(step, Emit):
            last[:] = [step.value]
            return None
        return (yield step)

    states = (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED)
    yield from cast(Call[None], relayed(_followed(job_id, timeout, states), instead))
    return last[0]


def _followed(job_id: str, timeout: float | None, streamed: tuple[JobState, ...]) -> Emitting[Job]:
    deadline = inf if timeout is None else time.monotonic() + timeout
    events = EventStream()
    stream_from, pause = 0.0, _ASK_SECONDS
    known: Job | None = None
    while True:
        job = _merged(known, (yield from calls.job(job_id)))
        yield Emit(job)
        if ended(job):
            return
        if time.monotonic() > deadline:
            raise TimedOut(f"job {job_id} is {job['status']} after {timeout:g} s; the job continues")
        if job["status"] in streamed and time.monotonic() >= stream_from:
            before = job
            while (now := (yield from _streamed(job, events, deadline))) is not job:  # cut, and worth coming back to
                job = now
                if ended(job) or time.monotonic() > deadline:
                    break
                yield Pause(_COME_BACK_SECONDS * random.random())
            if ended(job):
                return
            stream_from = time.monotonic() + _NO_STREAM_SECONDS if job is before else 0.0
            pause = _ASK_SECONDS
        else:
            waits = job["status"] in (JobState.QUEUED, JobState.PAUSED)
            pause = min(pause * 1.2, _ASK_SLOWLY_SECONDS) if waits else _ASK_SECONDS
        known = job
        yield Pause(min(pause * (0.8 + 0.2 * random.random()), max(0.0, deadline - time.monotonic())))


def _streamed(job: Job, events: EventStream, deadline: float) -> Generator[Step | Emit[Job], Any, Job]:
    """Return the job as of the stream's last event; the same object if there was none."""
    events.start_again()
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if events.last_id is not None:
        headers["Last-Event-ID"] = events.last_id
    path = f"/api/v1/jobs/{calls.segment(job['id'])}/events"
    quiet = min(_QUIET_SECONDS, max(0.1, deadline - time.monotonic()))
    try:
        answer: Answer = yield Open(path, headers, quiet, once=True)
        if not answer.good:
            return job
        while chunk := (yield Read(answer.stream)):
            for event in events.feed(chunk):
                before, job = job, _changed(job, event)
                if _without_clock(job) != _without_clock(before):
                    yield Emit(job)
                if event.name == "end":
                    yield Close(answer.stream)
                    return job
            if time.monotonic() > deadline:
                yield Close(answer.stream)
                return job
    except (httpx.HTTPError, ValueError):
        pass  # broken: the next poll reads the job's state
    return job


def _changed(job: Job, event: Event) -> Job:
    """Return the job after one event: `progress` and `state` carry parts of it, the others the whole job."""
    fields = event.data
    if event.name == "state" and fields.get("status") in JOB_ENDS:
        return job  # the event `end` comes next, and has what was made
    if event.name == "progress":
        fields = {"attempt": fields.get("attempt", job["attempt"]), "progress": {**job["progress"], **fields}}
        fields["progress"].pop("attempt", None)
    return _merged(job, cast(Job, {**job, **{name: value for name, value in fields.items() if name in job}}))


def _without_clock(job: Job) -> dict[str, object]:
    """Return the job without what grows by itself while it runs, which alone is no change."""
    return {name: value for name, value in job.items() if name != "gpu_seconds"}


def _merged(known: Job | None, job: Job) -> Job:
    """Return the newer state: replayed events and rows may be older than what is known of the attempt."""
    if known is None or ended(job) or job.get("attempt") != known.get("attempt"):
        return job
    before, now = known["progress"].get("percent"), job["progress"].get("percent")
    if before is None or (now is not None and now >= before):
        return job
    return cast(Job, {**job, "progress": known["progress"]})
