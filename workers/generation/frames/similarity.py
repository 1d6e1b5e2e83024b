"""How close two videos are, frame by frame: SSIM by ffmpeg's filter, and PSNR. It must not depend on jobs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy
from av.filter import Graph

_FORMAT = "gbrp"  # compares red, green and blue as they are, without a conversion to luma
_TIME_BASE = Fraction(1, 25)  # of no meaning: frames are matched by their numbers


@dataclass(frozen=True)
class Similarity:
    """The comparison of one video's frames with those of another."""

    ssim: tuple[float, ...]  # of each frame, mean of the three colours; 1: equal
    psnr: tuple[float, ...]  # of each frame in dB; infinite: equal


def compare(frames: Sequence[numpy.ndarray], reference: Sequence[numpy.ndarray]) -> Similarity:
    """Compare frames, arrays (height, width, 3) of uint8. Raises ValueError if their number or size differs."""
    if len(frames) == 0 or len(frames) != len(reference):
        raise ValueError(f"{len(frames)} frames cannot be compared with {len(reference)}")
    if any(one.shape != other.shape for one, other in zip(frames, reference, strict=True)):
        raise ValueError("frames of different sizes cannot be compared")
    psnr = tuple(_psnr(one, other) for one, other in zip(frames, reference, strict=True))
    return Similarity(_ssim(frames, reference), psnr)


def _psnr(one: numpy.ndarray, other: numpy.ndarray) -> float:
    """Return 10 log10(255^2 / mean squared error)."""
    error = float(numpy.mean((one.astype(numpy.float32) - other.astype(numpy.float32)) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def _ssim(frames: Sequence[numpy.ndarray], reference: Sequence[numpy.ndarray]) -> tuple[float, ...]:
    height, width = frames[0].shape[:2]
    graph = Graph()
    form = av.VideoFormat(_FORMAT, width, height)
    sources = [graph.add_buffer(width=width, height=height, format=form, time_base=_TIME_BASE) for _ in range(2)]
    comparison, sink = graph.add("ssim"), graph.add("buffersink")
    for place, source in enumerate(sources):
        source.link_to(comparison, 0, place)
    comparison.link_to(sink)
    graph.configure()
    found: list[float] = []
    for number, pair in enumerate(zip(frames, reference, strict=True)):
        for source, pixels in zip(sources, pair, strict=True):
            source.push(_frame(pixels, number))
        found += _compared(sink)
    for source in sources:
        source.push(None)
    found += _compared(sink)
    if len(found) != len(frames):
        raise ValueError(f"{len(found)} of {len(frames)} frames were compared")
    return tuple(found)


def _frame(pixels: numpy.ndarray, number: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(numpy.ascontiguousarray(pixels), format="rgb24").reformat(format=_FORMAT)
    frame.pts, frame.time_base = number, _TIME_BASE
    return frame


def _compared(sink: Any) -> Iterator[float]:
    """Yield the values of the frames that the filter has compared."""
    while True:
        try:
            yield float(sink.pull().metadata["lavfi.ssim.All"])
        except (av.error.BlockingIOError, av.error.EOFError):
            return
