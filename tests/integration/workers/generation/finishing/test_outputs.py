"""The output files of a job: exact, deterministic, complete or absent."""

import errno
import hashlib
import json
import os
from pathlib import Path

import numpy
import pytest
from PIL import Image

from shared.catalogue.job_types import GenerationParams
from shared.errors import Cancelled, StoreFull
from tests.support.models.generating import decoded
from workers.generation.context import Artifact
from workers.generation.finishing import outputs, playback
from workers.generation.frames import placeholder


def moving(width: int, height: int, count: int) -> list[numpy.ndarray]:
    """Changing coloured fields, so that frames are distinguishable."""
    row, column = numpy.mgrid[0:height, 0:width]
    across, down = column * 255 // width, row * 255 // height
    blues = (numpy.full_like(row, 20 * index % 256) for index in range(count))
    return [numpy.stack([across, down, blue], axis=-1).astype("uint8") for blue in blues]


def write(folder: Path, frames: list[numpy.ndarray], output_format: str = "mp4", fps: int = 16) -> dict[str, Artifact]:
    folder.mkdir(exist_ok=True)
    made = outputs.write(folder, frames, fps, output_format, {"mock": False})  # type: ignore[arg-type]
    return {artifact.kind: artifact for artifact in made}


@pytest.mark.parametrize("output_format", ["mp4", "webm"])
@pytest.mark.parametrize(("width", "height", "count", "fps"), [(854, 480, 8, 24), (64, 64, 1, 8), (480, 854, 5, 12)])
def test_a_player_sees_exactly_the_size_length_and_rate(
    tmp_path: Path, output_format: str, width: int, height: int, count: int, fps: int
) -> None:
    frames = moving(width, height, count)
    artifact = write(tmp_path, frames, output_format, fps)["video"]
    video = decoded(tmp_path / artifact.name)
    assert (video.width, video.height, len(video.frames), video.fps) == (width, height, count, fps)
    assert video.pixel_format == "yuv420p"
    assert artifact.content_type == f"video/{output_format}"
    for shown, made in zip(video.frames, frames, strict=True):
        assert numpy.abs(shown.astype(int) - made).mean() < 6


@pytest.mark.parametrize("output_format", ["mp4", "webm"])
@pytest.mark.parametrize("fps", [*range(1, 31), 48, 50, 60])
def test_every_rate_is_found_again(tmp_path: Path, output_format: str, fps: int) -> None:
    artifact = write(tmp_path, moving(64, 64, 9), output_format, fps)["video"]
    found = playback.play(tmp_path / artifact.name)
    assert found is not None
    assert (found.width, found.height, found.frames) == (64, 64, 9)
    assert found.fps == pytest.approx(fps, rel=1e-3)


@pytest.mark.parametrize("output_format", ["mp4", "webm"])
def test_a_file_that_does_not_play_to_its_end_is_found_out(tmp_path: Path, output_format: str) -> None:
    noise = numpy.random.default_rng(1)
    frames = [noise.integers(0, 255, (64, 64, 3), dtype="uint8") for _ in range(9)]
    path = tmp_path / write(tmp_path, frames, output_format)["video"].name
    whole = path.read_bytes()
    assert playback.play(path) is not None
    for content in (b"", b"no video", whole[:100], whole[: len(whole) * 3 // 4]):
        path.write_bytes(content)
        found = playback.play(path)
        assert found is None or found.frames < 9


@pytest.mark.parametrize("output_format", ["mp4", "webm"])
def test_a_watch_sees_each_frame_as_it_is_encoded(tmp_path: Path, output_format: str) -> None:
    seen: list[list[tuple[int, ...]]] = []
    levels: list[int] = []

    def watch(*planes: numpy.ndarray) -> None:
        seen.append([plane.shape for plane in planes])
        levels.append(int(planes[0][10, 10]))

    grey = [numpy.full((90, 150, 3), level, "uint8") for level in (0, 128, 255)]
    outputs.write(tmp_path, grey, 8, output_format, {}, watch=watch)  # type: ignore[arg-type]
    assert seen == [[(90, 150), (45, 75), (45, 75)]] * 3
    assert levels == [16, 126, 235]


@pytest.mark.parametrize("output_format", ["mp4", "webm"])
def test_the_same_frames_give_the_same_bytes(tmp_path: Path, output_format: str) -> None:
    made = [write(tmp_path / str(turn), moving(96, 64, 17), output_format) for turn in range(20)]
    assert all(one == made[0] for one in made)


def test_an_mp4_can_be_played_before_it_is_whole(tmp_path: Path) -> None:
    write(tmp_path, moving(96, 64, 9))
    content = (tmp_path / "video.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_pictures_beside_the_video(tmp_path: Path) -> None:
    made = write(tmp_path, moving(854, 480, 10))
    with Image.open(tmp_path / made["thumbnail"].name) as picture:
        assert picture.format == "JPEG"
        assert picture.size == (320, 180)
    with Image.open(tmp_path / made["contact_sheet"].name) as sheet:
        assert sheet.size == (960, 540)
        cells = numpy.asarray(sheet.convert("RGB"))[:, :, 2]
    blues = [int(cells[row * 180 + 90, column * 320 + 160]) for row in range(3) for column in range(3)]
    assert blues == sorted(blues)
    assert blues[-1] - blues[0] > 150


def test_artifacts_describe_the_files(tmp_path: Path) -> None:
    for artifact in write(tmp_path, moving(64, 64, 3)).values():
        content = (tmp_path / artifact.name).read_bytes()
        assert (artifact.bytes, artifact.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"mock": False}


def test_a_stop_between_frames_leaves_nothing(tmp_path: Path) -> None:
    calls = iter(range(100))

    def check() -> None:
        if next(calls) == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        outputs.write(tmp_path, moving(64, 64, 9), 8, "mp4", {}, check)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "after"), [(errno.ENOSPC, 0), (errno.EDQUOT, 0), (errno.ENOSPC, 3)])
def test_a_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, after: int
) -> None:
    calls = iter(range(10))

    def full(_descriptor: int) -> None:
        if next(calls) >= after:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFull):
        outputs.write(tmp_path, moving(64, 64, 3), 8, "mp4", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("output_format", ["mp4", "webm"])
def test_a_disk_that_fills_up_while_the_video_is_written(tmp_path: Path, output_format: str) -> None:
    """A limit on file size simulates a full disk: a write returns an error."""
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    noise = numpy.random.default_rng(1)
    frames = [noise.integers(0, 255, (256, 256, 3), dtype="uint8") for _ in range(9)]
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        with pytest.raises(StoreFull):
            outputs.write(tmp_path, frames, 8, output_format, {})  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.iterdir())


def params(prompt: str, width: int = 256, height: int = 144, frames: int = 8) -> GenerationParams:
    return GenerationParams(
        model_id="T2V-A14B", prompt=prompt, width=width, height=height, frames=frames, fps=8, output_format="mp4",
        steps=4, guidance_scale=4.0, flow_shift=12.0, seed=1, quantization="none",
    )  # fmt: skip


def test_the_test_card_differs_from_frame_to_frame_and_by_prompt_only() -> None:
    first = [frame.tobytes() for frame in placeholder.frames(params("a cat"))]
    assert len(first) == len(set(first)) == 8
    assert first == [frame.tobytes() for frame in placeholder.frames(params("a cat"))]
    assert first != [frame.tobytes() for frame in placeholder.frames(params("a dog"))]


@pytest.mark.parametrize(
    "prompt",
    [
        "<script>alert(1)</script> %s %n {0} $(reboot) `id`",
        "line\nbreak\ttab\r\x07bell \u202egnihtemos \u0000",
        "W" * 5000,
        "\U0001f600 猫が月の上で 猫" * 50,
    ],
)
@pytest.mark.parametrize(("width", "height"), [(64, 64), (1920, 1080)])
def test_any_text_is_drawn_as_text(prompt: str, width: int, height: int) -> None:
    card = next(iter(placeholder.frames(params(prompt, width, height, frames=1))))
    assert card.shape == (height, width, 3)
    assert card.std() > 20


def test_frames_that_are_kept_have_exactly_the_pixels_that_were_made(tmp_path: Path) -> None:
    frames = moving(96, 64, 9)
    made = outputs.write(tmp_path, frames, 16, "mp4", {}, keep=("first", "last", 4, 9))
    kept = {artifact.name: artifact for artifact in made if artifact.kind == "frame"}
    assert list(kept) == ["frame-first.png", "frame-last.png", "frame-4.png"], "a tenth frame does not exist"
    for name, index in (("frame-first.png", 0), ("frame-last.png", 8), ("frame-4.png", 4)):
        content = (tmp_path / name).read_bytes()
        assert numpy.array_equal(numpy.asarray(Image.open(tmp_path / name)), frames[index])
        assert (kept[name].sha256, kept[name].bytes) == (hashlib.sha256(content).hexdigest(), len(content))
        assert kept[name].content_type == "image/png"
