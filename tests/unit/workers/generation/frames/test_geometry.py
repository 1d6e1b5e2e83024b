"""From the requested size and length to the model's grid, and back by cropping."""

import pytest

from shared.catalogue import models
from shared.catalogue.resolving import resolve
from wanworks.requests import GenerationRequest
from workers.generation.frames.geometry import Plan, cover, plan

CATALOGUE = models.load("default")


def planned(model_id: str, resolution: str, frames: int) -> Plan:
    entry = CATALOGUE.get(model_id)
    request = GenerationRequest(model_id=model_id, prompt="x", resolution=resolution, frames=frames)
    return plan(resolve(request, entry, "input" if entry.image == "required" else None), entry)


@pytest.mark.parametrize(
    ("model_id", "resolution", "frames", "grid"),
    [
        ("T2V-A14B", "854x480", 81, (864, 480, 81)),
        ("T2V-A14B", "1280x720", 8, (1280, 720, 9)),
        ("I2V-A14B", "1920x1080", 80, (1920, 1088, 81)),
        ("I2V-A14B", "480x854", 78, (480, 864, 81)),
        ("TI2V-5B", "1280x720", 121, (1280, 736, 121)),
        ("TI2V-5B", "854x480", 10, (864, 480, 13)),
        ("TI2V-5B", "1280x704", 9, (1280, 704, 9)),
    ],
)
def test_the_grid_is_rounded_up(model_id: str, resolution: str, frames: int, grid: tuple[int, int, int]) -> None:
    made = planned(model_id, resolution, frames)
    assert (made.grid_width, made.grid_height, made.grid_frames) == grid


@pytest.mark.parametrize("entry", CATALOGUE.entries, ids=lambda entry: entry.model_id)
def test_every_size_and_length_on_offer_fits_its_grid(entry: models.CatalogueEntry) -> None:
    for resolution in entry.resolutions:
        for frames in range(entry.min_frames, entry.max_frames + 1):
            made = planned(entry.model_id, resolution, frames)
            assert made.grid_width % entry.size_multiple == made.grid_height % entry.size_multiple == 0
            assert made.grid_frames % 4 == 1
            assert 0 <= made.grid_frames - frames < 4
            assert made.latent_frames == (made.grid_frames + 3) // 4
            crop = made.crop
            assert (crop.right - crop.left, crop.bottom - crop.top) == (made.width, made.height)
            assert 0 <= crop.left < entry.size_multiple
            assert 0 <= crop.top < entry.size_multiple
            assert crop.right <= made.grid_width
            assert crop.bottom <= made.grid_height


def test_the_cut_is_centred() -> None:
    crop = planned("T2V-A14B", "854x480", 81).crop
    assert (crop.left, crop.top, crop.right, crop.bottom) == (5, 0, 859, 480)


@pytest.mark.parametrize(
    ("image", "target", "box"),
    [
        ((1000, 500), (100, 100), (250, 0, 750, 500)),
        ((500, 1000), (100, 100), (0, 250, 500, 750)),
        ((1280, 704), (1280, 704), (0, 0, 1280, 704)),
        ((1, 1), (1280, 704), (0, 0, 1, 1)),
        ((5000, 1), (64, 64), (2499, 0, 2500, 1)),
    ],
)
def test_an_image_is_cut_to_the_aspect_around_its_centre(
    image: tuple[int, int], target: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    found = cover(*image, *target)
    assert (found.left, found.top, found.right, found.bottom) == box
