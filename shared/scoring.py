"""Scores: each one pure function with its formula. Worked examples are in docs/scores.md.

A score is made of what was measured or counted. Where nothing was, it is None, never a typical value.
"""

import statistics
from collections.abc import Sequence


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


def overall_health_score(healthy: int, degraded: int, corrupted: int) -> float | None:
    """``(healthy + degraded / 2) / (healthy + degraded + corrupted)``. Models that are not there count for nothing."""
    judged = healthy + degraded + corrupted
    return _rounded((healthy + degraded / 2) / judged) if judged else None


def performance_difference(requested: float | None, alternative: float | None) -> float | None:
    """The alternative's performance score minus the requested model's, -1.0 to 1.0. None where one is missing."""
    if requested is None or alternative is None:
        return None
    return round(alternative - requested, 4)


def _rounded(score: float) -> float:
    return round(min(1.0, max(0.0, score)), 4)
