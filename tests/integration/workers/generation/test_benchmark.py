"""A benchmark of tiers as a job, on the tiny models and a real database."""

from dataclasses import replace
from pathlib import Path

import numpy
import pytest

from shared.insight import tier_measurements
from workers.generation.similarity import compare


def video(seed: int, noise: int = 0) -> list[numpy.ndarray]:
    random = numpy.random.default_rng(seed)
    rows, columns = numpy.mgrid[0:48, 0:64]
    plain = [numpy.stack([rows * 4, columns * 3, rows + columns + 9 * n], axis=-1).astype(float) for n in range(3)]
    return [(one + random.normal(0, 1, one.shape) * noise).clip(0, 255).astype(numpy.uint8) for one in plain]


def test_equal_frames_are_equal_and_noise_lowers_both_figures() -> None:
    same = compare(video(0), video(0))
    assert same.ssim == (1.0, 1.0, 1.0)
    assert same.psnr == (float("inf"),) * 3
    little, much = compare(video(1, 4), video(0)), compare(video(1, 40), video(0))
    assert 0.5 < min(little.ssim) < max(little.ssim) < 1
    assert max(much.ssim) < min(little.ssim)
    assert max(much.psnr) < min(little.psnr)


def test_psnr_is_the_textbook_one() -> None:
    """A difference of 16 levels everywhere: 10 log10(255^2 / 16^2) = 24.05 dB."""
    one = [numpy.full((48, 64, 3), 100, dtype=numpy.uint8)]
    other = [numpy.full((48, 64, 3), 116, dtype=numpy.uint8)]
    assert compare(one, other).psnr[0] == pytest.approx(24.0482, abs=1e-4)


def test_ssim_of_flat_frames_is_the_luminance_term() -> None:
    """Wang et al. 2004, formula 13 without contrast: (2ab + c) / (a^2 + b^2 + c), c = (0.01 x 255)^2."""
    one = [numpy.full((48, 64, 3), 100, dtype=numpy.uint8)]
    other = [numpy.full((48, 64, 3), 150, dtype=numpy.uint8)]
    c = (0.01 * 255) ** 2
    assert compare(one, other).ssim[0] == pytest.approx((2 * 100 * 150 + c) / (100**2 + 150**2 + c), abs=1e-3)


def test_videos_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="2 frames"):
        compare(video(0)[:2], video(0))
    with pytest.raises(ValueError, match="sizes"):
        compare([frame[:40] for frame in video(0)], video(0))
