"""Videos that begin and end with pictures, on the real image pipeline."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline
from PIL import Image

from tests.support.models.generating import CATALOGUE, Studio, decoded, snapshots
from workers.generation import run
from workers.generation.pipelines.weights.loading import LoadedModel

PROMPT = "a cat on the moon"


def bare(width: int, height: int, **pictures: Any) -> numpy.ndarray:
    """Return the frames that the library's own pipeline makes of a request of `Studio.generate`."""
    entry = CATALOGUE.get("I2V-A14B")
    pipe = WanImageToVideoPipeline.from_pretrained(snapshots()["I2V-A14B"], local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, flow_shift=entry.defaults.flow_shift)
    made = pipe(
        prompt=PROMPT,
        negative_prompt=entry.defaults.negative_prompt,
        width=width,
        height=height,
        num_frames=9,
        num_inference_steps=2,
        guidance_scale=3.5,
        guidance_scale_2=3.5,
        generator=torch.Generator("cpu").manual_seed(7),
        output_type="np",
        **pictures,
    )
    frames: numpy.ndarray = (made.frames[0] * 255).round().astype("uint8")
    return frames


def made_by(studio: Studio, **request: Any) -> numpy.ndarray:
    kept: list[numpy.ndarray] = []
    studio.generate("I2V-A14B", keep_frames=kept.extend, **request)
    return numpy.stack(kept)


def cropped(path: Path, width: int, height: int) -> Image.Image:
    """Return the picture as every version before `fit` has cropped it: its centre."""
    with Image.open(path) as image:
        part_width = min(image.width, round(image.height * width / height))
        part_height = min(image.height, round(image.width * height / width))
        left, top = (image.width - part_width) // 2, (image.height - part_height) // 2
        part = image.convert("RGB").crop((left, top, left + part_width, top + part_height))
        return part.resize((width, height), Image.Resampling.LANCZOS)


def test_cover_is_the_crop_that_there_always_was(studio: Studio) -> None:
    picture = studio.picture(150, 70)
    frames = made_by(studio, image=picture, resolution="96x64")
    assert numpy.array_equal(frames, bare(96, 64, image=cropped(picture, 96, 64)))
    assert numpy.array_equal(frames, made_by(studio, image=picture, resolution="96x64", fit="cover"))


def test_the_last_image_goes_to_the_pipeline_fitted_as_the_first(studio: Studio) -> None:
    first, last = studio.picture(100, 70), studio.picture(70, 120)
    frames = made_by(studio, image=first, last_image=last)
    pictures = {"image": cropped(first, 64, 64), "last_image": cropped(last, 64, 64)}
    assert numpy.array_equal(frames, bare(64, 64, **pictures))
    assert not numpy.array_equal(frames, made_by(studio, image=first))


def test_the_manifest_names_both_pictures_and_how_they_were_fitted(studio: Studio) -> None:
    first, last = studio.picture(100, 70), studio.picture(70, 120)
    manifest = studio.generate("I2V-A14B", image=first, last_image=last, fit="contain").outcome.manifest
    assert manifest["image_sha256"] != manifest["last_image_sha256"]
    assert manifest["fit"] == "contain"
    assert studio.generate("T2V-A14B").outcome.manifest["last_image_sha256"] is None


@pytest.mark.parametrize(("size", "bars"), [((200, 50), (24, 0)), ((30, 120), (0, 24))])
def test_contain_shows_the_whole_picture_between_black_bars(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], bars: tuple[int, int]
) -> None:
    seen = watch_pipeline(monkeypatch)
    made = studio.generate("I2V-A14B", image=studio.picture(*size), fit="contain", resolution="64x64")
    assert (made.outcome.width, made.outcome.height) == (64, 64)
    pixels = numpy.asarray(seen["image"])
    lit = numpy.argwhere(pixels.any(axis=2))
    top, left = lit.min(axis=0)
    assert (int(top), int(left)) == bars
    assert (64 - 1 - lit.max(axis=0)).tolist() == [top, left]
    with Image.open(studio.picture(*size)) as image:
        inner = image.convert("RGB").resize((64 - 2 * bars[1], 64 - 2 * bars[0]), Image.Resampling.LANCZOS)
    assert numpy.array_equal(pixels[top : 64 - top, left : 64 - left], numpy.asarray(inner))


def test_contain_keeps_within_what_is_delivered_of_the_grid(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch_pipeline(monkeypatch)
    entry = CATALOGUE.get("I2V-A14B")
    entry = entry.model_copy(update={"resolutions": (*entry.resolutions, "90x58")})
    studio.generate("I2V-A14B", image=studio.picture(100, 10), fit="contain", resolution="90x58", entry=entry)
    pixels = numpy.asarray(seen["image"])
    assert pixels.shape[:2] == (64, 96)
    columns = numpy.argwhere(pixels.any(axis=(0, 2)))
    assert (int(columns.min()), int(columns.max())) == (3, 92), "the crop of the grid cuts off no part of the picture"


def test_auto_makes_the_shape_of_the_picture(studio: Studio) -> None:
    made = studio.generate("I2V-A14B", image=studio.picture(200, 50), fit="auto", resolution="64x64")
    assert (made.outcome.width, made.outcome.height) == (128, 32)
    video = decoded(made.video)
    assert (video.width, video.height) == (128, 32)
    assert made.outcome.manifest["grid"] == {"width": 128, "height": 32, "frames": 9}


def test_a_model_whose_image_is_optional_fits_it_too(studio: Studio) -> None:
    made = studio.generate("TI2V-5B", image=studio.picture(200, 50), fit="auto", resolution="128x128")
    assert (made.outcome.width, made.outcome.height) == (256, 64)
    assert studio.generate("TI2V-5B", image=studio.picture(200, 50), fit="contain").outcome.width == 64


def test_a_last_image_changes_nothing_that_the_memory_plan_counts(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The condition has as many frames with it: one less is empty."""
    encoded: list[torch.Size] = []
    model = loaded(studio)
    encode = type(model.pipeline.vae).encode
    monkeypatch.setattr(
        type(model.pipeline.vae),
        "encode",
        lambda vae, video, *rest, **named: encoded.append(video.shape) or encode(vae, video, *rest, **named),
    )
    studio.generate("I2V-A14B", image=studio.picture())
    studio.generate("I2V-A14B", image=studio.picture(), last_image=studio.picture(70, 120))
    assert encoded[0] == encoded[1]


def loaded(studio: Studio) -> LoadedModel:
    studio.generate("I2V-A14B", image=studio.picture())
    (model,) = run._models(studio.settings)._models.values()
    return model


def watch_pipeline(monkeypatch: pytest.MonkeyPatch) -> dict[str, Image.Image]:
    """Return what the pipeline will be given, as it is called."""
    seen: dict[str, Image.Image] = {}
    call = WanImageToVideoPipeline.__call__

    def watched(pipe: Any, *rest: Any, **named: Any) -> Any:
        seen.update({name: named[name] for name in ("image", "last_image") if name in named})
        return call(pipe, *rest, **named)

    monkeypatch.setattr(WanImageToVideoPipeline, "__call__", watched)
    return seen
