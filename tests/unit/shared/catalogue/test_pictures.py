"""Which pictures a request may have, and which size follows from them."""

from typing import Any

import pytest

from shared.catalogue import models
from shared.catalogue.job_types import GenerationParams
from shared.catalogue.models import parse_resolution
from shared.catalogue.picture_fit import follow_picture
from shared.catalogue.resolving import resolve
from shared.errors import InvalidField
from wanworks.requests import GenerationRequest

REAL = models.load("default")
I2V, TI2V, T2V = (REAL.get(name) for name in ("I2V-A14B", "TI2V-5B", "T2V-A14B"))


def settled(model_id: str, **given: Any) -> GenerationParams:
    pictures = {name: given.pop(name, None) for name in ("last_image", "picture")}
    image = given.pop("image", "input")
    request = GenerationRequest(model_id=model_id, prompt="a cat", **given)
    return resolve(request, REAL.get(model_id), image, **pictures)


def refusal(model_id: str, **given: Any) -> dict[str, str]:
    with pytest.raises(InvalidField) as caught:
        settled(model_id, **given)
    return {str(error.loc[-1]): error.msg for error in caught.value.errors}


@pytest.mark.parametrize(
    ("entry", "resolution", "picture", "size"),
    [
        (I2V, "832x480", (1000, 1000), (624, 624)),
        (I2V, "832x480", (2100, 900), (960, 400)),
        (I2V, "480x832", (1600, 900), (832, 464)),
        (I2V, "1280x720", (16, 9), (1280, 720)),
        (I2V, "1280x720", (3, 4), (816, 1104)),
        (TI2V, "1280x704", (1, 1), (928, 928)),
    ],
)
def test_the_size_is_that_of_the_models_own_code(
    entry: Any, resolution: str, picture: tuple[int, int], size: tuple[int, int]
) -> None:
    assert follow_picture(entry, resolution, picture) == size


def test_the_asked_area_is_never_exceeded() -> None:
    for resolution in I2V.resolutions:
        width, height = parse_resolution(resolution)
        for edge in range(200, 3000, 7):
            made = follow_picture(I2V, resolution, (edge, 1000))
            assert made[0] * made[1] <= width * height
            assert made[0] % I2V.size_multiple == made[1] % I2V.size_multiple == 0


def test_auto_is_settled_and_the_asked_size_is_kept() -> None:
    params = settled("I2V-A14B", fit="auto", resolution="832x480", picture=(1000, 1000))
    assert (params.resolution, params.asked_resolution, params.fit) == ("624x624", "832x480", "auto")
    plain = settled("I2V-A14B", resolution="832x480", picture=(1000, 1000))
    assert (plain.resolution, plain.asked_resolution, plain.fit) == ("832x480", None, "cover")
    assert settled("T2V-A14B", image=None).fit is None


@pytest.mark.parametrize("picture", [(10_000, 10), (3, 4000)])
def test_a_shape_that_the_model_has_no_size_for_is_refused(picture: tuple[int, int]) -> None:
    found = refusal("I2V-A14B", fit="auto", resolution="832x480", picture=picture)
    assert f"{picture[0]}x{picture[1]}" in found["fit"]
    assert "16 to 1920 pixels" in found["fit"]
    assert "Crop the picture" in found["fit"]


def test_auto_still_takes_the_models_sizes_alone() -> None:
    assert "allowed: 832x480" in refusal("I2V-A14B", fit="auto", resolution="800x480", picture=(1, 1))["resolution"]


def test_devices_must_share_the_settled_size() -> None:
    found = refusal("I2V-A14B", fit="auto", resolution="832x480", picture=(2100, 900), devices_per_job=8, frames=81)
    assert "960x400" in found["devices_per_job"]


def test_fit_without_an_image_is_refused() -> None:
    assert "'contain' is only possible with an image" in refusal("T2V-A14B", image=None, fit="contain")["fit"]


def test_a_last_image_needs_a_first_one_and_a_model_that_takes_it() -> None:
    assert settled("I2V-A14B", last_image="last").last_image == "last"
    assert "does not take a last image" in refusal("TI2V-5B", last_image="last")["last_image"]
    assert "does not take a last image" in refusal("T2V-A14B", image=None, last_image="last")["last_image"]
    assert "send both" in refusal("I2V-A14B", image=None, last_image="last")["last_image"]


def test_a_last_image_needs_a_length_whose_last_frame_is_delivered() -> None:
    assert "allowed: 77 or 81" in refusal("I2V-A14B", last_image="last", frames=80)["frames"]
    assert "allowed: 9" in refusal("I2V-A14B", last_image="last", frames=8)["frames"]
    assert settled("I2V-A14B", frames=80).frames == 80
