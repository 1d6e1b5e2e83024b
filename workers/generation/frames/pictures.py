"""The input pictures of a generation, and how they are fitted to the size of the video."""

from dataclasses import dataclass

from PIL import Image

from wanworks.requests import Fit
from workers.generation.frames.geometry import Plan, contain, cover


@dataclass(frozen=True)
class Pictures:
    """The pictures with which the video begins and ends."""

    first: Image.Image | None = None
    last: Image.Image | None = None


NO_PICTURES = Pictures()


def fit(image: Image.Image, plan: Plan, how: Fit = "cover") -> Image.Image:
    """Return the image in the size of the grid, as RGB.

    `contain`: the whole image within the part of the grid that is delivered, between black bars, as films are shown
    on screens of another shape. Otherwise cropped at its centre to the grid's aspect, and scaled to it; under `auto`
    the grid has almost the aspect of the image.
    """
    if how == "contain":
        place = contain(image.width, image.height, plan.crop)
        whole = Image.new("RGB", (plan.grid_width, plan.grid_height))
        size = (place.right - place.left, place.bottom - place.top)
        whole.paste(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), (place.left, place.top))
        return whole
    box = cover(image.width, image.height, plan.grid_width, plan.grid_height)
    part = image.convert("RGB").crop((box.left, box.top, box.right, box.bottom))
    return part.resize((plan.grid_width, plan.grid_height), Image.Resampling.LANCZOS)
