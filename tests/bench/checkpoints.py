"""What checkpoints cost a run: a whole run with many of them against one without, and one at the real sizes."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.settings import Settings
from tests.bench.bench import Bench
from tests.bench.job_times import job_rows
from tests.bench.support.row import Row
from tests.support.stack import Stack, wait_for

_JOB = {"model_id": "T2V-A14B", "prompt": "a cat", "resolution": "256x144", "frames": 17, "steps": 100}
_JOBS, _ROUNDS = 2, 3
_OFTEN = 1.0  # seconds between two, so that a difference can be seen
_DEFAULT: float = Settings.model_fields["checkpoint_seconds"].default
_BOUND = 0.01
# Channels of the latents and pixels of a cell's edge; the solver keeps two earlier outputs and a sample besides.
_LATENTS = {"T2V-A14B": (16, 8), "TI2V-5B": (48, 16)}
_TENSORS = 4


def checkpoints(bench: Bench) -> list[Row]:
    """Runs without and with checkpoints, one after the other; then the parts of one at 1280x720 and 81 frames."""
    without, often, written = [], [], 0
    for _ in range(_ROUNDS):
        without += _denoising(bench, 0.0)[0]
        seconds, seen = _denoising(bench, _OFTEN)
        often += seconds
        written += seen
    more = statistics.median(often) - statistics.median(without)
    each = max(0.0, more) / (written / (_ROUNDS * _JOBS))
    share = each / _DEFAULT
    ratio = statistics.median(often) / statistics.median(without)
    rows = [
        Row(f"denoising of {statistics.median(without):.1f} s, {written / (_ROUNDS * _JOBS):.1f} checkpoints over "
            f"none, medians of {_ROUNDS * _JOBS} runs", f"{ratio:.3f}", "", None),
        Row(f"a checkpoint lengthens the run, of the {_DEFAULT:g} s between two by default ({1000 * each:.0f} ms)",
            f"{100 * share:.2f} %", f"<= {100 * _BOUND:g} %", share <= _BOUND),
    ]  # fmt: skip
    return rows + [_real_size(model_id) for model_id in _LATENTS]


def _denoising(bench: Bench, every: float) -> tuple[list[float], int]:
    """Return the seconds that each of the runs denoised, and how many checkpoints were seen."""
    with bench.stack(WANWORKS_CHECKPOINT_SECONDS=str(every)) as stack:
        stack.wait_status(stack.submit(**{**_JOB, "steps": 4}, seed=999))
        ids = [stack.submit(**_JOB, seed=seed) for seed in range(_JOBS)]
        seen = _watched(stack, ids)
        rows = job_rows(stack, ids)
    return [row["result"]["timings"]["denoising"] for row in rows], len(seen)


def _watched(stack: Stack, ids: list[str]) -> set[tuple[str, int]]:
    """Wait for the jobs. Return each (job, step) that a checkpoint was seen at."""
    seen: set[tuple[str, int]] = set()

    def ended() -> bool:
        marks = ",".join("?" * len(ids))
        rows = stack.sql(f"select id, checkpoint_step, finished_at from jobs where id in ({marks})", *ids)
        seen.update((job_id, step) for job_id, step, _ in rows if step is not None)
        return all(finished for _, _, finished in rows)

    wait_for(ended, 300, "for the jobs")
    return seen


def _real_size(model_id: str) -> Row:
    """Copying on the CPU, which is the part that the device waits for, and writing, which it does not."""
    import torch

    from workers.generation.pipelines.checkpointing import Snapshot, taken, write
    from workers.generation.pipelines.resuming import Denoising

    channels, cell = _LATENTS[model_id]
    shape = (1, channels, 21, -(-720 // cell), 1280 // cell)
    held = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(_TENSORS)]
    denoising = Denoising(steps=1, latents=held[0], state={"model_outputs": held[1:]})
    random = torch.Generator().get_state()
    copied = _median(lambda: taken(denoising, random, None))
    snapshot: Snapshot = taken(denoising, random, None)
    with tempfile.TemporaryDirectory(prefix="wanworks-bench-") as folder:
        file = Path(folder) / "checkpoints" / "job" / "checkpoint.safetensors"
        stored = _median(lambda: write(file, snapshot, {}, "job", 1, 0))
        size = file.stat().st_size / 1e6
    share = copied / _DEFAULT
    return Row(
        f"{model_id}: copying at 1280x720, of the {_DEFAULT:g} s between two ({1000 * copied:.1f} ms; "
        f"writing beside the steps {1000 * stored:.0f} ms, {size:.0f} MB)",
        f"{100 * share:.2f} %",
        f"<= {100 * _BOUND:g} %",
        share <= _BOUND,
    )


def _median(work: Callable[[], Any], times: int = 7) -> float:
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)
