"""Scores: each one pure function with its formula. Worked examples are in docs/scores.md.

A score is made of what was measured or counted. Where nothing was, it is None, never a typical value.
"""

import math
import statistics
from collections.abc import Iterable, Sequence


def integrity_score(verified_bytes: int, expected_bytes: int) -> float | None:
    """Verified bytes over expected bytes, 0.0 to 1.0. None where it is not known what is expected."""
    if expected_bytes <= 0:
        return None
    return _rounded(min(verified_bytes, expected_bytes) / expected_bytes)


def success_rate(successes: int, uses: int) -> float | None:
    """Successes over uses. A use is a generation that succeeded or failed; mocks and cancelled ones are none."""
    return _rounded(successes / uses) if uses else None


def performance_score(successes: int, uses: int, seconds_per_work: Sequence[float]) -> float | None:
    """``success rate x fastest / median``, both over the latest uses (at most 20).

    `seconds_per_work` has an entry for each success that was timed: its seconds without loading, per megapixel x
    frame x step. 1.0 says that all succeed and that the usual one is as fast as the best one. None without uses, or
    where none was timed although some succeeded; 0.0 where all failed.
    """
    rate = success_rate(successes, uses)
    if rate is None or rate == 0.0:
        return rate
    if not seconds_per_work:
        return None
    usual = statistics.median(seconds_per_work)
    return _rounded(rate * (min(seconds_per_work) / usual if usual > 0 else 1.0))


# The thresholds of technical quality. A level is one of the 255 of luma.

BLACK_LUMA = 10.0
"""A frame without a brighter pixel is black: a display of gamma 2.4 shows level 10 as 0.04 % of its white."""

FLAT_RANGE = 4.0
"""A frame is of one colour where all its pixels lie within so many levels, in luma and in both colour differences:
side by side, one or two levels are about the least step that an eye sees."""

FROZEN_CHANGE = 0.05
"""A frame whose pixels differ from the last one's by less, in levels on the mean, is the same one again: not one pixel
in twenty has moved by the least step."""

BLURRED, SHARP = 0.001, 0.05
"""Sharpness that counts for nothing and in full. Pictures with the spectrum of nature (amplitudes fall as 1/frequency)
were blurred at 1280x720 by Gaussians: one of 1 pixel, about what a camera does, left 0.10; 1.5 left 0.020; 2, soft to
look at, 0.008; 4, plainly blurred, 0.0014; 8 left 0.0007, which is rounding."""

STEADY, FLICKERING = 0.01, 0.10
"""Flicker that costs nothing and that costs all. 1 % is about the least modulation that an eye sees at these rates (de
Lange, 1958); where frames jump by a tenth of the range, one sees little else."""


def quality_score(sharpness: float, frozen_share: float | None, flicker: float | None) -> float:
    """``detail x motion x steadiness`` of one video, 0.0 to 1.0. A signal's quality, not taste.

    detail: ``log(sharpness / BLURRED) / log(SHARP / BLURRED)``, held within 0 and 1. `sharpness` is the variance of the
    Laplacian over the variance of luma (a no-reference measure of focus: Pech-Pacheco et al., 2000; normalised, so that
    contrast does not count).
    motion: ``1 - frozen_share``, the share of successive frames that show a change.
    steadiness: ``(FLICKERING - flicker) / (FLICKERING - STEADY)``, held within 0 and 1.
    A factor that is not measured, in a video of one or two frames, is 1. They multiply, since nothing makes up for a
    video that is a blur, a still or a stroboscope.
    """
    detail = math.log(sharpness / BLURRED) / math.log(SHARP / BLURRED) if sharpness > 0 else 0.0
    motion = 1.0 if frozen_share is None else 1.0 - frozen_share
    steadiness = 1.0 if flicker is None else (FLICKERING - flicker) / (FLICKERING - STEADY)
    return _rounded(_held(detail) * motion * _held(steadiness))


def overall_health_score(healthy: int, degraded: int, corrupted: int) -> float | None:
    """``(healthy + degraded / 2) / (healthy + degraded + corrupted)``. Models that are not there count for nothing."""
    judged = healthy + degraded + corrupted
    return _rounded((healthy + degraded / 2) / judged) if judged else None


def performance_difference(requested: float | None, alternative: float | None) -> float | None:
    """The alternative's performance score minus the requested model's, -1.0 to 1.0. None where one is missing."""
    if requested is None or alternative is None:
        return None
    return round(alternative - requested, 4)


def availability_score(serving: int, held: int, looked: bool) -> float | None:
    """Replicas that can serve now over replicas that are held: files on any node, silent ones included, or fetched.

    0.0 where nodes have looked and none holds it; None where none has looked.
    """
    if held:
        return _rounded(serving / held)
    return 0.0 if looked else None


def health_score(availability: float | None, integrity: float | None, rate: float | None) -> float | None:
    """``availability x integrity x success rate`` (of the latest uses); what was not measured is left out.

    None where not even the availability is known.
    """
    if availability is None:
        return None
    return _rounded(availability * (1.0 if integrity is None else integrity) * (1.0 if rate is None else rate))


def stability_score(successes: int, uses: int, seconds_per_work: Sequence[float]) -> float | None:
    """``success rate x median / p95`` over the latest uses (at most 20), of the times that `performance_score` takes.

    1.0 says that all succeed and that the slow ones take no longer than the usual one. None as there.
    """
    rate = success_rate(successes, uses)
    if rate is None or rate == 0.0:
        return rate
    if not seconds_per_work:
        return None
    slow = sorted(seconds_per_work)[math.ceil(0.95 * len(seconds_per_work)) - 1]
    return _rounded(rate * (statistics.median(seconds_per_work) / slow if slow > 0 else 1.0))


def memory_efficiency_score(peak_mb: float | None, total_mb: float | None) -> float | None:
    """``1 - peak / total``: the share of the devices' memory that stays free at a model's highest measured use."""
    if peak_mb is None or not total_mb:
        return None
    return _rounded(1.0 - peak_mb / total_mb)


def videos_per_hour(successes: int, busy_seconds: float) -> float | None:
    """``3600 x successes / seconds that devices spent``, failed uses included: what one device makes in an hour of it.

    None where nothing succeeded.
    """
    return round(3600.0 * successes / busy_seconds, 3) if successes and busy_seconds > 0 else None


def work_per_second(seconds_per_work: Sequence[float]) -> float | None:
    """Megapixels x frames x steps that the usual one of the latest successes got done in a second: 1 / median."""
    if not seconds_per_work:
        return None
    usual = statistics.median(seconds_per_work)
    return 1.0 / usual if usual > 0 else None


def mean_score(scores: Iterable[float | None]) -> float | None:
    """The mean of those that are known."""
    known = [score for score in scores if score is not None]
    return _rounded(sum(known) / len(known)) if known else None


def difference_percent(of: float | None, than: float | None) -> float | None:
    """``100 x (of - than) / than``. None where either is missing or there is nothing to compare with."""
    if of is None or than is None or than == 0:
        return None
    return round(100.0 * (of - than) / than, 2)


def _rounded(score: float) -> float:
    return round(_held(score), 4)


def _held(score: float) -> float:
    return min(1.0, max(0.0, score))
