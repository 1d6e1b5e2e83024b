"""Measure model loads and waits: placement against first-in-first-out."""

import contextlib
import random
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any

from scheduler.dispatcher import Dispatcher
from scheduler.placement.devices import decide
from scheduler.sender import celery_sender
from shared.database.engine import Database
from shared.settings import load
from tests.bench.bench import Bench
from tests.bench.job_times import job_rows
from tests.bench.support.row import Row
from tests.support.simulation import device, fifo, job, simulate
from tests.support.stack import Stack, wait_for


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
            wait_for(lambda stack=stack, ids=ids: all(row["finished"] for row in job_rows(stack, ids)), 300)
            rows = {row["id"]: row for row in job_rows(stack, ids)}
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


def _traced(model: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"model_id": model, "resolution": "128x128", "frames": 17}
    if model == "I2V-A14B":
        pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
        fields["image"] = f"data:image/png;base64,{pixel}"
    return fields


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
