"""Run one stage at the published widths on the CPU, and print its peak memory in bytes beside the weights.

``python -m tests.support.devices.peak_of_a_stage decode|denoise WIDTH HEIGHT FRAMES``
"""

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from workers.generation.pipelines.chatter import hush


def main(stage: str, width: int, height: int, frames: int) -> None:
    hush()
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    from workers.generation import demo_models
    from workers.generation.pipelines import decoding

    torch.set_num_threads(1)
    shape = demo_models.REAL["T2V-A14B"]
    latents = ((frames - 1) // 4 + 1, height // 8, width // 8)
    run: Callable[[], object]
    if stage == "decode":
        vae = AutoencoderKLWan(**shape.vae).eval()
        given = torch.zeros(1, 16, *latents)

        def run() -> None:
            for _chunk in decoding.chunks(vae, given):
                pass
    else:
        transformer = WanTransformer3DModel(**{**shape.transformer, "num_layers": 1}).to(torch.bfloat16).eval()
        given = torch.zeros(1, 16, *latents, dtype=torch.bfloat16)
        text = torch.zeros(1, 512, 4096, dtype=torch.bfloat16)

        def run() -> None:
            transformer(given, torch.zeros(1), text, return_dict=False)

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _kilobytes("VmRSS")
    with torch.no_grad():
        run()
    print(1024 * (_kilobytes("VmHWM") - before))


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
