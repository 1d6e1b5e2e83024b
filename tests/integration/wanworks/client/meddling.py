"""A client of each kind, and what meddles between it and the server."""

import inspect
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from shared.database.engine import Database
from shared.settings import Settings
from shared.storage.directory import DirectoryStore
from tests.integration.api.jobs.generation_requests import GOOD
from tests.support import working
from tests.support.stack import wait_for
from wanworks.client.client import AsyncClient, Client

VIDEO = bytes(range(256)) * 4000  # 1.02 MB


@dataclass(frozen=True)
class Fault:
    """A fault of the first request whose path contains this."""

    path: str
    status: int | None = None  # answered so, and never forwarded
    headers: str = ""
    cut_after: int | None = None  # so many bytes of the body come through, then the connection is gone


@dataclass
class Meddler:
    """Between a client and the server: sees every request, and lets faults happen."""

    server_port: int
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def asked(self, path: str) -> list[dict[str, str]]:
        return [headers for line, headers in self.seen if path in line]

    def meddle(self, connection: socket.socket) -> None:
        head, body = _message(connection)
        line, *rest = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in rest)}
        self.seen.append((line, headers))
        fault = next((each for each in self.faults if each.path in line), None)
        if fault is not None:
            self.faults.remove(fault)
        if fault is not None and fault.status is not None:
            said = f"HTTP/1.1 {fault.status} No\r\n{fault.headers}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}"
            connection.sendall(said.encode())
            return
        with socket.create_connection(("127.0.0.1", self.server_port)) as server:
            closing = re.sub(rb"(?i)connection: keep-alive", b"Connection: close", head)
            server.sendall(closing + b"\r\n\r\n" + body)
            head, body = _message(server, whole=False)
            if fault is not None and fault.cut_after == 0:
                return  # carried out, and never told
            connection.sendall(head + b"\r\n\r\n")
            left = fault.cut_after if fault is not None else None
            while body:
                connection.sendall(body if left is None else body[:left])
                left = None if left is None else left - len(body)
                if left is not None and left <= 0:
                    return
                body = server.recv(65536)


def _message(connection: socket.socket, whole: bool = True) -> tuple[bytes, bytes]:
    """The head of what comes, and of the body what has come with it, or (`whole`) all that its length names."""
    content = b""
    while b"\r\n\r\n" not in content:
        content += (chunk := connection.recv(65536))
        if not chunk:
            raise ConnectionError("closed before a head")
    head, _, body = content.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while whole and length and len(body) < int(length[1]):
        body += connection.recv(65536)
    return head, body or (b"" if whole else connection.recv(65536))


class Awaited:
    """An AsyncClient, used from a synchronous test."""

    def __init__(self, client: AsyncClient, portal: BlockingPortal) -> None:
        self._client, self._portal = client, portal

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **fields: Any) -> Any:
            made = getattr(self._client, name)(*args, **fields)
            return self._all(made) if inspect.isasyncgen(made) else self._portal.call(lambda: made)

        return call

    def _all(self, told: Any) -> Iterator[Any]:
        while True:
            try:
                yield self._portal.call(told.__anext__)
            except StopAsyncIteration:
                return


@contextmanager
def opened(kind: str, url: str, **options: Any) -> Iterator[Any]:
    if kind == "sync":
        with Client(url, **options) as client:
            yield client
        return
    with start_blocking_portal() as portal:
        client = portal.call(partial(AsyncClient, url, **options))
        yield Awaited(client, portal)
        portal.call(client.close)


def made(database: Database, settings: Settings, client: Any) -> Any:
    """A job that has a video."""
    asked = client.generate(**GOOD)
    job = working.claim(database, asked["id"])
    store = DirectoryStore(settings.store_dir)
    working.finish(database, job, working.make(store, job, {"video.mp4": VIDEO, "manifest.json": b"{}"}))
    return client.job(asked["id"])


class Following:
    """A job's progress, taken as it comes."""

    def __init__(self, told: Iterator[Any]) -> None:
        self.seen: list[Any] = []
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._take, args=(told,), daemon=True)
        self._thread.start()

    def _take(self, told: Iterator[Any]) -> None:
        try:
            for job in told:
                self.seen.append(job)
        except Exception as error:
            self.failure = error

    def percents(self) -> list[float]:
        return [job["progress"]["percent"] for job in self.seen]

    def until(self, percent: float) -> None:
        wait_for(lambda: percent in self.percents(), 30, f"for {percent} %, saw {self.percents()}, {self.failure}")

    def end(self) -> Any:
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.failure is None, self.failure
        assert self.percents() == sorted(self.percents()), "never back"
        return self.seen[-1]
