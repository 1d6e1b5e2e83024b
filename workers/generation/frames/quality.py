"""Assess the technical quality of a video from its frames as the encoder takes them, and name its faults.

It measures a signal, not aesthetics: noise counts as sharp, and a hand with six fingers is no fault. Pure; depends on
numpy only, not on files, models or jobs. Most measures use a part of the pixels, so that their cost is negligible
beside encoding. The thresholds and the score's formula are in `shared/catalogue/scoring.py`.
"""

from dataclasses import dataclass

import numpy

from shared.catalogue.scoring import BLACK_LUMA, FLAT_RANGE, FROZEN_CHANGE, quality_score
from shared.errors import BadOutput

_SAMPLED = 96  # approximate number of rows and columns of a frame that are read
_DETAIL_ROWS = 32  # rows in which detail is measured, with the neighbours of each
# Frames are in the video range of ITU-R BT.709: luma from 16 to 235.
_BLACK, _STEPS = 16.0, 219.0
_LEVELS = 255.0 / _STEPS  # in one step
# The variance of the Laplacian that rounding causes: 1/12 of a step for each pixel's luma, and before that 1/12 of a
# level for each of its colours, by their weights in luma; times 4^2 + 4 x 1^2.
_ROUNDING = 20.0 / 12.0 * (1.0 + (0.2126**2 + 0.7152**2 + 0.0722**2) / _LEVELS**2)
_RATE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Shape:
    """A video's format as requested, or as read from the file. `fps` is in frames per second."""

    width: int
    height: int
    frames: int
    fps: float


@dataclass(frozen=True)
class Measures:
    """Measures over all frames. Luma counts from 0 to 255. None: too few frames for that measure."""

    luma: float  # mean
    contrast: float  # standard deviation within a frame, mean over the frames
    sharpness: float  # variance of the Laplacian over the variance of luma, median over the frames
    frozen_share: float | None  # of the pairs of successive frames, those without a change
    flicker: float | None  # distance of a frame's mean luma from its neighbours', as a share of the range, mean


@dataclass(frozen=True)
class Quality:
    """The quality of a video that may be delivered: its technical score (0.0 to 1.0) and its inputs."""

    score: float
    checks: dict[str, bool]
    measures: Measures


class Watch:
    """Receives the frames one after another. Takes about 0.1 ms for a frame of 1280x720."""

    def __init__(self) -> None:
        self.black = self.flat = True  # of every frame so far
        self._before: numpy.ndarray | None = None
        self._means: list[float] = []
        self._contrasts: list[float] = []
        self._sharpness: list[float] = []
        self._changes: list[float] = []

    def see(self, luma: numpy.ndarray, *chroma: numpy.ndarray) -> None:
        """Measure one frame: its planes of uint8 in the video range, luma at full size."""
        sampled = luma[_spread(luma.shape[0]), _spread(luma.shape[1])].astype(numpy.float32)
        # One bright or different pixel in the sample suffices; only otherwise is every pixel read.
        self.black = self.black and _is_black(sampled) and _is_black(luma)
        self.flat = self.flat and _is_flat(sampled) and all(map(_is_flat, (luma, *chroma)))
        self._means.append((float(sampled.mean()) - _BLACK) * _LEVELS)
        variance = float(sampled.var())
        self._contrasts.append(variance**0.5 * _LEVELS)
        self._sharpness.append(_detail(luma) / variance if variance > 1.0 else 0.0)
        if self._before is not None:
            self._changes.append(float(numpy.abs(sampled - self._before).mean()) * _LEVELS)
        self._before = sampled

    def measures(self) -> Measures:
        """Return the measures of all frames so far, at least one."""
        frozen = [change < FROZEN_CHANGE for change in self._changes]
        return Measures(
            luma=round(float(numpy.mean(self._means)), 2),
            contrast=round(float(numpy.mean(self._contrasts)), 2),
            sharpness=round(float(numpy.median(self._sharpness)), 6),
            frozen_share=round(sum(frozen) / len(frozen), 4) if frozen else None,
            flicker=_flicker(numpy.array(self._means)),
        )


def judge(watch: Watch, asked: Shape, found: Shape | None) -> Quality:
    """Return the quality of the frames; `found` is the written file's format, None if it cannot be played.

    Raises BadOutput, which names each fault, if the file is no video, differs from the request, or shows nothing.
    """
    checks = {
        "decodable": found is not None,
        "size": found is not None and (found.width, found.height) == (asked.width, asked.height),
        "frame_count": found is not None and found.frames == asked.frames,
        "frame_rate": found is not None and abs(found.fps - asked.fps) <= _RATE_TOLERANCE * asked.fps,
        "finite": True,  # other values have already failed the job when they were decoded
        "not_black": not watch.black,
        "not_flat": not watch.flat,
    }
    if not all(checks.values()):
        raise BadOutput(f"The generated video is broken: {_faults(checks, asked, found)}.")
    measures = watch.measures()
    checks["not_frozen"] = measures.frozen_share != 1.0
    return Quality(quality_score(measures.sharpness, measures.frozen_share, measures.flicker), checks, measures)


def _faults(checks: dict[str, bool], asked: Shape, found: Shape | None) -> str:
    if found is None:
        return "the file cannot be played"
    words = {
        "size": f"{found.width}x{found.height} instead of {asked.width}x{asked.height}",
        "frame_count": f"{found.frames} frames instead of {asked.frames}",
        "frame_rate": f"{found.fps:g} frames a second instead of {asked.fps:g}",
        "not_black": "every frame is black",
        "not_flat": "every frame is of one flat colour",
    }
    named = [text for check, text in words.items() if not checks[check]]
    return ", ".join(named if checks["not_black"] else [text for text in named if text != words["not_flat"]])


def _spread(length: int) -> slice:
    """Return about `_SAMPLED` evenly spread positions."""
    step = max(1, length // _SAMPLED)
    return slice(step // 2, None, step)


def _is_black(plane: numpy.ndarray) -> bool:
    return (float(plane.max()) - _BLACK) * _LEVELS <= BLACK_LUMA


def _is_flat(plane: numpy.ndarray) -> bool:
    return (float(plane.max()) - float(plane.min())) * _LEVELS <= FLAT_RANGE


def _detail(luma: numpy.ndarray) -> float:
    """Return the variance of the Laplacian in some rows at full resolution, less the variance that rounding causes."""
    rows = numpy.linspace(1, luma.shape[0] - 2, min(_DETAIL_ROWS, luma.shape[0] - 2)).astype(int)
    here = luma[rows].astype(numpy.float32)
    around = here[:, :-2] + here[:, 2:] + luma[rows - 1, 1:-1] + luma[rows + 1, 1:-1]
    return max(0.0, float((4 * here[:, 1:-1] - around).var()) - _ROUNDING)


def _flicker(means: numpy.ndarray) -> float | None:
    if len(means) < 3:
        return None
    return round(float(numpy.abs(means[1:-1] - (means[:-2] + means[2:]) / 2).mean()) / 255, 6)
