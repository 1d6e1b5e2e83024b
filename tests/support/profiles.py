"""Colour profiles, built here because the package contains only sRGB."""

import struct
from collections.abc import Sequence

# The columns of an RGB space's matrix to XYZ under D50, as published.
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def rgb(columns: Sequence[Sequence[float]], curve: Sequence[float]) -> bytes:
    """`curve`: gamma alone, or the five figures of a curve with a straight beginning."""
    tags = {f"{name}XYZ".encode(): _xyz(column) for name, column in zip("rgb", columns, strict=True)}
    return _profile(b"RGB ", b"XYZ ", tags | {f"{name}TRC".encode(): _curve(curve) for name in "rgb"})


def grey(gamma: float) -> bytes:
    return _profile(b"GRAY", b"XYZ ", {b"kTRC": _curve((gamma,))})


def cmyk() -> bytes:
    """An ink set whose cyan alone is a mid grey; with any other ink it is black, and without ink white."""
    corners = bytearray()
    for corner in range(16):  # cyan is the slowest
        lightness = {0: 255, 8: 128}.get(corner, 0)
        corners += bytes((lightness, 128, 128))
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + matrix + ramp * 4 + bytes(corners) + ramp * 3
    return _profile(b"CMYK", b"Lab ", {b"A2B0": table}, kind=b"prtr", version=0x02400000)


def _profile(
    space: bytes, between: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", version: int = 0x04300000
) -> bytes:
    tags = {b"wtpt": _xyz((0.9642, 1.0, 0.8249)), **tags}
    place = 128 + 4 + 12 * len(tags)
    index, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        index += name + struct.pack(">II", place + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", place + len(body), bytes(4), version, kind, space, between) + bytes(12) + b"acsp"
    head += bytes(28) + struct.pack(">3i", *(round(value * 65536) for value in (0.9642, 1.0, 0.8249)))
    return head.ljust(128, b"\0") + index + body


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _curve(figures: Sequence[float]) -> bytes:
    kind = 0 if len(figures) == 1 else 3
    return b"para" + bytes(4) + struct.pack(f">HH{len(figures)}i", kind, 0, *(round(f * 65536) for f in figures))
