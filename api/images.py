"""Images that clients send: believed only once they are decoded, and kept as plain RGB PNG without metadata.

The picture's size is checked before its pixels are unpacked, so that a decompression bomb costs nothing.
"""

import base64
import binascii
import ctypes
import re
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING

from shared.errors import InvalidField

if TYPE_CHECKING:
    from PIL import Image

MAX_BYTES = 20 * 10**6
MAX_PIXELS = 50 * 10**6
_FORMATS = ("PNG", "JPEG", "WEBP")
_DATA_URL = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.ASCII | re.IGNORECASE)


def from_data_url(url: str) -> bytes:
    """The bytes inside ``data:image/png;base64,...``. Raises InvalidField on `image`."""
    head = _DATA_URL.match(url)
    if head is None:
        raise InvalidField.of("image", "must be a data URL: data:image/png;base64,...", "data_url")
    if (len(url) - head.end()) * 3 // 4 > MAX_BYTES + 2:
        raise _too_big()
    try:
        return base64.b64decode(url[head.end() :].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise InvalidField.of("image", "the data URL is not valid base64", "data_url") from None


def normalise(content: bytes) -> bytes:
    """The picture as an upright RGB PNG. Takes seconds and hundreds of MB for the largest: not for the event loop.

    Raises InvalidField on `image` for what is no PNG, JPEG or WebP, cannot be decoded, or is too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if len(content) > MAX_BYTES:
        raise _too_big()
    Image.MAX_IMAGE_PIXELS = None  # its own limit only warns; ours is below and refuses
    try:
        with Image.open(BytesIO(content), formats=_FORMATS) as image:
            pixels = image.width * image.height
            if pixels <= MAX_PIXELS:
                ImageOps.exif_transpose(image, in_place=True)
                out = BytesIO()
                _opaque(image).save(out, "PNG", compress_level=1)
                return out.getvalue()
    except UnidentifiedImageError:
        raise InvalidField.of("image", "is not a PNG, JPEG or WebP image", "image_type") from None
    except Exception:
        # Decoders fail in many ways on damaged files (OSError, SyntaxError, struct.error, ...): all say the same.
        raise InvalidField.of("image", "cannot be decoded; the file is damaged", "image_damaged") from None
    raise InvalidField.of("image", f"has {pixels / 1e6:.1f} megapixels; at most 50 are taken", "image_pixels")


def give_memory_back() -> None:
    """Hands freed pages to the system. The allocator would keep those of a large picture for the process's life."""
    if hasattr(_c_library(), "malloc_trim"):  # glibc's; another allocator needs no telling
        _c_library().malloc_trim(0)


def _opaque(image: "Image.Image") -> "Image.Image":
    """RGB without profile or metadata; what is transparent becomes white."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits a sample
        image = image.convert("I").point([value >> 8 for value in range(1 << 16)], "L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, "white")
        backdrop.alpha_composite(image)
        image = backdrop
    if image.mode != "RGB":
        image = image.convert("RGB")
    image.info.clear()
    image.getexif().clear()
    return image


def _too_big() -> InvalidField:
    return InvalidField.of("image", f"is larger than {MAX_BYTES // 10**6} MB", "image_bytes")


@cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
