"""A client of the HTTP API: `Client`, and `AsyncClient` for asyncio and trio. The commands use it too.

Each call is described once (`calls.py`, `following.py`, `fetching.py`); the two classes here only carry out its steps.
They raise the errors of `wanworks.errors`, never those of httpx.
"""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import update_wrapper
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar, cast, overload
from urllib.parse import urljoin

import anyio
import anyio.to_thread
import httpx

from wanworks.client import batches as batch_calls
from wanworks.client import calls, fetching, following, operating
from wanworks.client import flows as flow_calls
from wanworks.client import gallery as gallery_calls
from wanworks.client import loras as lora_calls
from wanworks.client.retries import Contact, Retry, patient
from wanworks.client.shapes import (
    Alert,
    ArtifactLink,
    GenerationFields,
    Job,
    JobPage,
    Node,
    ended,
    succeeded,
    video_of,
    why_not,
)
from wanworks.client.steps import Answer, Blocking, Call, Close, Emit, Emitting, Open, Pause, Read, Running, Send, Step
from wanworks.errors import ApiUnreachable
from wanworks.net import proxies
from wanworks.net.paths import within

__all__ = [
    "Alert",
    "ArtifactLink",
    "AsyncClient",
    "Client",
    "GenerationFields",
    "Job",
    "JobPage",
    "Node",
    "Retry",
    "ended",
    "succeeded",
    "video_of",
    "why_not",
]

P = ParamSpec("P")
T = TypeVar("T")

_DEFAULT_URL = "http://127.0.0.1:8000"
_CONNECT_SECONDS = 5.0
_PIECE_BYTES = 1 << 20


class Operation(Generic[P, T]):
    """A call as a method: on `Client` it returns the result, on `AsyncClient` an awaitable of it."""

    def __init__(self, call: Callable[P, Call[T]]) -> None:
        self._call = call
        update_wrapper(cast(Callable[..., Any], self), call)

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, Awaitable[T]]: ...

    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self
        return update_wrapper(lambda *args, **fields: client._result(self._call(*args, **fields)), self._call)


class Iteration(Generic[P, T]):
    """A call with many results as a method: an iterator on `Client`, an asynchronous one on `AsyncClient`."""

    def __init__(self, call: Callable[P, Emitting[T]]) -> None:
        self._call = call
        update_wrapper(cast(Callable[..., Any], self), call)

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, AsyncIterator[T]]: ...

    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self
        return update_wrapper(lambda *args, **fields: client._emitted(self._call(*args, **fields)), self._call)


class _Calls:
    """The common part of both clients."""

    generate = Operation(calls.generate)
    dry_run = Operation(calls.dry_run)
    job = Operation(calls.job)
    jobs = Iteration(calls.jobs)
    jobs_page = Operation(calls.jobs_page)
    progress = Iteration(following.progress)
    wait = Operation(following.wait)
    download = Operation(fetching.download)
    cancel = Operation(calls.cancel)
    retry = Operation(calls.retry)
    share = Operation(calls.share)
    delete = Operation(calls.delete)
    workers = Operation(calls.workers)
    nodes = Operation(calls.nodes)
    drain = Operation(calls.drain)
    undrain = Operation(calls.undrain)
    release = Operation(calls.release)
    node_log = Operation(calls.node_log)
    remove_node = Operation(calls.remove_node)
    queues = Operation(calls.queues)
    pause_queue = Operation(calls.pause_queue)
    resume_queue = Operation(calls.resume_queue)
    move_to_front = Operation(calls.move_to_front)
    move_back = Operation(calls.move_back)
    submit_flow = Operation(flow_calls.submit_flow)
    flow = Operation(flow_calls.flow)
    flows = Iteration(flow_calls.flows)
    flows_page = Operation(flow_calls.flows_page)
    cancel_flow = Operation(flow_calls.cancel_flow)
    retry_flow = Operation(flow_calls.retry_flow)
    wait_flow = Operation(flow_calls.wait_flow)
    models = Operation(calls.models)
    fetch_model = Operation(calls.fetch_model)
    manage_download = Operation(calls.manage_download)
    verify = Operation(calls.verify)
    prepare = Operation(calls.prepare)
    benchmark = Operation(calls.benchmark)
    tiers = Operation(calls.tiers)
    cleanup = Operation(calls.cleanup)
    analytics = Operation(calls.analytics)
    fallback = Operation(calls.fallback)
    pin = Operation(calls.pin)
    alerts = Operation(calls.alerts)
    acknowledge = Operation(calls.acknowledge)
    loras = Operation(lora_calls.loras)
    upload_lora = Operation(lora_calls.upload_lora)
    fetch_lora = Operation(lora_calls.fetch_lora)
    change_lora = Operation(lora_calls.change_lora)
    remove_lora = Operation(lora_calls.remove_lora)
    create_batch = Operation(batch_calls.create_batch)
    batch = Operation(batch_calls.batch)
    batches = Iteration(batch_calls.batches)
    batches_page = Operation(batch_calls.batches_page)
    cancel_batch = Operation(batch_calls.cancel_batch)
    wait_for_batch = Operation(batch_calls.wait_for_batch)
    download_batch = Operation(batch_calls.download_batch)
    bulk = Operation(batch_calls.bulk)
    gallery = Iteration(gallery_calls.gallery)
    gallery_window = Operation(gallery_calls.gallery_window)
    favourite = Operation(gallery_calls.favourite)
    collections = Operation(gallery_calls.collections)
    collection = Operation(gallery_calls.collection)
    create_collection = Operation(gallery_calls.create_collection)
    change_collection = Operation(gallery_calls.change_collection)
    delete_collection = Operation(gallery_calls.delete_collection)
    download_videos = Operation(gallery_calls.download_videos)
    set_priority = Operation(operating.set_priority)
    dead_jobs = Operation(operating.dead_jobs)
    redrive = Operation(operating.redrive)
    usage = Operation(operating.usage)
    usage_csv = Operation(operating.usage_csv)

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retry: Retry | None = None,
    ) -> None:
        """Create a client. It may be shared between threads, or tasks.

        `base_url` defaults to WANWORKS_URL, else port 8000 of this machine; `api_key`, sent as a bearer token, to
        WANWORKS_API_KEY. `timeout` is in seconds, for one try. Raises ApiUnreachable for an invalid URL.
        """
        self.url = (base_url or os.environ.get("WANWORKS_URL") or _DEFAULT_URL).rstrip("/")
        self._retry = retry or Retry()
        self._contact = Contact(self.url)
        key = api_key or os.environ.get("WANWORKS_API_KEY")
        headers = {"Accept": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        limit = httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS))
        try:
            self._open(base_url=self.url, timeout=limit, headers=headers)
        except httpx.InvalidURL as error:
            raise ApiUnreachable(f"the API at {self.url} cannot be reached: {error}") from None

    def address(self, path: str) -> str:
        """Return the full address of a path from the API: an artifact's `url`, or a link's."""
        return urljoin(f"{self.url}/", path)

    def _open(self, **options: Any) -> None:
        raise NotImplementedError

    def _running(self, call: Generator[Step | Emit[Any], Any, T]) -> Running[T]:
        return Running(patient(call, self._retry, self._contact))


class Client(_Calls):
    """A client of the API at `url`. Use it as a context manager, or `close` it."""

    def _open(self, **options: Any) -> None:
        self._http = httpx.Client(transport=proxies.Transport(), **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def _result(self, call: Call[T]) -> T:
        course = self._running(call)
        for _ in self._steps(course):
            pass
        return cast(T, course.result)

    def _emitted(self, call: Emitting[T]) -> Iterator[T]:
        return self._steps(self._running(call))

    def _steps(self, course: Running[Any]) -> Iterator[Any]:
        with ExitStack() as streams:
            streams.callback(course.close)
            while (step := course.step) is not None:
                outcome = None
                if isinstance(step, Emit):
                    yield step.value
                else:
                    try:
                        outcome = self._done(step, streams)
                    except Exception as error:  # the call may handle it
                        course.failed(error)
                        continue
                course.took(outcome)

    def _done(self, step: Step, streams: ExitStack) -> Any:
        match step:
            case Send():
                return _answer(self._http.send(_request(self._http, step)))
            case Open():
                response = self._http.send(_request(self._http, step), stream=True, follow_redirects=True)
                streams.callback(response.close)
                if response.is_success:
                    return _answer(response, _Body(response, response.iter_bytes()))
                response.read()
                return _answer(response)
            case Read(_Body() as body):
                return next(body.parts, b"")
            case Close(_Body() as body):
                body.response.close()
            case Pause(seconds):
                time.sleep(seconds)
            case Blocking(function):
                return function()


class AsyncClient(_Calls):
    """Like `Client`, with awaitable methods and asynchronous iterators."""

    def _open(self, **options: Any) -> None:
        self._http = httpx.AsyncClient(transport=proxies.AsyncTransport(), **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def _result(self, call: Call[T]) -> T:
        course = self._running(call)
        async for _ in self._steps(course):
            pass
        return cast(T, course.result)

    def _emitted(self, call: Emitting[T]) -> AsyncIterator[T]:
        return self._steps(self._running(call))

    async def _steps(self, course: Running[Any]) -> AsyncIterator[Any]:
        async with AsyncExitStack() as streams:
            streams.callback(course.close)
            while (step := course.step) is not None:
                outcome = None
                if isinstance(step, Emit):
                    yield step.value
                else:
                    try:
                        outcome = await self._done(step, streams)
                    except Exception as error:  # the call may handle it
                        course.failed(error)
                        continue
                course.took(outcome)

    async def _done(self, step: Step, streams: AsyncExitStack) -> Any:
        match step:
            case Send():
                return _answer(await self._http.send(_request(self._http, step)))
            case Open():
                response = await self._http.send(_request(self._http, step), stream=True, follow_redirects=True)
                streams.push_async_callback(response.aclose)
                if response.is_success:
                    return _answer(response, _Body(response, response.aiter_bytes()))
                await response.aread()
                return _answer(response)
            case Read(_Body() as body):
                return await anext(body.parts, b"")
            case Close(_Body() as body):
                await body.response.aclose()
            case Pause(seconds):
                await anyio.sleep(seconds)
            case Blocking(function):
                return await anyio.to_thread.run_sync(function)


@dataclass(frozen=True)
class _Body:
    """A streamed response and the iterator over its body: plain for `Client`, asynchronous for `AsyncClient`."""

    response: httpx.Response
    parts: Any


def _request(http: httpx.Client | httpx.AsyncClient, step: Send | Open) -> httpx.Request:
    # An address from the API begins with its public path, which the client's own address may already contain.
    path = within(step.path, http.base_url.path.rstrip("/")) or step.path
    usual = http.timeout.as_dict()
    if isinstance(step, Open):
        timeout = httpx.Timeout(**{**usual, "read": step.quiet_seconds or usual["read"]})
        return http.build_request("GET", path, headers=step.headers, timeout=timeout)
    timeout = httpx.Timeout(**{**usual, "read": step.timeout_seconds or usual["read"]})
    query = step.query or None
    if step.file is None:
        return http.build_request(
            step.method, path, params=query, json=step.json, headers=step.headers, timeout=timeout
        )
    # With its length, a server can refuse it before it is sent.
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(step.file.stat().st_size),
        **step.headers,
    }
    pieces = _pieces(step.file) if isinstance(http, httpx.Client) else _pieces_later(step.file)
    return http.build_request(step.method, path, params=query, content=pieces, headers=headers, timeout=timeout)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


async def _pieces_later(path: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        while piece := await file.read(_PIECE_BYTES):
            yield piece


def _answer(response: httpx.Response, stream: _Body | None = None) -> Answer:
    content = b"" if stream is not None else response.content
    return Answer(response.status_code, response.headers, str(response.url), content, stream)
