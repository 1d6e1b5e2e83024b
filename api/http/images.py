"""Validate images from clients by decoding them, and convert them to sRGB PNG without metadata.

Colours are converted from the embedded profile. The dimensions are checked before the pixels are decompressed, to
guard against decompression bombs.
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
_PNG_DEPTH_AT = 24  # offset of the byte with the bits per sample
_ORIENTATION = 0x0112  # the tag of EXIF
_TURNED = (5, 6, 7, 8)  # by a quarter
_FORMATS = ("PNG", "JPEG", "WEBP")
_DATA_URL = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.ASCII | re.IGNORECASE)


def from_data_url(url: str, field: str = "image") -> bytes:
    """Return the bytes of ``data:image/png;base64,...``. Raises InvalidField on `field`."""
    head = _DATA_URL.match(url)
    if head is None:
        raise InvalidField.of(field, "must be a data URL: data:image/png;base64,...", "data_url")
    if (len(url) - head.end()) * 3 // 4 > MAX_BYTES + 2:
        raise _too_large(field)
    try:
        return base64.b64decode(url[head.end() :].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise InvalidField.of(field, "the data URL's content is not valid base64", "data_url") from None


def upright_size(content: bytes) -> tuple[int, int] | None:
    """Return width and height as `normalise` makes them; None for what it refuses. Reads the header alone if it can."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(BytesIO(content), formats=_FORMATS) as image:
            if len(content) > MAX_BYTES or image.width * image.height > MAX_PIXELS:
                return None
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            return (image.height, image.width) if turned else (image.width, image.height)
    except Exception:  # decoders raise many types of errors, which `normalise` reports
        return None


def normalise(content: bytes, field: str = "image") -> bytes:
    """Return the image as an upright sRGB PNG. The largest take seconds and hundreds of MB: call it in a thread.

    Raises InvalidField on `field` if it is not a PNG, JPEG or WebP, is animated, damaged, or too large.
    """
    from PIL import Image, UnidentifiedImageError

    if len(content) > MAX_BYTES:
        raise _too_large(field)
    Image.MAX_IMAGE_PIXELS = None  # Pillow's limit only warns; ours, below, refuses
    try:
        with Image.open(BytesIO(content), formats=_FORMATS) as image:
            pixels = image.width * image.height
            # Further images in a JPEG are previews; in the other formats they are frames of an animation.
            frames = getattr(image, "n_frames", 1) if image.format in ("PNG", "WEBP") else 1
            if pixels <= MAX_PIXELS and frames == 1:
                out = BytesIO()
                _scale_transparency(image, content)
                _upright(image)
                _opaque(image).save(out, "PNG", compress_level=1)
                return out.getvalue()
    except UnidentifiedImageError:
        raise InvalidField.of(
            field, "is not a PNG, JPEG or WebP image; convert it to one of them", "image_type"
        ) from None
    except Exception:
        # Decoders raise many types of errors for damaged files: OSError, SyntaxError, struct.error, ...
        raise InvalidField.of(field, "cannot be decoded; the file is damaged", "image_damaged") from None
    if frames > 1:
        still = f"is animated, with {frames} frames; send a still image, such as its first frame"
        raise InvalidField.of(field, still, "image_animated")
    raise InvalidField.of(field, f"has {pixels / 1e6:.1f} megapixels; at most 50 are allowed", "image_pixels")


def give_memory_back() -> None:
    """Return freed memory to the system. glibc would keep that of a large image for the process's lifetime."""
    if hasattr(_c_library(), "malloc_trim"):  # only in glibc
        _c_library().malloc_trim(0)


def _scale_transparency(image: "Image.Image", content: bytes) -> None:
    """Scale the transparent colour of a PNG with less than 8 bits per sample, as Pillow scales the samples."""
    see_through = image.info.get("transparency")
    if image.format != "PNG" or image.mode == "P" or not isinstance(see_through, int | tuple):
        return
    depth = content[_PNG_DEPTH_AT]
    if isinstance(see_through, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in see_through)
    if isinstance(see_through, int) and depth in (2, 4):  # Pillow scales it for 1 bit
        image.info["transparency"] = see_through * 255 // (2**depth - 1)


def _upright(image: "Image.Image") -> None:
    """Rotate the image as its EXIF or XMP data says, if that can be read."""
    from PIL import ImageOps

    image.load()  # first, so that an error below comes from the metadata
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # parsers of metadata raise many types of errors
        log.info("the orientation of an image cannot be read: %s", error)


def _opaque(image: "Image.Image") -> "Image.Image":
    """Convert to sRGB without profile or metadata, on a white background."""
    from PIL import Image

    colours, alpha = _parts(image)
    converted = _in_srgb(colours, image.info.get("icc_profile"))
    if alpha is not None:
        converted = Image.composite(converted, Image.new("RGB", converted.size, "white"), alpha)
    return Image.frombytes("RGB", converted.size, converted.tobytes())  # drops all metadata


def _parts(image: "Image.Image") -> tuple["Image.Image", "Image.Image | None"]:
    """Return the colours (mode L, RGB or CMYK), and the alpha channel if there is one."""
    see_through = image.info.get("transparency")
    if image.mode.startswith("I"):  # 16 bits per sample
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
    """Convert by the profile. Like browsers, ignores a profile that is damaged or for another colour model."""
    from PIL import ImageCms

    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            space = source.profile.xcolor_space.strip()
            if space == "RGB" and colours.mode == "L":
                colours = colours.convert("RGB")
            if {"GRAY": "L"}.get(space, space) == colours.mode:
                converted = ImageCms.profileToProfile(
                    colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB",
                    flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
                )  # fmt: skip
                if converted is not None:
                    return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return colours.convert("RGB")


def _too_large(field: str) -> InvalidField:
    return InvalidField.of(field, f"is larger than {MAX_BYTES // 10**6} MB, the maximum", "image_bytes")


@cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
