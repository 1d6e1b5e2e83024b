"""Scores: pure functions, each with its formula. Worked examples are in docs/scores.md.

Scores are computed from measurements and counts. Without these a score is None, never a typical value.
"""

import math
import statistics
from collections.abc import Iterable, Sequence


def integrity_score(verified_bytes: int, expected_bytes: int) -> float | None:
    """Return verified over expected bytes, 0.0 to 1.0. None if the expected bytes are unknown."""
    if expected_bytes <= 0:
        return None
    return _rounded(min(verified_bytes, expected_bytes) / expected_bytes)


def success_rate(successes: int, uses: int) -> float | None:
    """Return successes over uses. A use is a generation that succeeded or failed, without placeholders."""
    return _rounded(successes / uses) if uses else None


def performance_score(successes: int, uses: int, relative_seconds: Sequence[float]) -> float | None:
    """Return ``success rate x fastest / median``, over the latest uses (at most 20).

    `relative_seconds` has an entry for each success that was timed: its seconds without loading, over those expected of
    its size and steps. 1.0: all succeed, and the median is as fast as the fastest. None without uses, or if some
    succeeded but none was timed; 0.0 if all failed.
    """
    rate = success_rate(successes, uses)
    if rate is None or rate == 0.0:
        return rate
    if not relative_seconds:
        return None
    usual = statistics.median(relative_seconds)
    return _rounded(rate * (min(relative_seconds) / usual if usual > 0 else 1.0))


# Thresholds of technical quality. Levels are those of luma, 0 to 255.

BLACK_LUMA = 10.0
"""A frame without a brighter pixel is black: a display of gamma 2.4 shows level 10 as 0.04 % of its white."""

FLAT_RANGE = 4.0
"""A frame is of one colour if all its pixels are within this many levels, in luma and in both colour differences.
Side by side, one or two levels are about the smallest step that an eye sees."""

FROZEN_CHANGE = 0.05
"""A frame is frozen if its pixels differ from the previous frame by less than this mean number of levels: fewer than
one pixel in twenty has changed by the smallest step."""

BLURRED, SHARP = 0.001, 0.05
"""Sharpness that scores 0 and 1. Pictures with a natural spectrum (amplitudes fall as 1/frequency) were blurred at
1280x720 by Gaussians: one of 1 pixel, about what a camera does, left 0.10; 1.5 left 0.020; 2, soft to
look at, 0.008; 4, plainly blurred, 0.0014; 8 left 0.0007, which is rounding."""

STEADY, FLICKERING = 0.01, 0.10
"""Flicker that scores 1 and 0. 1 % is about the smallest modulation that an eye sees at these rates (de Lange, 1958);
changes by a tenth of the range dominate what one sees."""


def quality_score(sharpness: float, frozen_share: float | None, flicker: float | None) -> float:
    """Return ``detail x motion x steadiness`` of one video, 0.0 to 1.0. It measures the signal, not taste.

    detail: ``log(sharpness / BLURRED) / log(SHARP / BLURRED)``, limited to 0 to 1. `sharpness` is the variance of the
    Laplacian over the variance of luma (a no-reference measure of focus: Pech-Pacheco et al., 2000; normalised, so that
    contrast does not count).
    motion: ``1 - frozen_share``, the share of successive frames that show a change.
    steadiness: ``(FLICKERING - flicker) / (FLICKERING - STEADY)``, limited to 0 to 1.
    A factor that cannot be measured, in a video of one or two frames, is 1. The factors are multiplied, because a
    blurred, frozen or flickering video has no other qualities that compensate for it.
    """
    detail = math.log(sharpness / BLURRED) / math.log(SHARP / BLURRED) if sharpness > 0 else 0.0
    motion = 1.0 if frozen_share is None else 1.0 - frozen_share
    steadiness = 1.0 if flicker is None else (FLICKERING - flicker) / (FLICKERING - STEADY)
    return _rounded(_limited(detail) * motion * _limited(steadiness))


def overall_health_score(healthy: int, degraded: int, corrupted: int) -> float | None:
    """Return ``(healthy + degraded / 2) / (healthy + degraded + corrupted)``. Missing models do not count."""
    judged = healthy + degraded + corrupted
    return _rounded((healthy + degraded / 2) / judged) if judged else None


def performance_difference(requested: float | None, alternative: float | None) -> float | None:
    """Return the alternative's performance score minus the requested model's, -1.0 to 1.0. None if one is missing."""
    if requested is None or alternative is None:
        return None
    return round(alternative - requested, 4)


def availability_score(serving: int, held: int, looked: bool) -> float | None:
    """Return usable replicas over all replicas: those with files on any node, including silent ones, or downloading.

    0.0 if nodes have scanned and none holds it; None before the first scan.
    """
    if held:
        return _rounded(serving / held)
    return 0.0 if looked else None


def health_score(availability: float | None, integrity: float | None, rate: float | None) -> float | None:
    """Return ``availability x integrity x success rate`` (of the latest uses), without factors that are unknown.

    None if the availability is unknown.
    """
    if availability is None:
        return None
    return _rounded(availability * (1.0 if integrity is None else integrity) * (1.0 if rate is None else rate))


def stability_score(successes: int, uses: int, relative_seconds: Sequence[float]) -> float | None:
    """Return ``success rate x median / p95`` over the latest uses (at most 20), as for `performance_score`.

    1.0: all succeed, and slow ones take no longer than the median. None as there.
    """
    rate = success_rate(successes, uses)
    if rate is None or rate == 0.0:
        return rate
    if not relative_seconds:
        return None
    slow = sorted(relative_seconds)[math.ceil(0.95 * len(relative_seconds)) - 1]
    return _rounded(rate * (statistics.median(relative_seconds) / slow if slow > 0 else 1.0))


def memory_efficiency_score(peak_mb: float | None, total_mb: float | None) -> float | None:
    """Return ``1 - peak / total``: the share of the devices' memory that is free at the highest measured use."""
    if peak_mb is None or not total_mb:
        return None
    return _rounded(1.0 - peak_mb / total_mb)


def videos_per_hour(successes: int, busy_seconds: float) -> float | None:
    """Return ``3600 x successes / device seconds``, including failed uses: the videos of one device in an hour.

    None without successes.
    """
    return round(3600.0 * successes / busy_seconds, 3) if successes and busy_seconds > 0 else None


def work_per_second(seconds_per_work: Sequence[float]) -> float | None:
    """Return megapixels x frames x steps denoised per second: 1 / median over the latest successes."""
    if not seconds_per_work:
        return None
    usual = statistics.median(seconds_per_work)
    return 1.0 / usual if usual > 0 else None


def mean_score(scores: Iterable[float | None]) -> float | None:
    """Return the mean of the known scores; None if there are none."""
    known = [score for score in scores if score is not None]
    return _rounded(sum(known) / len(known)) if known else None


def difference_percent(of: float | None, than: float | None) -> float | None:
    """Return ``100 x (of - than) / than``. None if either is missing or `than` is 0."""
    if of is None or than is None or than == 0:
        return None
    return round(100.0 * (of - than) / than, 2)


def _rounded(score: float) -> float:
    return round(_limited(score), 4)


def _limited(score: float) -> float:
    return min(1.0, max(0.0, score))
