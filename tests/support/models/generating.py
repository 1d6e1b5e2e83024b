"""Shared by tests of generation: the demo models, and one call that runs a request and reads the file."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy
from PIL import Image

from shared import settings
from shared.catalogue import models
from shared.catalogue.job_types import LoraFile
from shared.catalogue.models import CatalogueEntry
from shared.catalogue.resolving import resolve
from shared.models import replicas
from wanworks.requests import GenerationRequest
from workers.generation import demo_models, run
from workers.generation.context import GenerationContext, Outcome, Report
from workers.generation.finishing import files
from workers.generation.frames.previews import Cells
from workers.generation.seats import Member

CATALOGUE = models.load("demo")


@cache
def snapshots() -> dict[str, Path]:
    """Return the demo models, created once per test process."""
    folder = tempfile.TemporaryDirectory(prefix="wanworks-models-")
    _kept.append(folder)
    return demo_models.make(Path(folder.name))


_kept: list[tempfile.TemporaryDirectory[str]] = []


@dataclass(frozen=True)
class Made:
    outcome: Outcome
    folder: Path

    @property
    def video(self) -> Path:
        return self.folder / self.outcome.artifacts[0].name

    @property
    def sha256(self) -> str:
        return self.outcome.artifacts[0].sha256


class Studio:
    """Return a worker's settings in its own folder."""

    def __init__(self, home: Path, **chosen: Any) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self.settings = settings.load(home=home, **chosen)
        self.settings.loras_dir.mkdir(parents=True, exist_ok=True)
        self.count = 0

    def generate(
        self,
        model_id: str,
        image: Path | None = None,
        last_image: Path | None = None,
        report: Report = lambda *_: None,
        check: Callable[[], None] = lambda: None,
        mock: bool = False,
        snapshot: Path | None = None,
        entry: CatalogueEntry | None = None,
        gang: tuple[Member, ...] = (),
        keep_frames: Callable[[Sequence[numpy.ndarray]], None] | None = None,
        lora_files: Sequence[Mapping[str, Any]] = (),
        lora_paths: Mapping[str, Path] | None = None,
        on_preview: Callable[[Cells], None] | None = None,
        preview_failed: Callable[[], None] = lambda: None,
        **request: Any,
    ) -> Made:
        entry = entry or CATALOGUE.get(model_id)
        asked = {"resolution": "64x64", "frames": 9, "steps": 2, "seed": 7, "prompt": "a cat on the moon", **request}
        wanted = GenerationRequest(model_id=model_id, **asked)
        size = Image.open(image).size if image else None
        params = resolve(
            wanted, entry, "input" if image else None, last_image="last" if last_image else None, picture=size
        )
        if lora_files:
            params = params.model_copy(update={"lora_files": tuple(map(LoraFile.model_validate, lora_files))})
        self.count += 1
        folder = self.home / f"out-{self.count}"
        folder.mkdir()
        if snapshot is None and not mock:
            snapshot = snapshots()[entry.weights_id]
        lora = None
        if entry.lora is not None:
            lora = replicas.lora_dir(snapshots()[entry.weights_id].parents[2], entry)
        context = GenerationContext(
            "job", 1, params, entry, self.settings, mock, snapshot, image, folder, report, check,
            last_image=last_image, lora_snapshot=lora, lora_paths=lora_paths or {}, gang=gang,
            on_preview=on_preview, preview_failed=preview_failed,
        )  # fmt: skip
        made, frames = run.decode(context)
        if keep_frames is not None:
            keep_frames(frames)
        return Made(files.finish(made, frames, folder, check, report), folder)

    def picture(self, width: int = 100, height: int = 70) -> Path:
        path = self.home / f"input-{width}x{height}.png"
        red, green = numpy.mgrid[0 : 256 : height * 1j, 0 : 256 : width * 1j]
        pixels = numpy.stack([red, green, 255 - red], axis=-1).clip(0, 255).astype("uint8")
        Image.fromarray(pixels).save(path)
        return path


@dataclass(frozen=True)
class Video:
    width: int
    height: int
    frames: list[numpy.ndarray]
    fps: float
    codec: str
    pixel_format: str


def decoded(path: Path) -> Video:
    """A video file as a player reads it."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        context = stream.codec_context
        assert stream.average_rate is not None
        return Video(
            context.width, context.height, frames, float(stream.average_rate), context.name, context.pix_fmt or ""
        )
