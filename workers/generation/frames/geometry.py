"""Compute the model's grid and frame count for a request, and the crop that restores the requested size.

Pure arithmetic. A model generates on a grid (16 or 32 pixels) and in 4k+1 frames, while exactly the requested size is
delivered: the grid is rounded up, never down, and the surplus is cropped evenly at the edges and at the end.
"""

from dataclasses import dataclass

from shared.catalogue.job_types import GenerationParams
from shared.catalogue.models import CatalogueEntry
from shared.models.memory_plan import Size
from wanworks.requests import Speed

TEMPORAL_STEP = 4  # frames per latent frame after the first, in every WAN VAE


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, as Pillow takes it."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Plan:
    """How one generation runs. All sizes in pixels."""

    width: int  # delivered
    height: int
    frames: int
    grid_width: int  # what the model generates
    grid_height: int
    grid_frames: int
    speed: Speed = "exact"

    @property
    def crop(self) -> Box:
        """Return the delivered part of a generated frame: its centre."""
        left = (self.grid_width - self.width) // 2
        top = (self.grid_height - self.height) // 2
        return Box(left, top, left + self.width, top + self.height)

    def memory_size(self, *, image: bool, loras: int = 0) -> Size:
        """Return what the memory of this run depends on. `image`: it starts from one. `loras`: bytes for one expert."""
        return Size(self.grid_width, self.grid_height, self.grid_frames, image, loras, self.speed)

    @property
    def latent_frames(self) -> int:
        """Return how many latent frames the VAE decodes, one chunk each."""
        return (self.grid_frames - 1) // TEMPORAL_STEP + 1


def plan(params: GenerationParams, entry: CatalogueEntry) -> Plan:
    """Return the smallest run that contains the request."""
    return Plan(
        width=params.width,
        height=params.height,
        frames=params.frames,
        grid_width=round_up(params.width, entry.size_multiple),
        grid_height=round_up(params.height, entry.size_multiple),
        grid_frames=round_up(params.frames - 1, TEMPORAL_STEP) + 1,
        speed=params.speed,
    )


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def contain(width: int, height: int, within: Box) -> Box:
    """Return where a `width` x `height` image stands, whole and as large as possible, in the middle of `within`."""
    room_width, room_height = within.right - within.left, within.bottom - within.top
    scale = min(room_width / width, room_height / height)
    shown_width, shown_height = (
        min(room, max(1, round(edge * scale))) for edge, room in ((width, room_width), (height, room_height))
    )
    left = within.left + (room_width - shown_width) // 2
    top = within.top + (room_height - shown_height) // 2
    return Box(left, top, left + shown_width, top + shown_height)


def cover(width: int, height: int, target_width: int, target_height: int) -> Box:
    """Return the largest centred part of a `width` x `height` image with the target's aspect; at least one pixel."""
    if width * target_height > height * target_width:
        part_width, part_height = max(1, round(height * target_width / target_height)), height
    else:
        part_width, part_height = width, max(1, round(width * target_height / target_width))
    left, top = (width - part_width) // 2, (height - part_height) // 2
    return Box(left, top, left + part_width, top + part_height)
