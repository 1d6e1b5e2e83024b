"""Downloads of 300 MB from the local hub: compared with curl and the library's own, and the cost of a stop."""

import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.support.row import Row
from tests.support.models.fetching import FetchProcess, download, plan_of
from tests.support.models.repos import make_repo
from tests.support.servers.faulty_hub import HubProcess
from workers.models.fetch.partials import partials
from workers.models.fetch.plan import FetchPlan, Limits

REPO, SMALL = "bench/weights", "bench/small"
WEIGHTS = {f"transformer/model-{place}.safetensors": 50_000_000 for place in range(6)}
MEGABYTES = 300
ROUNDS = 9
_STOPPED_AT_MBPS = 800.0  # so that there is time to stop it
# One chunk: what the client's kernel may hold, and what the hub has in hand for it.
_CHUNK_BYTES = 2 << 20


def downloads(bench: Any) -> list[Row]:
    """As the other measurements: takes the bench's folder."""
    return rows(bench.folder / "downloads")


def rows(folder: Path) -> list[Row]:
    """Speed, and bytes fetched twice. `folder` is made, and emptied afterwards."""
    root = folder / "root"
    make_repo(root, REPO, {"model_index.json": b"{}", **WEIGHTS})
    make_repo(root, SMALL, {"model_index.json": b"{}", "model.safetensors": 1_000_000})
    try:
        return [*_speed(folder, root), *_stops(folder, root)]
    finally:
        shutil.rmtree(folder)


def _speed(folder: Path, root: Path) -> list[Row]:
    times: dict[str, list[float]] = {"curl": [], "ours": [], "stock": [], "verified": []}
    argv = [sys.executable, "-m", "api.hub", "--root", str(root), "--port", "0"]
    hub = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert hub.stdout is not None
        url = hub.stdout.readline().split()[1]
        for _ in range(ROUNDS):
            for who, measured in times.items():
                place = folder / who
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                os.sync()  # what the one before left to be written is not this one's
                measured.append(_curl(url, place) if who == "curl" else _python(who, url, place))
    finally:
        hub.terminate()
        hub.wait()
    median = {who: statistics.median(measured) for who, measured in times.items()}
    rate = {who: MEGABYTES / seconds for who, seconds in median.items()}
    to_curl, to_stock, to_verified = (median[who] / median["ours"] for who in ("curl", "stock", "verified"))
    return [
        Row(
            f"download with hashing and fsync over `curl -Z` ({rate['ours']:.0f} MB/s over {rate['curl']:.0f} MB/s)",
            f"{to_curl:.2f}",
            ">= 0.70",
            to_curl >= 0.70,
        ),
        Row(
            f"the same over the stock client ({rate['stock']:.0f} MB/s, no hashing, no fsync)",
            f"{to_stock:.2f}",
            ">= 1.4",
            to_stock >= 1.4,
        ),
        Row(
            f"the same over the stock client with its own `cache verify` ({rate['verified']:.0f} MB/s)",
            f"{to_verified:.2f}",
            "",
            None,
        ),
    ]


def _curl(url: str, place: Path) -> float:
    argv = ["curl", "-sfZ", "--create-dirs"]
    for path in WEIGHTS:
        argv += ["-o", str(place / path), f"{url}/{REPO}/resolve/main/{path}"]
    began = time.perf_counter()
    subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def _python(who: str, url: str, place: Path) -> float:
    argv = [sys.executable, "-m", "tests.bench.support.fetch_once", who, url, REPO, SMALL, str(place)]
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(argv, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout.split()[-1])


@dataclass(frozen=True)
class _Twice:
    """The cost of stopping."""

    asked: int  # bytes that lay here and were asked for again
    sent: int  # bytes that the hub sent beyond the repo's size
    worst: int  # the most of one file in one stop


class _Stop(Exception):
    """Raised by the check."""


def _stops(folder: Path, root: Path) -> list[Row]:
    hub = HubProcess(root).start()
    try:
        paused = _paused(hub, plan_of(hub.url, REPO, folder / "paused"))
        killed = _killed(hub, plan_of(hub.url, REPO, folder / "killed"))
    finally:
        hub.kill()
    found = []
    for name, twice in (("three pauses", paused), ("three kill -9", killed)):
        found.append(
            Row(
                f"received bytes that were requested again, {name}, {MEGABYTES} MB",
                str(twice.asked),
                "0",
                twice.asked == 0,
            )
        )
        found.append(
            Row(
                f"bytes in flight, sent twice, {name} (all: {twice.sent / 1e6:.1f} MB), most per file and stop",
                f"{twice.worst / (1 << 20):.2f} MiB",
                f"<= {_CHUNK_BYTES / (1 << 20):.0f} MiB",
                twice.worst <= _CHUNK_BYTES,
            )
        )
    return found


def _paused(hub: HubProcess, plan: FetchPlan) -> _Twice:
    def stop() -> None:
        def check() -> None:
            if _here(plan) > goal:
                raise _Stop

        goal = _here(plan) + 60_000_000
        try:
            download(plan, check=check, limit=lambda: Limits(download_mbps=_STOPPED_AT_MBPS))
        except _Stop:
            return
        raise AssertionError("it ended before it was stopped")

    return _counted(hub, plan, stop)


def _killed(hub: HubProcess, plan: FetchPlan) -> _Twice:
    def stop() -> None:
        goal = _here(plan) + 60_000_000
        process = FetchProcess(plan.endpoint, plan.repo, plan.models_dir, _STOPPED_AT_MBPS)
        while process.progress()["bytes_done"] < goal:
            pass
        process.kill()

    return _counted(hub, plan, stop)


def _counted(hub: HubProcess, plan: FetchPlan, stop: Any) -> _Twice:
    hub.forget()
    asked = worst = 0
    size = {file.oid: file.size for file in plan.files}
    path = {file.oid: file.path for file in plan.files}
    for _ in range(3):
        before = {oid: count for oid, (_, count) in _partial_bytes(plan).items()}
        seen = len(hub.requests())
        stop()
        now = _partial_bytes(plan)
        asked += _asked_again(hub, seen, before, path)
        for oid, (_, count) in now.items():
            sent = sum(item["sent"] for item in hub.requests()[seen:] if item["path"].endswith(path[oid]))
            worst = max(worst, sent - (count - before.get(oid, 0)))
    before = {oid: count for oid, (_, count) in _partial_bytes(plan).items() if count < size[oid]}
    seen = len(hub.requests())
    download(plan)
    asked += _asked_again(hub, seen, before, path)
    return _Twice(asked, hub.served() - sum(file.size for file in plan.files), worst)


def _asked_again(hub: HubProcess, seen: int, before: dict[str, int], path: dict[str, str]) -> int:
    again = 0
    for oid, count in before.items():
        for item in hub.requests()[seen:]:
            if item["path"].endswith(path[oid]):
                begins = int(item["range"].removeprefix("bytes=").rstrip("-")) if item["range"] else 0
                again += max(0, count - begins)
    return again


def _partial_bytes(plan: FetchPlan) -> dict[str, tuple[Path, int]]:
    return {item.oid: (item.path, item.bytes) for item in partials(plan.models_dir)}


def _here(plan: FetchPlan) -> int:
    """Bytes on this disk, whole files included."""
    blobs = plan.models_dir / "models--bench--weights" / "blobs"
    return sum(path.stat().st_size for path in blobs.glob("*")) if blobs.is_dir() else 0
