"""A preview: the middle frame of a video that is being made, as one small still picture.

A still has some ten kilobytes. An animation would need every latent frame to be projected, copied and encoded.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image

from workers.generation.frames.geometry import Plan

if TYPE_CHECKING:
    import numpy

MOST_PIXELS = 320  # of the longer edge
_QUALITY = 70


@dataclass(frozen=True)
class Cells:
    """One frame as it was projected: a pixel for each cell of the latents."""

    step: int
    steps: int
    pixels: "numpy.ndarray"  # (rows, columns, 3) uint8, of the whole grid
    plan: Plan


def encoded(cells: Cells) -> bytes:
    """Return the delivered part of the grid as a WebP whose longer edge has at most `MOST_PIXELS` pixels."""
    plan = cells.plan
    rows, columns = cells.pixels.shape[:2]
    across, down = columns / plan.grid_width, rows / plan.grid_height
    box = plan.crop
    part = (box.left * across, box.top * down, box.right * across, box.bottom * down)
    scale = min(1.0, MOST_PIXELS / max(plan.width, plan.height))
    size = (max(1, round(plan.width * scale)), max(1, round(plan.height * scale)))
    out = BytesIO()
    Image.fromarray(cells.pixels).resize(size, Image.Resampling.BICUBIC, box=part).save(out, "WEBP", quality=_QUALITY)
    return out.getvalue()
