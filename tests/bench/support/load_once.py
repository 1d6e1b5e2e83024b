"""Load a model once in a process of its own; print seconds and peak memory: `load_once.py SNAPSHOT QUANTIZATION`."""

import json
import sys
import time
from pathlib import Path

import torch

from workers.generation.pipelines.chatter import hush

hush()

from tests.support.models.generating import CATALOGUE
from workers.generation.pipelines.weights import loading

MODEL = "TI2V-5B"


def main(snapshot: Path, quantization: str) -> None:
    """Load, and touch every page as a copy to a device does: a mapped file is not read before."""
    began = time.perf_counter()
    model = loading.load(
        snapshot,
        CATALOGUE.get(MODEL),
        quantization,  # type: ignore[arg-type]
        "none",
        torch.device("cpu"),
        lambda: None,
    )
    for part in (model.pipeline.text_encoder, *model.transformers):
        for tensor in part.parameters():
            names = tensor.__tensor_flatten__()[0] if hasattr(tensor, "__tensor_flatten__") else ["data"]
            for name in names:
                getattr(tensor, name).clone()
    seconds = time.perf_counter() - began
    # Not `getrusage`, whose peak a process inherits from its parent.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    peak = int(line.split()[1]) * 1024 / 1e6
    print(json.dumps({"seconds": seconds, "peak_mb": peak}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
