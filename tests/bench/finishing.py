"""Measure how long a device waits between two jobs, with and without a process that finishes them beside it."""

import itertools
import json
import statistics
from dataclasses import dataclass

from shared.states import Phase
from tests.bench.bench import Bench
from tests.bench.job_times import job_rows
from tests.bench.support.row import Row
from tests.support.places import ROOT
from tests.support.stack import wait_for

_STAMPS = ROOT / "tests" / "bench" / "stamps"

_JOBS = 20
_JOB = {"model_id": "T2V-A14B", "prompt": "a cat", "resolution": "128x128", "frames": 17, "steps": 4}
_ON_DEVICE = (Phase.LOADING, Phase.ENCODING, Phase.DENOISING, Phase.DECODING)


@dataclass(frozen=True)
class _Run:
    gaps: list[float]  # seconds from each job's last decoded frame to the next one's first step
    idle: float  # share of the time
    seconds: float  # from the first job's start to the last one's end


def finishing(bench: Bench, rounds: int = 3) -> list[Row]:
    """The same jobs, one round with the old way and one with the new way after the other."""
    old, new = [], []
    for _ in range(rounds):
        old.append(_measured(bench, "false"))
        new.append(_measured(bench, "true"))
    rows = []
    for name, runs in (("the device waits for the files", old), ("another process makes the files", new)):
        gaps = sorted(1000 * gap for run in runs for gap in run.gaps)
        median, p99 = statistics.median(gaps), gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))]
        idle = 100 * statistics.median(run.idle for run in runs)
        seconds = statistics.median(run.seconds for run in runs)
        bounded = runs is new
        of = f"{_JOBS} warm jobs, {name}"
        what = f"last decoded frame to the next job's first step, {of}"
        rows += [
            _row(f"{what}: median", f"{median:.0f} ms", "<= 20 ms", median <= 20, bounded),
            Row(f"{what}: p99", f"{p99:.0f} ms", "", None),
            _row(
                f"share of the time in which no phase is on the device, {of}",
                f"{idle:.1f} %",
                "<= 2 %",
                idle <= 2,
                bounded,
            ),
            Row(f"from the first one's start to the last one's end, {of}", f"{seconds:.1f} s", "", None),
        ]
    return rows


def _row(what: str, measured: str, bound: str, holds: bool, bounded: bool) -> Row:
    return Row(what, measured, bound if bounded else "", holds if bounded else None)


def _measured(bench: Bench, overlap: str) -> _Run:
    with bench.stack(WANWORKS_OVERLAP_FINISHING=overlap, PYTHONPATH=str(_STAMPS)) as stack:
        stack.wait_status(stack.submit(**_JOB, seed=999))
        ids = [stack.submit(**_JOB, seed=seed) for seed in range(_JOBS)]
        wait_for(lambda: all(row["finished"] for row in job_rows(stack, ids)), 400, "for the jobs")
        rows = sorted(job_rows(stack, ids), key=lambda row: row["started"])
        stamps = [json.loads(line) for line in (stack.home / "stamps.jsonl").read_text().splitlines()]
    there = sorted((stamp for stamp in stamps if stamp["seed"] != 999), key=lambda stamp: stamp["first_step"])
    gaps = [after["first_step"] - before["last_frame"] for before, after in itertools.pairwise(there)]
    busy = sum(row["result"]["timings"].get(phase, 0.0) for row in rows for phase in _ON_DEVICE)
    began = min(rows[0]["started"], there[0]["first_step"])
    return _Run(gaps, 1 - busy / (there[-1]["last_frame"] - began), rows[-1]["finished"] - rows[0]["started"])
