"""The size of a video that follows the shape of its input picture. Pure arithmetic.

As in the models' own code: the asked size gives the area, the picture the aspect, and both edges are rounded down to
the model's multiple. `workers/generation/frames/geometry.py` fits the picture into the size.
"""

import math

from shared.catalogue.entries import CatalogueEntry, parse_resolution
from shared.errors import FieldError


def follow_picture(entry: CatalogueEntry, resolution: str, picture: tuple[int, int]) -> tuple[int, int]:
    """Return width and height for the picture's shape at the area of `resolution`, which is never exceeded."""
    multiple = entry.size_multiple
    asked_width, asked_height = parse_resolution(resolution)
    area, aspect = asked_width * asked_height, picture[1] / picture[0]
    height = round(math.sqrt(area * aspect)) // multiple * multiple
    width = round(math.sqrt(area / aspect)) // multiple * multiple
    if width * height > area:  # both were rounded up to a multiple
        width, height = (width - multiple, height) if width > height else (width, height - multiple)
    return width, height


def wrong_shape(entry: CatalogueEntry, resolution: str, picture: tuple[int, int]) -> FieldError | None:
    """Return an error if the model has no size of that shape and area: an edge would be too long or vanish."""
    width, height = follow_picture(entry, resolution, picture)
    longest = max(edge for text in entry.resolutions for edge in parse_resolution(text))
    if min(width, height) >= entry.size_multiple and max(width, height) <= longest:
        return None
    msg = (
        f"'auto' is not possible: a picture of {picture[0]}x{picture[1]} at the area of {resolution} makes "
        f"{width}x{height}; allowed: edges of {entry.size_multiple} to {longest} pixels with {entry.model_id}. Crop "
        "the picture, ask for a smaller resolution, or use 'cover' or 'contain'"
    )
    return FieldError(("body", "fit"), msg, "picture_shape")
