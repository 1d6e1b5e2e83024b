"""Bare diffusers: the time of a script without a job system for the same videos. Prints seconds as JSON."""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline

from workers.generation.finishing import outputs


def main() -> None:
    snapshot, count, frames, size, steps = Path(sys.argv[1]), *map(int, sys.argv[2:6])
    pipeline = WanPipeline.from_pretrained(str(snapshot), dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, flow_shift=12.0)

    def once(seed: int, folder: Path) -> None:
        video = pipeline(
            prompt="a cat",
            negative_prompt="",
            width=size,
            height=size,
            num_frames=frames,
            num_inference_steps=steps,
            guidance_scale=4.0,
            guidance_scale_2=3.0,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
        ).frames[0]
        pictures = [(frame * 255).round().astype(numpy.uint8) for frame in video]
        outputs.write(folder, pictures, 8, "mp4", {})

    with tempfile.TemporaryDirectory() as folder:
        once(999, Path(folder))
        began = time.monotonic()
        for seed in range(count):
            once(seed, Path(folder))
        print(json.dumps({"seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
