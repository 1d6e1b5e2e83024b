"""Images: only what decodes is believed, and what is kept is an upright RGB PNG without metadata."""

import base64
import struct
import zlib
from io import BytesIO
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from api import images
from shared.errors import InvalidField


def written(image: Image.Image, format: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def read(content: bytes) -> Image.Image:
    image = Image.open(BytesIO(content))
    image.load()
    return image


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is that large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_become_rgb_png(format: str) -> None:
    kept = read(images.normalise(written(Image.new("RGB", (20, 10), (200, 30, 30)), format)))
    assert (kept.format, kept.mode, kept.size) == ("PNG", "RGB", (20, 10))
    red, green, _ = kept.getpixel((5, 5))  # type: ignore[misc]
    assert red > 180
    assert green < 50


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert read(images.normalise(written(Image.new(mode, (8, 8)), "PNG"))).mode == "RGB"


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = Image.new("I;16", (4, 4), 0x8000)
    assert read(images.normalise(written(grey, "PNG"))).getpixel((0, 0)) == (128, 128, 128)


def test_what_is_transparent_becomes_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert read(images.normalise(written(clear, "PNG"))).getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied_and_metadata_dropped() -> None:
    photo = Image.new("RGB", (40, 20), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    exif[0x010E] = "taken at home"
    content = images.normalise(written(photo, "JPEG", exif=exif))
    assert read(content).size == (20, 40)
    assert b"taken at home" not in content


def test_text_chunks_are_dropped() -> None:
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "secret place")
    assert b"secret place" not in images.normalise(written(Image.new("RGB", (4, 4)), "PNG", pnginfo=note))


@pytest.mark.parametrize(
    "content", [b"", b"not an image", written(Image.new("P", (4, 4)), "GIF"), written(Image.new("RGB", (4, 4)), "BMP")]
)
def test_other_formats_are_refused_whatever_they_are_called(content: bytes) -> None:
    with pytest.raises(InvalidField, match="image: is not a PNG, JPEG or WebP"):
        images.normalise(content)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_image_is_refused(format: str) -> None:
    noise = Image.effect_noise((200, 200), 90).convert("RGB")
    content = written(noise, format)
    with pytest.raises(InvalidField, match="image: "):
        images.normalise(content[: len(content) // 2])


@pytest.mark.parametrize(("width", "height"), [(10_000, 5_001), (60_000, 60_000), (2**31 - 1, 1)])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(width: int, height: int) -> None:
    with pytest.raises(InvalidField, match="megapixels"):
        images.normalise(png_claiming(width, height))


def test_fifty_megapixels_are_taken() -> None:
    flat = written(Image.new("L", (10_000, 5_000)), "PNG")
    assert read(images.normalise(flat)).size == (10_000, 5_000)


def test_more_than_twenty_megabytes_are_refused() -> None:
    with pytest.raises(InvalidField, match="image: is larger than 20 MB"):
        images.normalise(b"\x89PNG" + bytes(images.MAX_BYTES))


def test_a_data_url() -> None:
    encoded = base64.b64encode(b"anything").decode()
    assert images.from_data_url(f"data:image/png;base64,{encoded}") == b"anything"
    assert images.from_data_url(f"data:;base64,{encoded}") == b"anything"


@pytest.mark.parametrize(
    "url", ["", "http://example.com/x.png", "file:///etc/passwd", "/etc/passwd", "data:image/png,abc",
            "data:image/png;base64,@@@", "data:image/png;base64,abc", "data:image/png;base64,\u20ac\u20ac\u20ac="],
)  # fmt: skip
def test_what_is_no_data_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidField, match="image: "):
        images.from_data_url(url)


def test_a_data_url_over_the_limit_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(InvalidField, match="image: is larger than 20 MB"):
        images.from_data_url("data:image/png;base64," + "A" * 28_000_000)
