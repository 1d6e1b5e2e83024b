"""Images: must be decodable, and are converted to upright RGB PNGs without metadata."""

import base64
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy
import pytest
from PIL import Image, PngImagePlugin

from api.http import images
from shared.errors import InvalidField
from tests.support import profiles


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def read(content: bytes) -> Image.Image:
    image = Image.open(BytesIO(content))
    image.load()
    return image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, depth: int, kind: int, rows: bytes, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    body = b"".join(chunks) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def png_claiming(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header claims these dimensions."""
    return png_of(width, height, 8, 2, b"\0" * 1000)


def pixel(content: bytes, x: int = 0, y: int = 0) -> tuple[int, int, int]:
    made = read(images.normalise(content))
    assert (made.format, made.mode) == ("PNG", "RGB")
    assert "icc_profile" not in made.info
    found: tuple[int, int, int] = made.getpixel((x, y))  # type: ignore[assignment]
    return found


def is_near(found: tuple[int, int, int], expected: tuple[int, int, int], by: int = 2) -> bool:
    return all(abs(one - other) <= by for one, other in zip(found, expected, strict=True))


P3 = profiles.rgb(profiles.DISPLAY_P3, profiles.SRGB_CURVE)
ADOBE = profiles.rgb(profiles.ADOBE_RGB, (2.19921875,))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_display_p3_becomes_srgb(format: str) -> None:
    lossless = {"quality": 100, "subsampling": 0} if format == "JPEG" else {"lossless": True}
    photo = Image.new("RGB", (16, 16), (234, 51, 35))
    found = pixel(encoded(photo, format, icc_profile=P3, **({} if format == "PNG" else lossless)))
    assert is_near(found, (255, 0, 0), by=6 if format == "JPEG" else 1)


SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))


def expected_srgb(colour: tuple[int, int, int], columns: Any, light: Callable[[float], float]) -> tuple[int, int, int]:
    """Convert through XYZ to sRGB, and clip colours outside of it."""
    xyz = numpy.array(columns).T @ [light(value / 255) for value in colour]
    linear = (numpy.linalg.inv(numpy.array(SRGB).T) @ xyz).clip(0, 1)
    red, green, blue = (12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055 for v in linear)
    return round(255 * red), round(255 * green), round(255 * blue)


def srgb_light(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


@pytest.mark.parametrize("colour", [(234, 51, 35), (100, 150, 200), (0, 255, 0), (128, 128, 128), (255, 255, 255)])
def test_every_colour_is_converted_as_its_profile_says(colour: tuple[int, int, int]) -> None:
    photo = Image.new("RGB", (4, 4), colour)
    wide = expected_srgb(colour, profiles.DISPLAY_P3, srgb_light)
    assert is_near(pixel(encoded(photo, "PNG", icc_profile=P3)), wide)
    adobe = expected_srgb(colour, profiles.ADOBE_RGB, lambda value: value**2.19921875)
    assert is_near(pixel(encoded(photo, "PNG", icc_profile=ADOBE)), adobe)
    assert is_near(pixel(encoded(photo, "PNG", icc_profile=profiles.rgb(SRGB, profiles.SRGB_CURVE))), colour, by=1)
    assert pixel(encoded(photo, "PNG")) == colour


def test_a_profile_is_applied_and_transparency_kept() -> None:
    clear = Image.new("RGBA", (8, 8), (234, 51, 35, 255))
    clear.paste((234, 51, 35, 0), (0, 0, 4, 8))
    for content in (encoded(clear, "PNG", icc_profile=P3), encoded(clear, "WEBP", lossless=True, icc_profile=P3)):
        assert pixel(content, 0, 0) == (255, 255, 255)
        assert is_near(pixel(content, 7, 7), (255, 0, 0))


def test_a_palette_with_transparent_entries_and_a_profile() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([234, 51, 35, 234, 51, 35, 0, 0, 0])
    for place in range(3):
        image.putpixel((place, 0), place)
    content = encoded(image, "PNG", icc_profile=P3, transparency=bytes([255, 0, 128]))
    assert is_near(pixel(content, 0), (255, 0, 0), by=1)
    assert pixel(content, 1) == (255, 255, 255)
    assert is_near(pixel(content, 2), (127, 127, 127), by=1)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_with_a_profile_of_grey(mode: str) -> None:
    """Half of the linear light is 188 in sRGB."""
    value: Any = {"L": 128, "LA": (128, 255), "I;16": 0x8000}[mode]
    assert is_near(
        pixel(encoded(Image.new(mode, (4, 4), value), "PNG", icc_profile=profiles.grey(1.0))), (188, 188, 188)
    )


def test_grey_with_a_profile_of_colours() -> None:
    """Scanners write such files: grey has equal parts of all three colours."""
    content = encoded(Image.new("L", (4, 4), 128), "PNG", icc_profile=profiles.rgb(profiles.DISPLAY_P3, (1.0,)))
    assert is_near(pixel(content), (188, 188, 188))


def test_cmyk_with_and_without_a_profile() -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert is_near(pixel(encoded(cyan, "JPEG", quality=100, icc_profile=profiles.cmyk())), (119, 119, 119), by=6)
    assert is_near(pixel(encoded(cyan, "JPEG", quality=100)), (0, 255, 255), by=4)


@pytest.mark.parametrize(
    "profile",
    [b"no profile", P3[:200], P3[:140] + bytes(300), profiles.grey(1.0), profiles.cmyk(), b"\0" * 128],
    ids=["text", "cut", "zeros-inside", "grey", "inks", "zeros"],
)
def test_a_profile_that_is_broken_or_of_other_colours_is_ignored(profile: bytes) -> None:
    photo = Image.new("RGB", (4, 4), (234, 51, 35))
    assert pixel(encoded(photo, "PNG", icc_profile=profile)) == (234, 51, 35)
    inks = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    if profile != profiles.cmyk():
        assert is_near(pixel(encoded(inks, "JPEG", quality=100, icc_profile=profile)), (255, 0, 0), by=4)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # A transparent colour of 16 bits a sample, in colours and in grey; the rest is opaque.
        (png_of(1, 1, 16, 2, b"\0\xff\xff\0\1\0\0", chunk(b"tRNS", b"\xff\xff\0\1\0\0")), (255, 255, 255)),
        (png_of(1, 1, 16, 2, b"\0\xff\xff\0\1\0\0", chunk(b"tRNS", b"\0\0\0\1\0\0")), (255, 0, 0)),
        (png_of(1, 1, 16, 0, b"\0\x12\x34", chunk(b"tRNS", b"\x12\x34")), (255, 255, 255)),
        (png_of(1, 1, 16, 0, b"\0\x12\x34", chunk(b"tRNS", b"\x12\x35")), (18, 18, 18)),
        (png_of(1, 1, 16, 6, b"\0\xff\xff\0\1\0\0\x80\0"), (255, 127, 127)),
        # Fewer than eight bits a sample
        (png_of(1, 1, 2, 0, b"\0\x40", chunk(b"tRNS", b"\0\1")), (255, 255, 255)),
        (png_of(1, 1, 4, 0, b"\0\x10", chunk(b"tRNS", b"\0\1")), (255, 255, 255)),
        (png_of(1, 1, 4, 0, b"\0\x10", chunk(b"tRNS", b"\0\2")), (17, 17, 17)),
        (png_of(1, 1, 1, 0, b"\0\0", chunk(b"tRNS", b"\0\0")), (255, 255, 255)),
        (png_of(1, 1, 1, 0, b"\0\0", chunk(b"tRNS", b"\0\1")), (0, 0, 0)),
    ],
    ids=[
        "16-rgb", "16-rgb-other", "16-grey", "16-grey-other", "16-rgba",
        "2-grey", "4-grey", "4-grey-other", "1-grey", "1-grey-other",
    ],
)  # fmt: skip
def test_transparency_at_every_depth(content: bytes, expected: tuple[int, int, int]) -> None:
    assert pixel(content) == expected


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_an_animation_is_refused(format: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    content = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    with pytest.raises(InvalidField, match="image: is animated, with 3 frames; send a still image"):
        images.normalise(content)


def test_a_photo_with_an_embedded_preview_is_accepted() -> None:
    """Phones write such files: the second image is a preview or a depth map."""
    content = encoded(Image.new("RGB", (8, 8), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    assert is_near(pixel(content), (255, 0, 0), by=4)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_metadata_does_not_damage_an_image(format: str, exif: bytes) -> None:
    assert is_near(pixel(encoded(Image.new("RGB", (8, 8), "red"), format, exif=exif)), (255, 0, 0), by=4)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_become_rgb_png(format: str) -> None:
    kept = read(images.normalise(encoded(Image.new("RGB", (20, 10), (200, 30, 30)), format)))
    assert (kept.format, kept.mode, kept.size) == ("PNG", "RGB", (20, 10))
    red, green, _ = kept.getpixel((5, 5))  # type: ignore[misc]
    assert red > 180
    assert green < 50


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert read(images.normalise(encoded(Image.new(mode, (8, 8)), "PNG"))).mode == "RGB"


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = Image.new("I;16", (4, 4), 0x8000)
    assert read(images.normalise(encoded(grey, "PNG"))).getpixel((0, 0)) == (128, 128, 128)


def test_what_is_transparent_becomes_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert read(images.normalise(encoded(clear, "PNG"))).getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied_and_metadata_dropped() -> None:
    photo = Image.new("RGB", (40, 20), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    exif[0x010E] = "taken at home"
    content = images.normalise(encoded(photo, "JPEG", exif=exif))
    assert read(content).size == (20, 40)
    assert b"taken at home" not in content


def test_text_chunks_are_dropped() -> None:
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "secret place")
    assert b"secret place" not in images.normalise(encoded(Image.new("RGB", (4, 4)), "PNG", pnginfo=note))


@pytest.mark.parametrize(
    "content", [b"", b"not an image", encoded(Image.new("P", (4, 4)), "GIF"), encoded(Image.new("RGB", (4, 4)), "BMP")]
)
def test_other_formats_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidField, match="image: is not a PNG, JPEG or WebP"):
        images.normalise(content)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_image_is_refused(format: str) -> None:
    noise = Image.effect_noise((200, 200), 90).convert("RGB")
    content = encoded(noise, format)
    with pytest.raises(InvalidField, match="image: "):
        images.normalise(content[: len(content) // 2])


@pytest.mark.parametrize(("width", "height"), [(10_000, 5_001), (60_000, 60_000), (2**31 - 1, 1)])
def test_a_decompression_bomb_is_refused_before_it_is_decompressed(width: int, height: int) -> None:
    with pytest.raises(InvalidField, match="megapixels"):
        images.normalise(png_claiming(width, height))


def test_fifty_megapixels_are_accepted() -> None:
    flat = encoded(Image.new("L", (10_000, 5_000)), "PNG")
    assert read(images.normalise(flat)).size == (10_000, 5_000)


def test_more_than_twenty_megabytes_are_refused() -> None:
    with pytest.raises(InvalidField, match="image: is larger than 20 MB, the maximum"):
        images.normalise(b"\x89PNG" + bytes(images.MAX_BYTES))


def test_a_data_url() -> None:
    encoded = base64.b64encode(b"anything").decode()
    assert images.from_data_url(f"data:image/png;base64,{encoded}") == b"anything"
    assert images.from_data_url(f"data:;base64,{encoded}") == b"anything"


@pytest.mark.parametrize(
    "url", ["", "http://example.com/x.png", "file:///etc/passwd", "/etc/passwd", "data:image/png,abc",
            "data:image/png;base64,@@@", "data:image/png;base64,abc", "data:image/png;base64,\u20ac\u20ac\u20ac="],
)  # fmt: skip
def test_an_invalid_data_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidField, match="image: "):
        images.from_data_url(url)


def test_a_data_url_over_the_limit_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(InvalidField, match="image: is larger than 20 MB, the maximum"):
        images.from_data_url("data:image/png;base64," + "A" * 28_000_000)
