"""The time of a generation as the sum of its parts: denoising by work, decoding by volume, and a fixed part.

Only denoising depends on the number of steps; frames are decoded and encoded once. Each part is a median over ended
generations. Attention grows faster than the number of tokens, so generations of nearly the same size are preferred.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Protocol, Self, TypeVar

from shared.states import Phase

LATEST = 20
"""Medians are over this many of the latest uses: enough to be stable, few enough to follow a new driver or GPU."""

_ENOUGH = 3  # generations of nearly the same size, to leave out the others
LIKE = (2.0,)
"""Volumes within this factor are alike."""
_NEAR = (1.1, *LIKE)
_APART = 1.05  # factor between two volumes that say how a time grows with the volume

TIERED = frozenset((Phase.ENCODING, Phase.DENOISING, Phase.DECODING))
"""The phases that a benchmark of speed tiers times. The video codec is the same in every tier."""


class Timed(Protocol):
    """An ended generation: a row of the table of uses, or its columns."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def frames(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def work(self) -> float | None: ...
    @property
    def timings(self) -> Mapping[str, float]: ...
    @property
    def seconds(self) -> float | None: ...
    @property
    def device_seconds(self) -> float | None: ...
    @property
    def devices(self) -> int: ...


@dataclass(frozen=True)
class Parts:
    """The seconds of one generation without loading, and its size."""

    work: float  # megapixels x frames x steps; a step without guidance counts half
    volume: float  # megapixels x frames
    encoding: float  # of the prompt, and of a picture
    denoising: float
    decoding: float
    finishing: float  # encoding, checking and storing the video
    beside: bool = False  # whether its device ran the next job while it was finished

    @classmethod
    def of(cls, use: Timed) -> Self | None:
        """Return the parts of a use; None if its phases were not timed."""
        if Phase.DENOISING not in use.timings:
            return None
        held = None if use.device_seconds is None or use.seconds is None else use.device_seconds / use.devices
        return cls(
            work_of(use),
            volume_of(use),
            use.timings.get(Phase.ENCODING, 0.0),
            use.timings[Phase.DENOISING],
            use.timings.get(Phase.DECODING, 0.0),
            sum(use.timings.get(phase, 0.0) for phase in (Phase.MUXING, Phase.FINISHING)),
            held is not None and use.seconds is not None and held < use.seconds - 0.001,
        )

    @property
    def seconds(self) -> float:
        return self.encoding + self.denoising + self.decoding + self.finishing

    @property
    def decoding_on_device(self) -> float:
        """Decoding, and finishing where the device waits for it."""
        return self.decoding + (0.0 if self.beside else self.finishing)

    def in_tier(self, ratio: float) -> Self:
        """Return the parts as of a tier, by the ratio that a benchmark has measured."""
        if ratio == 1.0:
            return self
        encoding, denoising, decoding = self.encoding * ratio, self.denoising * ratio, self.decoding * ratio
        return replace(self, encoding=encoding, denoising=denoising, decoding=decoding)

    def on_devices(self, devices: int) -> Self:
        """Return the parts as of a gang. Its devices share only the denoising; the leader decodes."""
        return replace(self, denoising=self.denoising / devices)


@dataclass(frozen=True)
class Expectation:
    """What generations of about one size take: seconds for each unit of work and volume, and a fixed part."""

    samples: int
    per_work: float
    per_volume: float  # on the device
    fixed: float
    beside_per_volume: float  # after the device has gone on to the next job
    whole_per_work: float  # all parts for each unit of work: for jobs whose volume is not known

    @classmethod
    def of(cls, parts: Sequence[Parts]) -> Self:
        """Return the medians of at least one generation."""
        encoding_per_volume, fixed = _line([(one.volume, one.encoding) for one in parts])
        return cls(
            len(parts),
            statistics.median(one.denoising / one.work for one in parts),
            statistics.median(one.decoding_on_device / one.volume for one in parts) + encoding_per_volume,
            fixed,
            statistics.median(one.finishing / one.volume if one.beside else 0.0 for one in parts),
            statistics.median(one.seconds / one.work for one in parts),
        )

    def seconds(self, work: float, volume: float) -> float:
        """Return the expected seconds of a generation from its start to its end, without loading.

        Volume 0: it is not known, so the time is proportional to the work.
        """
        return self.device_seconds(work, volume) + self.beside_per_volume * volume

    def device_seconds(self, work: float, volume: float, count: int = 1) -> float:
        """Return for how long it is expected to hold its device.

        `count`: of so many generations, which have that work and volume in all.
        """
        if volume <= 0:
            return self.whole_per_work * work
        return self.per_work * work + self.per_volume * volume + self.fixed * count


@dataclass(frozen=True)
class History:
    """The parts of ended generations of one kind, newest first."""

    parts: Sequence[Parts] = ()
    near: Sequence[float] = _NEAR  # factors within which volumes are near, the closest first
    _known: dict[float, Expectation | None] = field(default_factory=dict, compare=False, repr=False)

    def expected(self, volume: float) -> Expectation | None:
        """Return what is expected of generations of that volume; None: none was timed."""
        if volume not in self._known:
            chosen = nearest(self.parts, volume, lambda one: one.volume, self.near)
            self._known[volume] = Expectation.of(chosen) if chosen else None
        return self._known[volume]


Sized = TypeVar("Sized")


def nearest(
    timed: Sequence[Sized], volume: float, size: Callable[[Sized], float], near: Sequence[float] = _NEAR
) -> Sequence[Sized]:
    """Return the latest generations of nearly that volume if there are enough, else the latest of all.

    `size`: the volume of each.
    """
    for factor in near:
        found = [one for one in timed if size(one) / factor <= volume <= size(one) * factor][:LATEST]
        if len(found) >= _ENOUGH:
            return found
    return timed[:LATEST]


def work_of(use: Timed) -> float:
    """Return the use's work, by which times of denoising are compared.

    For uses of earlier versions guidance is not considered.
    """
    return use.work or volume_of(use) * use.steps


def volume_of(use: Timed) -> float:
    """Return the use's volume, by which times of decoding are compared."""
    return use.width * use.height * use.frames / 1e6


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return by how much the time rises with the volume, and the time that does not depend on it. Neither is negative.

    The slope is the median of those between any two points (Theil and Sen), which single outliers do not move.
    """
    slopes = [
        (later - sooner) / (more - less)
        for (less, sooner), (more, later) in combinations(sorted(points), 2)
        if more > less * _APART
    ]
    slope = max(0.0, statistics.median(slopes)) if slopes else 0.0
    return slope, max(0.0, statistics.median(seconds - slope * volume for volume, seconds in points))
