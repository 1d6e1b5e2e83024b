"""500 dashboards on one web process: how soon each receives a change, and the web process's memory over ten minutes."""

import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from shared.database.engine import Database
from shared.messaging.progress import Progress, RestingRedis
from tests.bench.support.row import Row
from tests.support import working
from tests.support.jobs import accepted
from tests.support.models import library

CLIENTS = 500
MINUTES = 10.0
_EVERY_SECONDS = 2.0
_LIMIT_SECONDS = 1.0
_GROWTH = 1.10


def feed(bench: Any) -> list[Row]:
    """As the other measurements: takes the bench; only the web process and Redis run."""
    with bench.stack("--only", "web,redis", WANWORKS_DEVICE_SILENCE_SECONDS="86400") as stack:
        database = Database(f"sqlite:///{stack.home / 'wanworks.db'}")
        try:
            return rows(stack.url, database, stack.state()["redis_url"], stack.pid("web"), CLIENTS, MINUTES)
        finally:
            database.close()


def rows(url: str, database: Database, redis_url: str, web_pid: int, clients: int, minutes: float) -> list[Row]:
    """Against the web process at `url`, whose job is moved on every two seconds."""
    library.node(database)
    library.device(database, "T2V-A14B")
    job = working.claim(database, accepted(database).id)
    progress = Progress(RestingRedis(redis_url, timeout=5))
    told, sizes = asyncio.run(_watched(url, job.id, job.attempt, progress, web_pid, clients, minutes))
    early, late = statistics.median(sizes[: len(sizes) // 5]), statistics.median(sizes[-len(sizes) // 5 :])
    worst, median = max(told), statistics.median(told)
    return [
        Row(
            f"from a job's progress to the last of {clients} WebSocket clients, worst of {len(told)} changes "
            f"(median {1000 * median:.0f} ms)",
            f"{1000 * worst:.0f} ms",
            f"<= {1000 * _LIMIT_SECONDS:.0f} ms",
            worst <= _LIMIT_SECONDS,
        ),
        Row(
            f"the web process's memory at the end of {minutes:g} minutes over its beginning "
            f"({late:.0f} over {early:.0f} MB)",
            f"{late / early:.2f}",
            f"<= {_GROWTH:.2f}",
            late / early <= _GROWTH,
        ),
    ]


async def _watched(
    url: str, job_id: str, attempt: int, progress: Progress, web_pid: int, clients: int, minutes: float
) -> tuple[list[float], list[float]]:
    """(seconds until all were told, of each change; MB of the web process after each)."""
    address = url.replace("http://", "ws://") + "/api/v1/dashboard/ws"
    sockets = [await connect(address, compression=None, max_queue=None) for _ in range(clients)]
    changes = max(3, round(minutes * 60 / _EVERY_SECONDS))
    arrived: list[list[float]] = [[] for _ in range(changes)]
    readers = [asyncio.create_task(_read(socket, job_id, arrived)) for socket in sockets]
    await asyncio.sleep(_EVERY_SECONDS)
    told, sizes = [], []
    for change in range(changes):
        began = time.monotonic()
        event = {"kind": "progress", "attempt": attempt, "phase": "denoising", "percent": 50.0, "step": change + 1}
        await asyncio.to_thread(progress.report, job_id, event)
        while len(arrived[change]) < clients and time.monotonic() < began + 30:
            await asyncio.sleep(0.01)
        assert len(arrived[change]) == clients, f"{len(arrived[change])} of {clients} were told"
        told.append(max(arrived[change]) - began)
        sizes.append(_megabytes(web_pid))
        await asyncio.sleep(max(0.0, began + _EVERY_SECONDS - time.monotonic()))
    for reader in readers:
        reader.cancel()
    for socket in sockets:
        await socket.close()
    return told, sizes


async def _read(socket: ClientConnection, job_id: str, arrived: list[list[float]]) -> None:
    async for text in socket:
        if job_id in text and '"job_update"' in text:
            step = json.loads(text)["data"]["progress"]["step"]
            if step:
                arrived[step - 1].append(time.monotonic())


def _megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in status if "VmRSS" in line).split()[1]) / 1000
