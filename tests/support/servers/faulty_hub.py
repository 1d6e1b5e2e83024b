"""The hub with injected faults, in its own process: ``python -m tests.support.servers.faulty_hub ROOT PORT [TOKEN]``.

A test posts faults to ``/_test/faults`` and reads from ``/_test/served`` what was sent, by path and by request. None of
this is within reach of the hub that users run.
"""

import asyncio
import contextlib
import fnmatch
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import httpx

from tests.support.places import ROOT

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class Faults:
    """ASGI middleware. A fault is ``{"kind": ..., "path": glob, "times": n}`` and what its kind takes.

    reset (after)          a TCP reset after so many bytes of the body
    truncate (after)       the connection is closed there
    status (status, ...)   that status; retry_after in seconds, code for X-Error-Code
    silent                 no answer at all
    stall (after)          the body stops there, the connection stays
    ignore_range           all of the file with status 200
    short (after)          a Content-Length that is too small, and a body that ends there
    flip (at)              one bit of that byte of the file
    slow (rate)            so many bytes a second
    cdn (expired)          a redirect to another host name, whose link is refused where expired
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.faults: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path.startswith("/_test/"):
            await self._control(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        record = {
            "method": scope["method"],
            "path": path,
            "range": headers.get("range"),
            "authorized": "authorization" in headers,
            "sent": 0,
        }
        self.requests.append(record)
        if path.startswith("/cdn/expired/"):
            await _answer(send, 403, b"link expired", {})
            return
        if path.startswith("/cdn/good/"):
            raw = scope["raw_path"].removeprefix(b"/cdn/good")
            scope = {**scope, "path": path.removeprefix("/cdn/good"), "raw_path": raw}
            await self._app(scope, receive, _Sender(self, scope, send, record, None))
            return
        fault = self._take(path)
        match fault and fault["kind"]:
            case "status":
                extra = {"Retry-After": str(fault["retry_after"])} if "retry_after" in fault else {}
                extra |= {"X-Error-Code": fault["code"]} if "code" in fault else {}
                await _answer(send, fault["status"], b"{}", extra)
                return
            case "silent":
                await asyncio.sleep(3600)
            case "cdn":
                port = scope["server"][1]
                kind = "expired" if fault.get("expired") else "good"
                place = f"http://localhost:{port}/cdn/{kind}{scope['raw_path'].decode()}?signature=secret"
                await _answer(send, 302, b"", {"Location": place})
                return
            case "ignore_range":
                scope = {**scope, "headers": [item for item in scope["headers"] if item[0] != b"range"]}
        await self._app(scope, receive, _Sender(self, scope, send, record, fault))

    def _take(self, path: str) -> dict[str, Any] | None:
        for fault in self.faults:
            if fault["times"] > 0 and fnmatch.fnmatch(path, fault.get("path", "*/resolve/*")):
                fault["times"] -= 1
                return fault
        return None

    async def _control(self, scope: Scope, receive: Any, send: Any) -> None:
        body = b""
        while scope["method"] == "POST":
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["path"] == "/_test/faults":
            self.faults = [{"times": 1, **fault} for fault in json.loads(body)]
        elif scope["path"] == "/_test/forget":
            self.requests.clear()
        await _answer(send, 200, json.dumps(self.requests).encode(), {"Content-Type": "application/json"})


class _Sender:
    """Forwards a response, injects the fault into its body, and counts sent bytes."""

    def __init__(self, hub: Faults, scope: Scope, send: Any, record: dict[str, Any], fault: dict[str, Any] | None):
        self._send, self._record, self._fault = send, record, fault or {"kind": None}
        self._begins, self._began = 0, time.monotonic()

    async def __call__(self, message: Message) -> None:
        fault = self._fault
        if message["type"] == "http.response.start":
            self._record["status"] = message["status"]
            for name, value in message["headers"]:
                if name.lower() == b"content-range":
                    self._begins = int(value.split()[1].split(b"-")[0])
            if fault["kind"] == "short":
                headers = [item for item in message["headers"] if item[0].lower() != b"content-length"]
                message = {**message, "headers": [*headers, (b"content-length", str(fault["after"]).encode())]}
            await self._send(message)
            return
        body: bytes = message.get("body", b"")
        sent = self._record["sent"]
        if fault["kind"] in ("reset", "truncate", "stall", "short") and sent + len(body) >= fault["after"]:
            body = body[: fault["after"] - sent]
            self._record["sent"] += len(body)
            if fault["kind"] == "short":
                await self._send({**message, "body": body, "more_body": False})
            else:
                await self._send({**message, "body": body, "more_body": True})
            await self._cut(fault["kind"])
        if fault["kind"] == "flip" and 0 <= (place := fault["at"] - self._begins - sent) < len(body):
            body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        if fault["kind"] == "slow":
            await asyncio.sleep(max(0.0, self._began + (sent + len(body)) / fault["rate"] - time.monotonic()))
        self._record["sent"] += len(body)
        await self._send({**message, "body": body})

    async def _cut(self, kind: str) -> None:
        if kind == "stall":
            await asyncio.sleep(3600)
        if kind == "short":
            raise ConnectionError
        await asyncio.sleep(0.2)  # until what was sent has been read
        transport = self._send.__self__.transport  # uvicorn's
        if kind == "reset":
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()
        raise ConnectionError


async def _answer(send: Any, status: int, body: bytes, headers: dict[str, str]) -> None:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


class HubProcess:
    """The hub's process, with its control functions."""

    def __init__(self, root: Path, port: int = 0, token: str | None = None) -> None:
        self.root, self.port, self.token = root, port, token
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> "HubProcess":
        argv = [sys.executable, "-m", "tests.support.servers.faulty_hub", str(self.root), str(self.port)]
        argv.append(self.token or "")
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready "), line
        self.port = int(line.strip().rpartition(":")[2])
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fault(self, *faults: dict[str, Any]) -> None:
        """Replaces the faults that are still to come."""
        httpx.post(f"{self.url}/_test/faults", json=list(faults)).raise_for_status()

    def requests(self, path: str = "*/resolve/*") -> list[dict[str, Any]]:
        """Those GETs for files, in order."""
        found = httpx.get(f"{self.url}/_test/served").json()
        return [item for item in found if item["method"] == "GET" and fnmatch.fnmatch(item["path"], path)]

    def served(self, path: str = "*/resolve/*") -> int:
        """Bytes of file bodies."""
        return sum(item["sent"] for item in self.requests(path))

    def forget(self) -> None:
        httpx.get(f"{self.url}/_test/forget").raise_for_status()

    def kill(self) -> None:
        """As `kill -9`."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


def main() -> None:
    from api.hub.__main__ import serve
    from api.hub.app import create_app

    root, port, token = sys.argv[1:4]
    with contextlib.suppress(KeyboardInterrupt):
        serve(Faults(create_app(Path(root), token or None)), "127.0.0.1", int(port))


if __name__ == "__main__":
    main()
