"""A typed client of the HTTP API: what the commands know of jobs, they know through here.

Every refusal becomes one readable sentence (ApiRefused), every silence ApiUnreachable; no command sees httpx.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, cast
from urllib.parse import quote

import httpx

from cli.errors import ApiRefused, ApiUnreachable, TimedOut
from cli.state_file import read_state
from shared.states import JOB_ENDS, JobState

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_CLEANUP_TIMEOUT = httpx.Timeout(60.0, connect=5.0)  # the API itself waits for 30 s
_POLL_SECONDS = 0.5  # where the event stream cannot be had
_QUIET_STREAM_SECONDS = 40.0  # the server pings every 15 s


_MODELS = "/api/v1/models"


class Progress(TypedDict):
    percent: float | None
    phase: str | None
    step: int | None
    steps: int | None
    eta_seconds: float | None
    bytes_done: int | None
    bytes_total: int | None
    bytes_per_second: float | None


class JobError(TypedDict):
    code: str
    message: str
    retryable: bool


class ArtifactLink(TypedDict):
    name: str
    url: str
    bytes: int
    sha256: str
    content_type: str


class JobResult(TypedDict):
    artifacts: list[ArtifactLink]
    width: int
    height: int
    frames: int
    fps: float
    seed: int


class Job(TypedDict):
    """The fields of a job that the commands read; the API sends more, and `--json` prints them all."""

    id: str
    type: str
    status: str
    model_id: str | None
    priority: str
    params: dict[str, Any]
    progress: Progress
    queue_position: int | None
    attempt: int
    node: str | None
    device: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    error: JobError | None
    result: JobResult | None


class DeviceRow(TypedDict):
    node: str
    index: int
    name: str
    worker: str
    state: str
    job: Any
    warm: list[dict[str, Any]]
    last_seen: str | None


class NodeRow(TypedDict):
    name: str
    state: str
    version: str
    disk_free_mb: float | None
    last_seen: str | None


class Workers(TypedDict):
    devices: list[DeviceRow]
    nodes: list[NodeRow]


class JobPage(TypedDict):
    data: list[Job]
    has_more: bool
    next: str | None


class Client:
    """Speaks to the API at `url`. Use as a context manager."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, timeout=_TIMEOUT, headers={"Accept": "application/json"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def generate(self, request: Mapping[str, Any]) -> Job:
        """Submit a generation; fields as in the API's own documentation."""
        return cast(Job, self._ask("POST", "/api/v1/jobs/generation", json=request))

    def job(self, job_id: str) -> Job:
        return cast(Job, self._ask("GET", f"/api/v1/jobs/{_segment(job_id)}"))

    def jobs(self, **filters: str | int | None) -> JobPage:
        query = {name: value for name, value in filters.items() if value is not None}
        return cast(JobPage, self._ask("GET", "/api/v1/jobs", params=query))

    def cancel(self, job_id: str) -> Job:
        return cast(Job, self._ask("POST", f"/api/v1/jobs/{_segment(job_id)}/cancel"))

    def workers(self) -> Workers:
        return cast(Workers, self._ask("GET", "/api/v1/workers"))

    def models(self) -> dict[str, Any]:
        """Every model of the catalogue with its replicas, as in the API's detailed status."""
        return cast(dict[str, Any], self._ask("GET", f"{_MODELS}/status/detailed"))

    def fetch_model(self, request: Mapping[str, Any]) -> Job:
        """Start a download; fields as in the API's own documentation. So for the calls below."""
        return cast(Job, self._ask("POST", "/api/v1/jobs/download", json=request))

    def manage_download(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return cast(dict[str, Any], self._ask("POST", f"{_MODELS}/download/manage", json=request))

    def verify(self, request: Mapping[str, Any]) -> list[Job]:
        """One job for each node asked."""
        made = self._ask("POST", "/api/v1/jobs/integrity-check", json=request)
        return cast(list[Job], made.get("data", [made]))

    def cleanup(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return cast(dict[str, Any], self._ask("POST", f"{_MODELS}/cleanup", json=request, timeout=_CLEANUP_TIMEOUT))

    def analytics(self, days: int) -> dict[str, Any]:
        return cast(dict[str, Any], self._ask("GET", f"{_MODELS}/analytics", params={"time_period_days": days}))

    def fallback(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return cast(dict[str, Any], self._ask("POST", f"{_MODELS}/fallback/suggest", json=request))

    def pin(self, model_id: str, pinned: bool) -> dict[str, Any]:
        method: Literal["POST", "DELETE"] = "POST" if pinned else "DELETE"
        return cast(dict[str, Any], self._ask(method, f"{_MODELS}/{_segment(model_id)}/pin"))

    def alerts(self, state: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask("GET", "/api/v1/dashboard/alerts", params={"state": state})
        return found

    def acknowledge(self, alert_id: str, by: str | None) -> dict[str, Any]:
        path = f"/api/v1/dashboard/alerts/{_segment(alert_id)}/acknowledge"
        found: dict[str, Any] = self._ask("POST", path, json={"by": by} if by else {})
        return found

    def watch(self, job_id: str, timeout: float | None = None) -> Iterator[Job]:
        """The job, now and after every change, until it has ended. `timeout` in seconds; raises TimedOut.

        Asks again and again while it waits, since its place in the queue is in no event; follows the event stream while
        it runs, and goes back to asking where that breaks off.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        streaming = True
        while True:
            job = self.job(job_id)
            yield job
            if ended(job):
                return
            if time.monotonic() > deadline:
                raise TimedOut(f"job {job_id} is {job['status']} after {timeout:g} s; it goes on")
            if streaming and job["status"] == JobState.RUNNING:
                for event, told in self._stream(job_id, deadline):
                    job = _changed(job, event, told)
                    yield job
                streaming = False  # ended, broken off, or out of time: the question above settles which
            else:
                time.sleep(_POLL_SECONDS)

    def download(self, path: str, to: Path) -> int:
        """Fetch an artifact to that file, whole or not at all; returns its size in bytes."""
        partial = to.with_name(f"{to.name}.partial")
        size = 0
        with self._answered(), self._http.stream("GET", path) as response:
            if response.status_code != httpx.codes.OK:
                response.read()
                raise _refusal(response)
            with partial.open("wb") as file:
                for chunk in response.iter_bytes():
                    size += file.write(chunk)
        partial.replace(to)
        return size

    def _stream(self, job_id: str, deadline: float) -> Iterator[tuple[str, dict[str, Any]]]:
        """The names and data of the job's events; ends early, without a word, where the stream does."""
        timeout = httpx.Timeout(_QUIET_STREAM_SECONDS, connect=5.0)
        path = f"/api/v1/jobs/{_segment(job_id)}/events"
        name = ""
        try:
            with self._http.stream("GET", path, timeout=timeout, headers={"Accept": "text/event-stream"}) as response:
                if response.status_code != httpx.codes.OK:
                    return
                for line in response.iter_lines():
                    field, _, value = line.partition(":")
                    if field == "event":
                        name = value.strip()
                    elif field == "data":
                        yield name, json.loads(value)
                    if time.monotonic() > deadline:
                        return
        except (httpx.HTTPError, ValueError):
            return

    def _ask(self, method: Literal["GET", "POST", "DELETE"], path: str, **rest: Any) -> Any:
        with self._answered():
            response = self._http.request(method, path, **rest)
        if response.is_error:
            raise _refusal(response)
        try:
            return response.json()
        except ValueError:
            raise ApiUnreachable(f"what answers at {self.url} is not wanworks") from None

    @contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException:
            raise ApiUnreachable(f"the API at {self.url} does not answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ApiUnreachable(f"the API at {self.url} cannot be reached: {error}") from None


def _changed(job: Job, event: str, told: dict[str, Any]) -> Job:
    """The job after one event of its stream: `progress` and `state` tell parts of it, the others the whole."""
    if event == "progress":
        return cast(Job, {**job, "progress": {**job["progress"], **told}})
    return cast(Job, {**job, **{name: value for name, value in told.items() if name in job}})


def ended(job: Job) -> bool:
    return job["status"] in JOB_ENDS


def succeeded(job: Job) -> bool:
    return job["status"] == JobState.SUCCEEDED


def find_url(given: str | None, home: Path) -> str:
    """The API's address: as given, from WANWORKS_URL, or of the stack that runs on `home`. Raises ApiUnreachable."""
    if url := given or os.environ.get("WANWORKS_URL"):
        return url
    state = read_state(home)
    if state is None or not state["running"] or not state["api_url"]:
        raise ApiUnreachable(f"no stack runs on the home {home}: start `wanworks up`, or give --url")
    return str(state["api_url"])


def _segment(id: str) -> str:
    """An id as one segment of a path, whatever was typed."""
    return quote(id, safe="")


def _refusal(response: httpx.Response) -> ApiRefused:
    try:
        problem = response.json()
        sentence = problem.get("detail") or problem.get("title") or ""
        fields = [
            f"{'.'.join(str(part) for part in error['loc'] if part not in ('body', 'query'))}: {error['msg']}"
            for error in problem.get("errors") or ()
        ]
        missing = [field for field in fields if field not in sentence]
        text = "; ".join(part for part in (sentence, *missing) if part)
        return ApiRefused(text or f"HTTP {response.status_code}", response.status_code, problem.get("code"))
    except (ValueError, AttributeError, KeyError, TypeError):
        return ApiRefused(f"HTTP {response.status_code} from {response.url}", response.status_code)
