"""Measure jobs: overhead, acceptance, throughput, and how soon all is ready."""

import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.job_times import job_rows
from tests.bench.load import closed_loop, open_loop
from tests.bench.support.postgresql import postgresql
from tests.bench.support.row import Row
from tests.support.stack import QUICK, Stack, wait_for

POST = "/api/v1/jobs/generation"
SMALL = {"model_id": "T2V-A14B", "prompt": "a cat", "resolution": "256x256", "frames": 17, "steps": 2}


def overhead(bench: Bench, rounds: int = 3, count: int = 20) -> list[Row]:
    """Whole system against bare pipeline calls."""
    ratios = []
    for _ in range(rounds):
        argv = [sys.executable, "-m", "tests.bench.support.bare", str(bench.snapshot("T2V-A14B")), str(count)]
        argv += ["17", "256", "2"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
        bare = json.loads(subprocess.run(argv, check=True, capture_output=True, env=environment).stdout)["seconds"]
        with bench.stack() as stack:
            stack.wait_status(stack.submit(**SMALL, seed=999))
            ids = [stack.submit(**SMALL, seed=seed) for seed in range(count)]
            jobs = sorted(job_rows(stack, ids), key=lambda row: row["started"])
            wait_for(lambda stack=stack, ids=ids: all(row["finished"] for row in job_rows(stack, ids)), 300)
            jobs = sorted(job_rows(stack, ids), key=lambda row: row["started"])
            ratios.append((jobs[-1]["finished"] - jobs[0]["started"]) / bare)
    ratio = statistics.median(ratios)
    what = f"{count} warm jobs (17 frames, 256x256) over {count} bare calls"
    return [Row(what, f"{ratio:.3f}", "<= 1.03", ratio <= 1.03)]


def accepts(bench: Bench) -> list[Row]:
    """Durable accepts against raw Celery, latency under an offered rate, and that every accepted job is dispatched."""
    rates, ratios = [], []
    with bench.stack("--only", "web,redis,dispatcher") as stack:
        environment = _environment(stack)
        for _ in range(3):
            argv = [sys.executable, "-m", "tests.bench.support.raw_celery", "32", "3200"]
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


def throughput(bench: Bench) -> list[Row]:
    """Jobs per second through claim, run and finish, with a handler that does nothing, on two and on four devices."""
    rows = []
    for count, name in itertools.product((2, 4), ("SQLite", "PostgreSQL")):
        with contextlib.ExitStack() as cleanup:
            environment = {}
            if name == "PostgreSQL":
                environment["WANWORKS_DATABASE_URL"] = cleanup.enter_context(postgresql())
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
    commands = [("tests.bench.support.noop_worker", {"WANWORKS_DEVICE": f"cpu:{index}"}) for index in range(count)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module],
            env={**environment, **extra, "CUDA_VISIBLE_DEVICES": "", "WANWORKS_OVERLAP_FINISHING": "false"},
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
