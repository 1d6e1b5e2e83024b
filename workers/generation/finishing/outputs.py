"""Write a generation's files: the video, a thumbnail, a contact sheet, the manifest and the frames that its flow needs,
each completely or not at all.

A file is written under a temporary name, flushed to disk and renamed; the same frames give the same bytes. Frames are
arrays; this module must not depend on models.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from shared.catalogue.job_types import Frame, frame_file
from shared.storage.disk import full_disk_as_store_full, sync_file, sync_folder
from wanworks.requests import OutputFormat
from workers.generation.context import Artifact

CONTENT_TYPES: Mapping[str, str] = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".png": "image/png",
}
THUMBNAIL_PIXELS = 320  # the longer edge, at most; a contact sheet's cells too
SHEET_CELLS = 9

_BT709 = 1  # for matrix, primaries and transfer alike (ITU-T H.273)
_THREADS = 4  # fixed, because an encoder's bytes depend on the number of threads

_CODECS: Mapping[OutputFormat, tuple[str, dict[str, str], dict[str, str]]] = {
    # codec, its options, the container's
    "mp4": (
        "libx264",
        # Without cpu-independent, x264's rate control differs in the last bits from run to run on the same machine.
        {"preset": "veryfast", "crf": "18", "x264-params": "cpu-independent=1"},
        {"movflags": "+faststart", "fflags": "+bitexact"},
    ),
    "webm": (
        "libvpx-vp9",
        {"deadline": "realtime", "cpu-used": "8", "crf": "24", "row-mt": "1"},
        {"fflags": "+bitexact"},
    ),
}


def write(
    folder: Path,
    frames: Sequence[numpy.ndarray],
    fps: int,
    output_format: OutputFormat,
    manifest: Mapping[str, Any],
    check: Callable[[], None] = lambda: None,
    watch: Callable[..., None] = lambda *_planes: None,
    keep: Sequence[Frame] = (),
) -> tuple[Artifact, ...]:
    """Write all of a generation's files into `folder`. `keep`: frames that are kept without loss, as PNG.

    `frames` are (height, width, 3) uint8, all of one size, with even edges (4:2:0 has no odd ones). `check` is called
    between frames and may raise; then, as after any failure, no file is left. `watch` receives each frame as the
    encoder takes it: its planes (Y, U, V) of uint8 in the video range. Raises StoreFull if the disk is full.
    """
    made: list[Artifact] = []
    with full_disk_as_store_full():
        try:
            made.append(_video(folder / f"video.{output_format}", frames, fps, output_format, check, watch))
            made.append(_picture(folder / "thumbnail.jpg", "thumbnail", thumbnail(frames)))
            made.append(_picture(folder / "contact-sheet.jpg", "contact_sheet", contact_sheet(frames)))
            made.append(_bytes(folder / "manifest.json", "manifest", _json(manifest)))
            made += [_frame(folder / frame_file(frame), frames, frame) for frame in keep if _exists(frames, frame)]
            sync_folder(folder)
        except BaseException:
            for artifact in made:
                (folder / artifact.name).unlink(missing_ok=True)
            raise
    return tuple(made)


def thumbnail(frames: Sequence[numpy.ndarray]) -> Image.Image:
    """Return the middle frame, scaled down."""
    return _small(frames[len(frames) // 2])


def contact_sheet(frames: Sequence[numpy.ndarray]) -> Image.Image:
    """Return up to nine frames in one image, evenly spread from the first to the last, in reading order."""
    count = min(SHEET_CELLS, len(frames))
    chosen = [frames[round(index * (len(frames) - 1) / max(1, count - 1))] for index in range(count)]
    cells = [_small(frame) for frame in chosen]
    columns = math.ceil(math.sqrt(count))
    width, height = cells[0].size
    sheet = Image.new("RGB", (columns * width, math.ceil(count / columns) * height))
    for index, cell in enumerate(cells):
        sheet.paste(cell, (index % columns * width, index // columns * height))
    return sheet


def _small(frame: numpy.ndarray) -> Image.Image:
    image = Image.fromarray(frame)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.BOX)
    return image


def _video(
    path: Path,
    frames: Sequence[numpy.ndarray],
    fps: int,
    output_format: OutputFormat,
    check: Callable[[], None],
    watch: Callable[..., None],
) -> Artifact:
    with _whole(path) as temporary:
        _encode(temporary, frames, fps, output_format, check, watch)
    with path.open("rb") as stream:  # faststart rewrites the file at the end, so hash it afterwards
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Artifact(path.name, "video", path.stat().st_size, digest, CONTENT_TYPES[path.suffix])


def _encode(
    path: Path,
    frames: Sequence[numpy.ndarray],
    fps: int,
    output_format: OutputFormat,
    check: Callable[[], None],
    watch: Callable[..., None],
) -> None:
    codec, options, container_options = _CODECS[output_format]
    height, width, _ = frames[0].shape
    with av.open(str(path), "w", format=output_format, options=container_options) as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.thread_count = _THREADS
        context.flags |= av.codec.context.Flags.bitexact
        context.bit_rate = 0
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        for index, pixels in enumerate(frames):
            check()
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            frame.pts = index
            frame.time_base = Fraction(1, fps)
            watch(*(_pixels(plane) for plane in frame.planes))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _pixels(plane: "av.video.plane.VideoPlane") -> numpy.ndarray:
    """Return a plane without its line padding; it is valid only as long as its frame."""
    lines: numpy.ndarray = numpy.frombuffer(plane, numpy.uint8)  # type: ignore[call-overload]
    return lines.reshape(plane.height, plane.line_size)[:, : plane.width]


def _picture(path: Path, kind: str, image: Image.Image) -> Artifact:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return _bytes(path, kind, buffer.getvalue())


def _frame(path: Path, frames: Sequence[numpy.ndarray], frame: Frame) -> Artifact:
    index = {"first": 0, "last": len(frames) - 1}.get(str(frame), frame)
    assert isinstance(index, int)
    buffer = BytesIO()
    Image.fromarray(numpy.ascontiguousarray(frames[index])).save(buffer, "PNG", compress_level=1)
    return _bytes(path, "frame", buffer.getvalue())


def _exists(frames: Sequence[numpy.ndarray], frame: Frame) -> bool:
    """Return whether the video has the frame: a fallback at a retry may have shortened it."""
    return not isinstance(frame, int) or frame < len(frames)


def _bytes(path: Path, kind: str, content: bytes) -> Artifact:
    with _whole(path) as temporary:
        temporary.write_bytes(content)
    return Artifact(path.name, kind, len(content), hashlib.sha256(content).hexdigest(), CONTENT_TYPES[path.suffix])


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name; the file gets its own name once it is complete and on disk."""
    temporary = path.with_name(f".{path.name}.writing")
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
