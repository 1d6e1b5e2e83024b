"""What a handler is given and what it gives back. A handler knows no database, no Redis and no Celery."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from shared.catalogue.job_types import GenerationParams
from shared.catalogue.models import CatalogueEntry
from shared.settings import Settings
from shared.states import Phase
from workers.generation.quality import Quality


class Report(Protocol):
    """Tells the world where the attempt is. Cheap (well under 1 ms) and never raises on a missing Redis.

    Every call is also a sign of life: the phase's time limit counts from the last one.
    """

    def __call__(self, phase: Phase, step: int | None = None, steps: int | None = None) -> None: ...


@dataclass(frozen=True)
class GenerationContext:
    """One attempt at one generation."""

    job_id: str
    attempt: int
    params: GenerationParams
    entry: CatalogueEntry
    settings: Settings
    mock: bool  # make the labelled test card, load no model
    snapshot: Path | None  # folder of the model's files on this node; None only where mock
    image: Path | None  # the stored input image, already decoded once and turned upright by the API
    output_dir: Path  # exists, empty, this attempt's own
    report: Report
    check: Callable[[], None]  # raises Cancelled, Fenced or Draining; call it wherever stopping is possible


@dataclass(frozen=True)
class Artifact:
    """A file that the job made, lying in `output_dir`, written whole and fsynced."""

    name: str
    kind: str  # video, thumbnail, contact_sheet, manifest
    bytes: int
    sha256: str
    content_type: str


@dataclass(frozen=True)
class Outcome:
    """What a generation made, all of it measured."""

    artifacts: tuple[Artifact, ...]
    width: int
    height: int
    frames: int
    fps: int
    seed: int
    timings: dict[str, float]  # seconds by phase name (Phase values); phases that did not run are absent
    warm: bool  # the model was loaded already
    profile: str | None  # the memory profile that it ran under; None for a mock
    peak_vram_mb: float | None  # None where the device does not measure it
    quality: Quality  # technical, of the frames and the file
    manifest: dict[str, Any] = field(default_factory=dict)
    loras: tuple[dict[str, Any], ...] = ()  # for each file and expert: how many keys applied, and which did not
    prompt_tokens: dict[str, Any] | None = None  # of both prompts: tokens, limit, cut; None for a mock
    notes: tuple[str, ...] = ()  # for people: a leaner profile after running out of memory, and the like
