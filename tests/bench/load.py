"""An HTTP load generator with little overhead of its own: asyncio streams, keep-alive, one request each."""

import asyncio
import json
import math
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Load:
    """The measured times, in seconds."""

    latencies: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    ids: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        return sorted(self.latencies)[max(0, math.ceil(share * len(self.latencies)) - 1)]


def closed_loop(url: str, path: str, body: dict[str, object], connections: int, requests: int) -> Load:
    """`requests` POSTs over `connections`, each as soon as the previous one is answered."""
    return asyncio.run(_run(url, path, body, connections, requests, None))


def open_loop(
    url: str, path: str, body: dict[str, object] | None, connections: int, rate: float, seconds: float
) -> Load:
    """`rate` POSTs (without a body GETs) a second, sent when due, whatever is still unanswered.

    Latency counts from the due time.
    """
    return asyncio.run(_run(url, path, body, connections, int(rate * seconds), rate))


async def _run(
    url: str, path: str, body: dict[str, object] | None, connections: int, requests: int, rate: float | None
) -> Load:
    load = Load()
    host, port = urlsplit(url).hostname, urlsplit(url).port
    payload = json.dumps(body).encode() if body is not None else b""
    head = (
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(payload)}",
    )
    message = "\r\n".join((*head, "", "")).encode() + payload
    due: asyncio.Queue[float] = asyncio.Queue()
    began = time.monotonic()
    for place in range(requests):
        due.put_nowait(began + place / rate if rate else 0.0)

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        while not due.empty():
            at = due.get_nowait()
            if rate:
                await asyncio.sleep(max(0.0, at - time.monotonic()))
            sent = at if rate else time.monotonic()
            writer.write(message)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status = int(answer.split(" ", 2)[1])
            length = next(
                int(line.split(":")[1]) for line in answer.split("\r\n") if line.lower().startswith("content-length")
            )
            content = await reader.readexactly(length)
            load.latencies.append(time.monotonic() - sent)
            load.statuses[status] = load.statuses.get(status, 0) + 1
            if status == 202:
                load.ids.append(json.loads(content)["id"])
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    load.seconds = time.monotonic() - began
    return load
