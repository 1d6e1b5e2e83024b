"""Technical quality, on frames with one fault each."""

from collections.abc import Iterable

import numpy
import pytest

from shared.errors import BadOutput
from workers.generation.frames.quality import Quality, Shape, Watch, judge

ASKED = Shape(320, 192, 8, 16)
NOISE = numpy.random.default_rng(3)
GREY = numpy.full((96, 160), 128, "uint8")


def natural(blur: float = 1.0, shift: int = 0) -> numpy.ndarray:
    """Luma in the video range with the spectrum of nature, blurred by a Gaussian of so many pixels."""
    height, width = 192, 320
    across, down = numpy.fft.rfftfreq(width)[None, :], numpy.fft.fftfreq(height)[:, None]
    frequency = numpy.hypot(across, down)
    frequency[0, 0] = 1.0
    phase = numpy.random.default_rng(7).uniform(0, 2 * numpy.pi, frequency.shape)
    spectrum = numpy.exp(1j * phase) / frequency * numpy.exp(-2 * (numpy.pi * blur * frequency) ** 2)
    spectrum[0, 0] = 0.0
    picture = numpy.fft.irfft2(spectrum, (height, width))
    return numpy.roll((picture / picture.std() * 35 + 120).clip(16, 235).round().astype("uint8"), shift, axis=1)


def watched(frames: Iterable[numpy.ndarray], *chroma: numpy.ndarray) -> Watch:
    watch = Watch()
    for frame in frames:
        watch.see(frame, *(chroma or (GREY, GREY)))
    return watch


def judged(frames: Iterable[numpy.ndarray], *chroma: numpy.ndarray) -> Quality:
    return judge(watched(frames, *chroma), ASKED, ASKED)


def refused(frames: Iterable[numpy.ndarray], *chroma: numpy.ndarray, found: Shape | None = ASKED) -> str:
    with pytest.raises(BadOutput) as caught:
        judge(watched(frames, *chroma), ASKED, found)
    assert (caught.value.code, caught.value.retryable) == ("bad_output", False)
    return caught.value.message


def plain(luma: int, count: int = 8) -> list[numpy.ndarray]:
    return [numpy.full((192, 320), luma, "uint8") for _ in range(count)]


MOVING = [natural(shift=2 * index) for index in range(8)]


def test_a_sharp_steady_moving_picture_is_worth_one() -> None:
    found = judged(MOVING)
    assert found.score == 1.0
    assert found.checks == dict.fromkeys(
        ("decodable", "size", "frame_count", "frame_rate", "finite", "not_black", "not_flat", "not_frozen"), True
    )
    assert found.measures.luma == pytest.approx((120 - 16) * 255 / 219, abs=2)
    assert found.measures.contrast == pytest.approx(35 * 255 / 219, rel=0.1)
    assert found.measures.frozen_share == 0.0
    assert found.measures.flicker is not None
    assert found.measures.flicker < 0.002


def test_all_black_is_no_video() -> None:
    assert refused(plain(16)) == "The generated video is broken: every frame is black."
    dark = [frame + NOISE.integers(0, 8, frame.shape, "uint8") for frame in plain(16)]
    assert "every frame is black" in refused(dark), "levels that no display shows"


def test_one_flat_colour_is_no_video() -> None:
    assert "one flat colour" in refused(plain(120))
    assert "one flat colour" in refused([plain(luma, 1)[0] for luma in range(40, 200, 20)]), "though it changes"


def test_a_small_light_in_the_dark_is_a_picture() -> None:
    """Smaller than the distance of the sampled pixels."""
    frames = plain(16)
    frames[5][101, 3] = 200
    assert judged(frames).checks["not_black"]


def test_black_frames_among_others_are_a_picture() -> None:
    found = judged([*plain(16, 3), *MOVING[3:]])
    assert found.checks["not_black"]
    assert found.checks["not_flat"]


def test_colours_of_equal_luma_are_a_picture() -> None:
    split = GREY.copy()
    split[:, 80:] = 180
    assert judged(plain(120), split, GREY).checks["not_flat"]


def test_a_still_is_delivered_and_worth_nothing() -> None:
    found = judged([natural()] * 8)
    assert (found.score, found.checks["not_frozen"], found.measures.frozen_share) == (0.0, False, 1.0)


def test_frames_shown_twice_cost_their_share() -> None:
    found = judged([MOVING[index // 2 * 2] for index in range(8)])
    assert found.checks["not_frozen"]
    assert found.measures.frozen_share == pytest.approx(4 / 7, abs=1e-4)
    assert found.score == pytest.approx(3 / 7, abs=0.01)


def test_decoder_noise_does_not_hide_a_still() -> None:
    frames = [natural() + (NOISE.random((192, 320)) < 0.02).astype("uint8") for _ in range(8)]
    assert judged(frames).measures.frozen_share == 1.0, "one pixel in fifty by one step"
    frames = [natural() + (NOISE.random((192, 320)) < 0.3).astype("uint8") for _ in range(8)]
    assert judged(frames).measures.frozen_share == 0.0


def test_the_more_blur_the_lower_the_score() -> None:
    scores = [judged([natural(blur, 2 * index) for index in range(8)]).score for blur in (1.0, 1.5, 2.0, 3.0, 6.0)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 1.0
    assert 0.3 < scores[2] < 0.8
    assert scores[4] < 0.1


def test_sharpness_does_not_count_contrast() -> None:
    faint = [((frame.astype(float) - 120) / 4 + 120).round().astype("uint8") for frame in MOVING]
    assert judged(faint).measures.sharpness == pytest.approx(judged(MOVING).measures.sharpness, rel=0.1)


@pytest.mark.parametrize(("jump", "score"), [(0, 1.0), (2, 1.0), (12, 0.49), (30, 0.0)])
def test_frames_that_jump_in_brightness_cost(jump: int, score: float) -> None:
    frames = [
        (frame.astype(int) + jump * (index % 2)).clip(16, 235).astype("uint8") for index, frame in enumerate(MOVING)
    ]
    assert judged(frames).score == pytest.approx(score, abs=0.03)


def test_a_fade_is_no_flicker() -> None:
    faded = [(frame * (1 - index / 10)).clip(16, 235).astype("uint8") for index, frame in enumerate(MOVING)]
    flicker = judged(faded).measures.flicker
    assert flicker is not None
    assert flicker < 0.005


def test_one_frame_has_neither_motion_nor_flicker() -> None:
    asked = Shape(320, 192, 1, 16)
    found = judge(watched(MOVING[:1]), asked, asked)
    assert (found.score, found.measures.frozen_share, found.measures.flicker) == (1.0, None, None)
    assert found.checks["not_frozen"], "nothing was seen to stand still"


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (None, "the file cannot be played"),
        (Shape(320, 176, 8, 16), "320x176 instead of 320x192"),
        (Shape(320, 192, 7, 16), "7 frames instead of 8"),
        (Shape(320, 192, 8, 25), "25 frames a second instead of 16"),
        (Shape(320, 176, 9, 16), "320x176 instead of 320x192, 9 frames instead of 8"),
    ],
)
def test_a_file_that_differs_from_the_request(found: Shape | None, fault: str) -> None:
    assert refused(MOVING, found=found) == f"The generated video is broken: {fault}."
