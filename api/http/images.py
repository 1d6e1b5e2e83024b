"""Images that clients send: believed only once they are decoded, and kept as plain sRGB PNG without metadata.

Colours are converted from the profile that the picture carries. The picture's size is checked before its pixels are
unpacked, so that a decompression bomb costs nothing.
"""

import base64
import binascii
import ctypes
import logging
import re
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING

from shared.errors import InvalidField

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

MAX_BYTES = 20 * 10**6
MAX_PIXELS = 50 * 10**6
_PNG_DEPTH_AT = 24  # the byte that says the bits of a sample
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
    """The picture as an upright sRGB PNG. Takes seconds and hundreds of MB for the largest: not for the event loop.

    Raises InvalidField on `image` for what is no PNG, JPEG or WebP, is animated, cannot be decoded, or is too large.
    """
    from PIL import Image, UnidentifiedImageError

    if len(content) > MAX_BYTES:
        raise _too_big()
    Image.MAX_IMAGE_PIXELS = None  # its own limit only warns; ours is below and refuses
    try:
        with Image.open(BytesIO(content), formats=_FORMATS) as image:
            pixels = image.width * image.height
            # A JPEG may carry further pictures, such as a preview; the others show their frames one after another.
            frames = getattr(image, "n_frames", 1) if image.format in ("PNG", "WEBP") else 1
            if pixels <= MAX_PIXELS and frames == 1:
                out = BytesIO()
                _scale_transparency(image, content)
                _upright(image)
                _opaque(image).save(out, "PNG", compress_level=1)
                return out.getvalue()
    except UnidentifiedImageError:
        raise InvalidField.of(
            "image", "is not a PNG, JPEG or WebP image; convert it to one of them", "image_type"
        ) from None
    except Exception:
        # Decoders fail in many ways on damaged files (OSError, SyntaxError, struct.error, ...): all say the same.
        raise InvalidField.of("image", "cannot be decoded; the file is damaged", "image_damaged") from None
    if frames > 1:
        still = f"is animated, with {frames} frames; send a still picture, such as its first frame"
        raise InvalidField.of("image", still, "image_animated")
    raise InvalidField.of("image", f"has {pixels / 1e6:.1f} megapixels; at most 50 are taken", "image_pixels")


def give_memory_back() -> None:
    """Hands freed pages to the system. The allocator would keep those of a large picture for the process's life."""
    if hasattr(_c_library(), "malloc_trim"):  # glibc's; another allocator needs no telling
        _c_library().malloc_trim(0)


def _scale_transparency(image: "Image.Image", content: bytes) -> None:
    """Has the transparent colour of a PNG in the 8 bits that samples of another depth are read as."""
    see_through = image.info.get("transparency")
    if image.format != "PNG" or image.mode == "P" or not isinstance(see_through, int | tuple):
        return
    depth = content[_PNG_DEPTH_AT]
    if isinstance(see_through, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in see_through)
    if isinstance(see_through, int) and depth in (2, 4):  # of 1 bit, Pillow does it itself
        image.info["transparency"] = see_through * 255 // (2**depth - 1)


def _upright(image: "Image.Image") -> None:
    """Turns it as its EXIF or XMP data says; leaves it as it is where they cannot be read."""
    from PIL import ImageOps

    image.load()  # first, so that only the metadata can be at fault below
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # the parsers of metadata fail in as many ways as those of pictures
        log.info("the orientation of an image cannot be read: %s", error)


def _opaque(image: "Image.Image") -> "Image.Image":
    """sRGB without profile or metadata; what is transparent becomes white."""
    from PIL import Image

    colours, alpha = _parts(image)
    made = _in_srgb(colours, image.info.get("icc_profile"))
    if alpha is not None:
        made = Image.composite(made, Image.new("RGB", made.size, "white"), alpha)
    return Image.frombytes("RGB", made.size, made.tobytes())  # without anything that came with the picture


def _parts(image: "Image.Image") -> tuple["Image.Image", "Image.Image | None"]:
    """(the colours in the mode L, RGB or CMYK, how opaque each pixel is where not all are)"""
    see_through = image.info.get("transparency")
    if image.mode.startswith("I"):  # 16 bits a sample
        wide = image.convert("I")
        alpha = None if see_through is None else wide.point([255 * (v != see_through) for v in range(1 << 16)], "L")
        return wide.point([value >> 8 for value in range(1 << 16)], "L"), alpha
    if image.mode == "1":
        image = image.convert("L")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    mode = "L" if image.mode in ("L", "LA", "La") else "CMYK" if image.mode == "CMYK" else "RGB"
    image.info.pop("transparency", None)
    return image.convert(mode), alpha


def _in_srgb(colours: "Image.Image", profile: bytes | None) -> "Image.Image":
    """By its profile. One that cannot be read, or is of another kind of colours, is ignored, as browsers do."""
    from PIL import ImageCms

    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            space = source.profile.xcolor_space.strip()
            if space == "RGB" and colours.mode == "L":
                colours = colours.convert("RGB")
            if {"GRAY": "L"}.get(space, space) == colours.mode:
                made = ImageCms.profileToProfile(
                    colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB",
                    flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
                )  # fmt: skip
                if made is not None:
                    return made
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return colours.convert("RGB")


def _too_big() -> InvalidField:
    return InvalidField.of("image", f"is larger than {MAX_BYTES // 10**6} MB", "image_bytes")


@cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
